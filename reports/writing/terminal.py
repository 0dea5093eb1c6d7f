"""A report's tables on a terminal. What models and data files wrote is printed inert: no markup, no escapes."""

from __future__ import annotations

from rich.table import Table as RichTable
from rich.text import Text

from benchmarks.tables import empty_table
from reports.document import Cell, Table
from reports.runs.files import printable


def terminal_table(table: Table) -> RichTable:
    """The same title, cells and notes, limits below their values."""
    made = empty_table("", "")
    made.columns.clear()
    made.title = Text(printable(table.title))
    for column in table.columns:
        made.add_column(Text(printable(column.name)), justify="right" if column.numeric else "left", no_wrap=True)
    for row in table.rows:
        made.add_row(*map(_cell, row))
    made.caption = Text("\n".join(printable(note) for note in table.notes))
    return made


def _cell(cell: Cell) -> Text:
    text = Text(printable(cell.text))
    if cell.limits is not None:
        text.append(f"\n{printable(cell.limits[0])} … {printable(cell.limits[1])}", style="dim")
    return text
