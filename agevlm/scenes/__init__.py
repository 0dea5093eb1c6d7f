"""The built-in rendered world: everyday pictures whose every pixel, box, depth and relation is known."""
