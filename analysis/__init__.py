"""What happens inside a model: similarity, grounding, padding, linkage."""

__part_of__ = "agevlm"
