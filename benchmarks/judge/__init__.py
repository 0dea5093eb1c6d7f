"""A language model that says which option a free answer names. It never sees the right answer."""
