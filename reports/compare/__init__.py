"""`agevlm-eval compare`: runs of one benchmark against the first of them, paired by question."""
