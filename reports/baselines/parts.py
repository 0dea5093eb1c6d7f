"""Groups of published and measured figures as a part of a page."""

from __future__ import annotations

from collections.abc import Sequence

from reports.baselines.beside import Beside
from reports.baselines.measured import LeftOut
from reports.baselines.tables import table
from reports.document import Section

TITLE = "Published results of other models"


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
