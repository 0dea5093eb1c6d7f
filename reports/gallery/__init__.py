"""Questions to browse in a report: which, with which pictures and overlays."""
