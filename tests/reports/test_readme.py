"""The README shows what a report holds."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from reports.readme import FIGURE, TABLE, refresh

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def report(tmp_path):
    for part in ("tables", "figures"):
        (tmp_path / "report" / part).mkdir(parents=True)
    (tmp_path / "report/tables/summary.md").write_text("**Title**\n\n| a |\n| :--- |\n| new \\1 |\n\nA note.\n")
    (tmp_path / "report/figures/one.png").write_bytes(b"picture")
    return tmp_path / "report"


def run(report, readme):
    return CliRunner().invoke(refresh, [str(report), "--readme", str(readme)])


def test_rows_and_figures_take_the_places_of_the_old_ones(report, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- demo table summary -->\n| old |\n<!-- end -->\n![x](docs/demo/one.png)\nafter\n")
    assert run(report, readme).exit_code == 0
    expected = "before\n<!-- demo table summary -->\n| a |\n| :--- |\n| new \\1 |\n<!-- end -->\n"
    assert readme.read_text() == expected + "![x](docs/demo/one.png)\nafter\n"
    assert (tmp_path / "docs/demo/one.png").read_bytes() == b"picture"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nothing", "no place for a table"),
        ("<!-- demo table gone -->\n<!-- end -->", "gone.md"),
        ("<!-- demo table summary -->\n<!-- end -->\n(docs/demo/two.png)", "two.png"),
    ],
)
def test_what_is_not_there_is_said_and_nothing_is_changed(report, tmp_path, text, why):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    outcome = run(report, readme)
    assert outcome.exit_code == 1
    assert why in outcome.output
    assert readme.read_text() == text


def test_our_readme_shows_a_table_and_two_figures_that_are_there():
    text = README.read_text(encoding="utf-8")
    shown = TABLE.search(text)
    assert shown is not None
    assert re.search(r"^\| scenes/age-vlm \|", shown[0], re.MULTILINE)
    figures = [README.parent / found["path"] for found in FIGURE.finditer(text)]
    assert len(figures) == 2
    for figure in figures:
        assert figure.read_bytes().startswith(b"\x89PNG")
