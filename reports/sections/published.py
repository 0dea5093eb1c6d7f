"""Published results, where they may stand beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from reports.baselines.parts import published_section
from reports.document import Section
from reports.opened import Run


def section(runs: Sequence[Run]) -> Section | None:
    """Tables of published and measured figures; why there are none; None without runs of POPE or CV-Bench.

    Raises:
        DataError: a run's scores are not as that kind of run writes them.
    """
    return published_section(runs)
