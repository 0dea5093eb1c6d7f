"""What padding does to attention and to answers: `agevlm-eval padding`."""
