"""Tables as CSV and Markdown."""

from __future__ import annotations

import csv
import io
import re

from reports.document import NONE, Table
from reports.writing.visible import visible

_MARKUP = re.compile(r"([\\`*_\[\]~$|!#])")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_SIGNED = re.compile(r"[+-][0-9]+(\.[0-9]+)?%?")


def csv_text(table: Table) -> str:
    """One line of headings, then the rows, for pandas and spreadsheets.

    Digits are those of the other forms. A column with limits in any row has two more, `NAME low` and `NAME high`.
    In numeric columns there is nothing where the others print a dash, and no comma between thousands. A text that a
    spreadsheet would take for a formula, and is no number, has a `'` before it.
    """
    limited = [any(row[place].limits for row in table.rows) for place in range(len(table.columns))]
    heads: list[str] = []
    for column, both in zip(table.columns, limited, strict=True):
        name = _inert(visible(column.name))
        heads += [name, f"{name} low", f"{name} high"] if both else [name]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(heads)
    for row in table.rows:
        cells: list[str] = []
        for cell, column, both in zip(row, table.columns, limited, strict=True):
            form = _bare if column.numeric else _inert
            cells.append(form(visible(cell.text)))
            if both:
                cells += map(_bare, map(visible, cell.limits)) if cell.limits else ("", "")
        writer.writerow(cells)
    return out.getvalue()


def markdown(table: Table, level: int = 0) -> str:
    """A table as GitHub and pandoc read it, with its title above and its notes below.

    Args:
        table: to write.
        level: of the title as a heading; 0: in bold.
    """
    title = markdown_text(visible(table.title).strip())
    parts = [f"{'#' * level} {title}" if level else f"**{title}**", ""]
    parts.append(_line([markdown_text(visible(column.name)) for column in table.columns]))
    parts.append(_line(["---:" if column.numeric else ":---" for column in table.columns]))
    for row in table.rows:
        cells = []
        for cell in row:
            limits = f" [{', '.join(markdown_text(visible(end)) for end in cell.limits)}]" if cell.limits else ""
            cells.append(markdown_text(visible(cell.text)) + limits)
        parts.append(_line(cells))
    for note in table.notes:
        parts += ["", markdown_text(visible(note).strip())]
    return "\n".join(parts) + "\n"


def markdown_text(text: str) -> str:
    """A text with nothing in it that is markup, in one line."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _MARKUP.sub(r"\\\1", text)
    # Nor at its start: a list, a rule, a heading's underline.
    text = re.sub(r"^([-+=])(?!\d)", r"\\\1", text)
    return re.sub(r"^(\d+)([.)])(?!\d)", r"\1\\\2", text)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _bare(text: str) -> str:
    if text == NONE:
        return ""
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else _inert(text)


def _inert(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) and not _SIGNED.fullmatch(text) else text
