"""What tables of scores have in common."""

from __future__ import annotations

import math

from rich import box
from rich.table import Table

from benchmarks.statistics.clusters import Interval

LONGEST_ANSWER = 200
ANSWER_WIDTH = 110
"""Columns of the one table whose text can be long."""
HEADLINE_MARK = "\u00a0◂"
"""Stands by the row in which a protocol's own headline number is."""


def percent(interval: Interval | None, *, sign: bool = False) -> str:
    """Value and 95% interval in per cent on two lines; a dash where undefined."""
    if interval is None or math.isnan(interval.value):
        return "–"
    plus = "+" if sign else ""
    value = f"{100 * interval.value:{plus}.1f}"
    if math.isnan(interval.low):
        return value
    dash = " … " if sign else "–"
    return f"{value}\n[dim]{100 * interval.low:{plus}.1f}{dash}{100 * interval.high:{plus}.1f}[/dim]"


def empty_table(title: str, first: str, *columns: str) -> Table:
    """An empty table whose first column is text and the others numbers."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption_justify="left")
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def answer_table(title: str) -> Table:
    """An empty table whose first column holds answers, folded where they are long."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), width=ANSWER_WIDTH)
    table.add_column("answer", overflow="fold", ratio=2)
    return table


def shortened(answer: str) -> str:
    """An answer as tables show it."""
    return answer if len(answer) <= LONGEST_ANSWER else answer[:LONGEST_ANSWER] + "…"
