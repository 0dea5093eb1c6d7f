"""The gallery of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reports.document import Gallery
from reports.opened import Run


@dataclass(frozen=True)
class Wanted:
    """What a gallery is to hold."""

    images: Path | None = None
    """Where image files are; None: where the run's manifest says."""
    pictures: bool = True
    most_bytes: int = 11_000_000
    """Of pictures and overlays together, as they are before they become text."""
    seed: int = 0


def gallery_of(runs: Sequence[Run], wanted: Wanted) -> Gallery | None:
    """The questions of all runs that have any, the worst first; None where no run has."""
    return None
