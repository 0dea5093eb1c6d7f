"""Published results beside measured ones, and tables over training runs."""
