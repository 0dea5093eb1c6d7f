"""When a result is doubtful, and the exit code that says so."""

from __future__ import annotations

HIGH_UNPARSED = 0.2
"""Share of unreadable answers above which a warning is due."""
FEW_IMAGES = 20
"""Images below which the intervals' own coverage is in doubt (simulated down to 24)."""
ANSWERS_MISSING = 3
"""Exit code where not every question has an answer."""
