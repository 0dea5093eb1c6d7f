"""AGE-VLM from nothing in the rendered world: its pictures as training data, and what stands in for pretraining."""
