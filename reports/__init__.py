"""What people look at: tables, figures, HTML, and the demo that uses all rooms."""

__part_of__ = "agevlm"
