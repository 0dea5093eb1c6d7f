"""HTML, LaTeX, Markdown and CSV hold the same cells; each is read back by a reader of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pandas
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reports.document import Cell, Column, Report, Section, Table, number
from reports.writing.latex_tables import latex_table
from reports.writing.latex_text import latex
from reports.writing.page import page
from reports.writing.tables import csv_text, markdown, markdown_text
from reports.writing.visible import visible
from tests.reports.writing.conftest import NASTY, tables
from tests.reports.writing.reading import from_csv, from_html, from_latex, from_markdown, plain


def expected(table: Table) -> list[list[str]]:
    """What a reader is to see, from the document alone."""
    return [[visible(column.name) for column in table.columns]] + [
        [visible(str(cell)) for cell in row] for row in table.rows
    ]


def bare(grid: list[list[str]], table: Table) -> list[list[str]]:
    """As CSV has it: nothing for a dash, no comma between thousands, a quote before what looks like a formula."""
    out = []
    for place, row in enumerate(grid):
        cells = []
        for text, column in zip(row, table.columns, strict=True):
            if place and column.numeric:
                text = "" if text == "–" else re.sub(r"(?<=\d),(?=\d{3})", "", text)
            elif text.startswith(("=", "+", "-", "@")) and not re.fullmatch(r"[+-][0-9]+([.][0-9]+)?%?", text):
                text = "'" + text
            cells.append(text)
        out.append(cells)
    return out


@pytest.mark.parametrize("table", tables(), ids=lambda table: table.id)
def test_all_forms_agree_in_every_cell(table: Table, written: Path) -> None:
    said = expected(table)
    assert from_html((written / "report.html").read_text())[table.id] == said
    assert from_markdown((written / f"tables/{table.id}.md").read_text()) == [strip(said)]
    assert strip(from_latex((written / f"tables/{table.id}.tex").read_text())) == strip(as_latex(said))
    assert from_csv((written / f"tables/{table.id}.csv").read_text()) == bare(said, table)


def strip(grid: list[list[str]]) -> list[list[str]]:
    return [[cell.strip() for cell in row] for row in grid]


def test_all_tables_together(written: Path) -> None:
    grids = from_markdown((written / "tables.md").read_text())
    assert grids == [strip(expected(table)) for table in tables()]
    whole = (written / "tables.tex").read_text()
    for table in tables():
        assert whole.count(rf"\label{{tab:{table.id}}}") == 1
        assert re.sub(r"(?s).*?\\toprule", "", latex_table(table), count=1).split(r"\end{tabular}")[0].strip() in whole


def test_pandas_has_numbers() -> None:
    table = tables()[0]
    frame = pandas.read_csv(pandas.io.common.StringIO(csv_text(table)))
    assert list(frame.columns[1:4]) == ["F1 & | %", "F1 & | % low", "F1 & | % high"]
    assert frame["n"].tolist() == [1000 * place for place in range(len(NASTY))]
    assert frame["change"].isna().sum() == sum(place % 3 == 0 for place in range(len(NASTY)))
    assert frame["F1 & | %"].tolist() == [float(f"{60 + place:.1f}") for place in range(len(NASTY))]


def test_the_dash_of_an_undefined_number_is_in_all_but_csv() -> None:
    table = Table("t", "T", [Column("x")], [[number(None)], [number(float("nan"), 0, 1)]])
    assert from_markdown(markdown(table)) == [[["x"], ["–"], ["–"]]]
    assert from_latex(latex_table(table)) == [["x"], ["–"], ["–"]]
    assert csv_text(table) == 'x\n""\n""\n'


texts = st.text(
    st.one_of(st.characters(codec=None, exclude_categories=()), st.sampled_from("|`\\<>&*_[]$#%{}~^\"'=+-@!\n\r\t "))
)


@example(["-0", "+1.5%", "=1"])
@settings(max_examples=150, deadline=None)
@given(st.lists(texts, min_size=1, max_size=3))
def test_any_text_is_read_back(cells: list[str]) -> None:
    # What stands at a cell's edges is lost where Markdown trims it.
    table = Table(
        "t",
        "T",
        [Column("c", numeric=False), Column("d", numeric=False)],
        [[Cell(f"x{one}x"), Cell(one)] for one in cells],
    )
    said = expected(table)
    text = page(Report("T", "now", "c", (), [Section("s", "S", (), [table])]))[0]
    assert from_html(text)["t"] == said
    found = from_markdown(markdown(table))[0]
    assert [row[0] for row in found] == [row[0] for row in said]
    assert strip([found[1]]) == strip([said[1]])
    assert from_csv(csv_text(table)) == bare(said, table)
    assert [[plain(latex(cell)) for cell in row] for row in said] == as_latex(said)


def as_latex(grid: list[list[str]]) -> list[list[str]]:
    """All spaces but the one that does not break are one there, and the minus sign of a number is that of a text."""
    return [[re.sub(r"[^\S\u00a0]", " ", cell).replace("−", "-") for cell in row] for row in grid]


@pytest.mark.parametrize("text", ["- a", "+ a", "1. a", "3) a", "# a", "=", "---", "> a", "    a", "*a*", "<b>"])
def test_markdown_has_no_blocks_or_marks_made_of_a_text(text: str) -> None:
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").enable("table").parse(markdown_text(text.strip()))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {child.type for child in tokens[1].children or ()} <= {"text", "text_special"}
    assert "".join(child.content for child in tokens[1].children or ()) == text.strip()


def test_what_cannot_be_seen_is_shown() -> None:
    assert visible("a\u202eb\x1b\u2028\n") == r"a\u202eb\x1b\u2028\n"
    assert visible("a\r\nb\t\u200d", lines=True) == "a\nb\t\u200d"
