"""Published results, where they may stand beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from reports.baselines.beside import arrange
from reports.baselines.measured import measured
from reports.baselines.parts import TITLE, left_out_text, section_of
from reports.document import Section
from reports.opened import Run
from reports.published import load
from reports.runs.headline import FIELD

ALONE = "agevlm-eval baselines lists the published results alone."


def section(runs: Sequence[Run]) -> Section | None:
    """Tables of published and measured figures; why there are none where nothing may be compared.

    Raises:
        DataError: a run's scores are not as that kind of run writes them.
    """
    mine = [run for run in runs if run.benchmark in FIELD]
    if not mine:
        return None
    found, left_out = measured(mine)
    groups = [group for group in arrange(found, load()) if group.measured and group.published]
    text = left_out_text(left_out)
    if not groups:
        if found:
            text.append("What was measured, nobody in our list publishes: no figure of the same metric and questions.")
        return Section("published", TITLE, ["None stands beside these runs.", *text, ALONE])
    return section_of(groups, text)
