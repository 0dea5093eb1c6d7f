"""Tables as LaTeX: each alone, for a paper, and all in one document."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from reports.document import Cell, Column, Table
from reports.writing.latex_text import latex
from reports.writing.visible import visible

_NEEDS = r"\usepackage{array} \usepackage{booktabs} \usepackage{graphicx}"
_LONG = 44
"""Characters; a column with longer ones is set in lines."""
_HEADING = 9
"""Characters of a heading's line, at least."""
_PAGE = 30
"""Lines; a longer table runs over pages."""
_LINE = 34
"""Characters of a line of a column that is set in lines."""
_SIZES = ((150, r"\footnotesize"), (180, r"\scriptsize"), (10**9, r"\tiny"))
"""Of tables that run over pages: up to so many characters in a row."""
_SIGNED = re.compile(r"[+-](?=\d)")


def latex_table(table: Table) -> str:
    r"""A table environment to `\input`: caption and label above, notes below, limits set small.

    It is made narrower to fit the column where it is too wide for it. A table of more than 30 lines is a longtable
    instead, which runs over pages.
    """
    long = _lines(table) > _PAGE
    packages = _NEEDS + (r" \usepackage{longtable}, and a page of one column" if long else "")
    return f"% \\input this file; it needs: {packages}\n" + (_over_pages(table) if long else _on_one(table))


def latex_document(title: str, tables: Sequence[Table], warnings: Sequence[str] = ()) -> str:
    """A whole document with all tables, for pdflatex; warnings stand before them."""
    head = "\n".join(
        (
            r"\documentclass[10pt]{article}",
            r"\usepackage[a4paper,landscape,margin=1.5cm]{geometry}",
            # Without these fonts that encoding has no outlines.
            r"\IfFileExists{lmodern.sty}{\usepackage[T1]{fontenc}\usepackage{lmodern}}{}",
            *_NEEDS.split(),
            r"\usepackage{longtable}",
            r"\usepackage{caption}",
            r"\captionsetup{font=small,skip=4pt}",
            r"\setlength{\parindent}{0pt}",
            r"\emergencystretch=3em",
            r"\begin{document}",
            rf"{{\large\bfseries\raggedright {latex(visible(title))}\par}}\bigskip",
            *([r"{\bfseries Read this first\par}"] if warnings else []),
            *(rf"{{\raggedright {latex(visible(one))}\par}}\smallskip" for one in warnings),
        )
    )
    parts = []
    for table in tables:
        # In its place: a float waits for a page, and there are only so many that can wait.
        text = latex_table(table).split("\n", 1)[1]
        text = text.replace(r"\begin{table}", r"\noindent\begin{minipage}{\linewidth}\captionsetup{type=table}", 1)
        parts.append(text.replace(r"\end{table}", r"\end{minipage}", 1) + "\\par\\bigskip\n")
    return "\n\n".join((head, *parts, r"\end{document}")) + "\n"


def _lines(table: Table) -> int:
    """About how many it has."""
    wrapped = _wrapped(table)
    return sum(max((1, *(-(-len(str(row[place])) // _LINE) for place in wrapped))) for row in table.rows)


def _wrapped(table: Table) -> list[int]:
    """Places of the columns that are set in lines."""
    return [
        place for place, column in enumerate(table.columns) if not column.numeric and _longest(table, place) > _LONG
    ]


def _longest(table: Table, place: int) -> int:
    return max((len(str(row[place])) for row in table.rows), default=0)


def _on_one(table: Table) -> str:
    return "\n".join(
        (
            r"\begin{table}",
            r"\centering",
            _caption(table),
            r"\small",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{@{{}}{_columns(table)}@{{}}}}",
            r"\toprule",
            _head(table),
            r"\midrule",
            *(_cells(row, table.columns) for row in table.rows),
            r"\bottomrule",
            r"\end{tabular}}",
            *_notes(table),
            r"\end{table}",
            "",
        )
    )


def _over_pages(table: Table) -> str:
    widest = max(sum(len(str(cell)) + 2 for cell in row) for row in table.rows)
    size = next(name for most, name in _SIZES if widest <= most)
    return "\n".join(
        (
            rf"\begingroup{size}\setlength{{\tabcolsep}}{{3pt}}\setlength{{\LTpost}}{{0pt}}",
            rf"\begin{{longtable}}{{@{{}}{_columns(table)}@{{}}}}",
            _caption(table) + r"\\",
            r"\toprule",
            _head(table),
            r"\midrule",
            r"\endfirsthead",
            r"\toprule",
            _head(table),
            r"\midrule",
            r"\endhead",
            r"\bottomrule",
            r"\endlastfoot",
            *(_cells(row, table.columns) for row in table.rows),
            r"\end{longtable}",
            *_notes(table),
            r"\par\endgroup",
            "",
        )
    )


def _head(table: Table) -> str:
    """Headings in lines, no wider than their columns."""
    cells = []
    for place, column in enumerate(table.columns):
        width = max(_longest(table, place), _HEADING)
        lines = textwrap.wrap(visible(column.name), width, break_long_words=False, break_on_hyphens=False)
        text = r"\\".join("{}" * line.startswith(("[", "*")) + latex(line) for line in lines)
        kind = "r" if column.numeric else "l"
        cells.append(text if len(lines) < 2 else rf"\begin{{tabular}}[b]{{@{{}}{kind}@{{}}}}{text}\end{{tabular}}")
    return _row(cells)


def _caption(table: Table) -> str:
    return rf"\caption{{{latex(visible(table.title))}}}\label{{tab:{table.id}}}"


def _notes(table: Table) -> list[str]:
    return [rf"\par\smallskip{{\footnotesize\raggedright {latex(visible(note))}\par}}" for note in table.notes]


def _columns(table: Table) -> str:
    lines = r">{\raggedright\arraybackslash}p{5.5cm}"
    wrapped = _wrapped(table)
    return "".join(
        "r" if column.numeric else lines if place in wrapped else "l" for place, column in enumerate(table.columns)
    )


def _cells(row: Sequence[Cell], columns: Sequence[Column]) -> str:
    return _row([_cell(cell, column.numeric) for cell, column in zip(row, columns, strict=True)])


def _cell(cell: Cell, numeric: bool) -> str:
    form = _number if numeric else latex
    text = form(visible(cell.text))
    if cell.limits is None:
        return text
    low, high = (_number(visible(end)) for end in cell.limits)
    return rf"{text} {{\scriptsize [{low}, {high}]}}"


def _number(text: str) -> str:
    """With a true minus, where it is a number."""
    sign = _SIGNED.match(text)
    return f"${text[0]}$" + latex(text[1:]) if sign else latex(text)


def _row(cells: Sequence[str]) -> str:
    line = " & ".join(cells)
    # After the end of a row these two would be read as its options.
    return ("{}" if line.startswith(("[", "*")) else "") + line + r" \\"
