"""Questions in, scored records out: POPE, its protocols and statistics, records and runs."""

__part_of__ = "agevlm"
