"""A `Report` as HTML, its tables as LaTeX, Markdown and CSV, its figures as PNG and SVG."""
