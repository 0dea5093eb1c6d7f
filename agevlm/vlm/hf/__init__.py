"""transformers checkpoints behind the Vlm contract."""
