"""Run folders as a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from rich.table import Table
from rich.text import Text

from benchmarks.tables import empty_table
from reports.runs.files import printable
from reports.runs.headline import Headline
from reports.runs.listing import Listed, State

STYLES = {
    State.COMPLETE: "green",
    State.RESUMABLE: "yellow",
    State.UNSCORED: "yellow",
    State.IN_USE: "cyan",
    State.FAILED: "red",
    State.DAMAGED: "red",
    State.NEWER: "red",
}
AGES = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
DETAIL_WIDTH = 60


def runs_table(found: Sequence[Listed], root: Path, now: datetime) -> Table:
    """One row for each run; names that others chose are shown as they are, and do nothing to the terminal."""
    table = empty_table("Runs", "run", "of", "model", "data", "state", "headline", "age")
    for column in table.columns[:-1]:
        column.justify = "left"
    table.columns[4].no_wrap, table.columns[4].max_width, table.columns[4].overflow = False, DETAIL_WIDTH, "fold"
    for run in found:
        state = Text(run.state, style=STYLES[run.state])
        if run.detail:
            state.append(f"\n{printable(run.detail)}", style="dim")
        table.add_row(
            Text(printable(str(run.path if run.path == root else run.path.relative_to(root)))),
            Text(printable(run.benchmark) or "–"),
            _lines(run.models),
            _lines(run.data),
            state,
            _headline(run.headlines),
            Text(age(run.age(now))),
        )
    table.caption = Text("age: since the last launch began · [95% intervals]; accuracy and F1 in per cent")
    return table


def age(seconds: float | None) -> str:
    """A time span in its largest unit, cut to a whole number; a dash where unknown."""
    if seconds is None:
        return "–"
    for length, unit in AGES:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "now"


def _lines(texts: Iterable[str]) -> Text:
    return Text("\n".join(map(printable, texts)) or "–")


def _headline(found: Sequence[Headline]) -> Text:
    """What belongs to one model in one line; its name only where there are several."""
    by_model: dict[str, list[str]] = {}
    for one in found:
        by_model.setdefault(one.about, []).append(str(one))
    return _lines(
        f"{model}: {', '.join(own)}" if len(by_model) > 1 else ", ".join(own) for model, own in by_model.items()
    )
