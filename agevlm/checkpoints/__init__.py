"""Checkpoints that need no download."""
