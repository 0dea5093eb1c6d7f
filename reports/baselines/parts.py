"""Published results beside measured ones as a part of a report."""

from __future__ import annotations

from collections.abc import Sequence

from reports.baselines.beside import Beside, arrange
from reports.baselines.measured import LeftOut, measured
from reports.baselines.tables import table
from reports.document import Section
from reports.opened import Run
from reports.published import load
from reports.runs.headline import FIELD

TITLE = "Published results of other models"
ALONE = "agevlm-eval baselines lists the published results alone."


def published_section(runs: Sequence[Run]) -> Section | None:
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


def section_of(groups: Sequence[Beside], text: Sequence[str]) -> Section:
    """A part with a table for each group."""
    lead = [
        "A figure stands in a table only beside others of its metric, and a published one beside a measured one only "
        "if the questions are the same, as far as its source says."
    ]
    return Section("published", TITLE, [*(lead if groups else []), *text], [table(group) for group in groups])


def left_out_text(left_out: Sequence[LeftOut]) -> list[str]:
    """A sentence for each reason, with the runs and questions that it holds for."""
    text = []
    for why in dict.fromkeys(one.why for one in left_out):
        own = [one for one in left_out if one.why == why]
        versions = ", ".join(dict.fromkeys(one.data_version for one in own if one.data_version))
        labels = ", ".join(dict.fromkeys(one.label for one in own))
        text.append(f"No published figure stands beside {labels}{f' on {versions}' if versions else ''}: {why}.")
    return text
