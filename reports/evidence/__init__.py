"""`agevlm-eval report`: run folders in, one page and its tables and figures out."""
