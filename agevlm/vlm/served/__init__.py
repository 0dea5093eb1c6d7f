"""Models behind an OpenAI-compatible endpoint: a client for any of them, and the Vlm that speaks through it."""
