"""A look at run folders in the terminal: which there are, and what a model said in one of them."""
