"""pdflatex sets whatever stands in a report."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from reports.writing.latex_tables import latex_document, latex_table
from tests.reports.writing.conftest import NASTY, tables

pdflatex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")


def compiled(path: Path) -> str:
    """The log; fails with its end."""
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", path.name],
        cwd=path.parent,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "max_print_line": "1000"},
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert path.with_suffix(".pdf").stat().st_size > 1000
    return done.stdout


@pdflatex
def test_all_tables_in_one_document(written: Path, tmp_path: Path) -> None:
    shutil.copy(written / "tables.tex", tmp_path)
    log = compiled(tmp_path / "tables.tex")
    assert "Missing character" not in log
    # Nothing runs out of the page: a table of 15 columns with limits too.
    assert [float(pt) for pt in re.findall(r"Overfull \\.box \(([\d.]+)pt", log) if float(pt) > 1] == []


@pdflatex
def test_a_text_that_is_not_escaped_would_not_be_set(tmp_path: Path) -> None:
    path = tmp_path / "raw.tex"
    path.write_text(latex_document("x", tables()).replace(r"\textbackslash{}end\{tabular\}", r"\end{tabular}"))
    with pytest.raises(AssertionError, match="Fatal error"):
        compiled(path)


@pdflatex
@pytest.mark.parametrize("layout", ["onecolumn", "twocolumn"])
def test_each_alone_with_what_its_comment_names(written: Path, tmp_path: Path, layout: str) -> None:
    texts = {table.id: (written / f"tables/{table.id}.tex").read_text() for table in tables()}
    names = [name for name, text in texts.items() if layout == "onecolumn" or "longtable" not in text]
    assert ("long" in names) == (layout == "onecolumn")
    needed: set[str] = set()
    for name in names:
        needed |= set(re.findall(r"\\usepackage\{\w+\}", texts[name].splitlines()[0]))
        (tmp_path / f"{name}.tex").write_text(texts[name])
    inputs = "\n".join(rf"\input{{{name}}} See Table~\ref{{tab:{name}}}. \clearpage" for name in names)
    paper = tmp_path / "paper.tex"
    paper.write_text(
        "\n".join(
            (rf"\documentclass[{layout}]{{article}}", *sorted(needed), r"\begin{document}", inputs, r"\end{document}")
        )
    )
    compiled(paper)
    assert "undefined references" not in compiled(paper)


def test_no_character_is_left_to_fonts() -> None:
    for table in tables():
        text = latex_table(table)
        assert text.isascii()
    assert any(not text.isascii() for text in NASTY)


def test_limits_are_small() -> None:
    assert r"60.0 {\scriptsize [50.0, 70.0]}" in latex_table(tables()[0])
    assert r"$-$1.8 {\scriptsize [$-$4.0, $+$1.0]}" in latex_table(tables()[0])
