"""Attention against masks: `agevlm-eval grounding`."""
