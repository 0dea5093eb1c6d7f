"""Training data: samples, where they come from, their order, and the tensors made of them."""
