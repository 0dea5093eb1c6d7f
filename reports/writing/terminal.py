"""A report's tables on a terminal. What models and data files wrote is printed inert: no markup, no escapes."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from benchmarks.tables import empty_table
from reports.document import Cell, Table
from reports.runs.files import printable

NARROWEST = 11
"""Columns that a text keeps, however narrow the terminal."""


def terminal_table(table: Table, *, inline: bool = False) -> RichTable:
    """The same title, cells and notes, limits below their values or, `inline`, behind them."""
    made = empty_table("", "")
    made.columns.clear()
    made.title = Text(printable(table.title))
    for column in table.columns:
        made.add_column(Text(printable(column.name)), justify="right" if column.numeric else "left", no_wrap=True)
    for row in table.rows:
        made.add_row(*(Text(printable(str(cell))) if inline else _cell(cell) for cell in row))
    made.caption = Text("\n".join(printable(note) for note in table.notes))
    return made


def fitted(made: RichTable, console: Console, columns: int) -> RichTable:
    """A table no wider than `columns`, as far as folding its texts can make it so; numbers are never cut."""
    texts = [column for column in made.columns if column.justify != "right"]
    widest = console.measure(made).maximum
    if widest > columns:
        for column in texts:
            column.no_wrap, column.overflow, column.max_width = False, "fold", NARROWEST
        made.width = max(console.measure(made).maximum, columns)
        for column in texts:
            column.max_width = None
    return made


def _cell(cell: Cell) -> Text:
    text = Text(printable(cell.text))
    if cell.limits is not None:
        text.append(f"\n{printable(cell.limits[0])} … {printable(cell.limits[1])}", style="dim")
    return text
