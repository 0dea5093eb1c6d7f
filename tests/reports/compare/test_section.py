"""The report's section of compared runs."""

from __future__ import annotations

from reports.compare.tables import overview
from reports.opened import open_runs
from reports.sections.compared import section
from reports.writing.terminal import terminal_table
from tests.reports.compare.conftest import remake


def of(*folders):
    runs, left_out = open_runs(folders)
    assert not left_out
    return section(runs)


def test_runs_are_compared_with_the_first_of_their_kind(made):
    found = of(made / "pope-a", made / "cv-b", made / "pope-b", made / "cv-a")
    assert found is not None
    assert [table.id for table in found.items] == [
        "compared-pope",
        "compared-pope-parts",
        "compared-cvbench",
        "compared-cvbench-parts",
    ]
    pope, cvbench = found.findings
    assert (pope.measure, pope.verdict) == ("POPE: accuracy, mean of splits, points", "higher, established")
    assert (cvbench.first, cvbench.second) == ("stub (cv-a)", "stub (cv-b)")
    assert cvbench.verdict == "lower, established"
    assert cvbench.difference.text == str(found.items[2].rows[0][4].text)
    parts = found.items[1]
    assert [str(row[1]) for row in parts.rows] == ["random", "popular", "adversarial", "mean of splits", "pooled"]
    assert {len(row) for row in parts.rows} == {8}


def test_one_run_of_a_kind_is_no_comparison(made):
    assert of(made / "pope-a", made / "cv-a") is None


def test_runs_that_differ_in_more_are_named_and_compared_with_their_like(made, copy):
    official = {"prompt": {"name": "official", "template": "{question}"}}
    others = [remake(copy(name, f"{name}-official"), **official) for name in ("pope-a", "pope-b")]
    alone = of(made / "pope-a", made / "pope-b", others[0])
    assert len(alone.items) == 2
    assert any(
        "pope-a-official" in text and "compared with none: different prompts (official" in text for text in alone.text
    )
    groups = of(made / "pope-a", made / "pope-b", *others)
    assert [table.id for table in groups.items][2:] == ["compared-pope-2", "compared-pope-2-parts"]
    assert not any("none" in text for text in groups.text)
    none = of(made / "pope-a", others[1])
    assert none.items == []
    assert "compared with none" in none.text[0]


def test_a_run_without_answers_is_named(made, copy):
    empty = copy("pope-b", "empty")
    (empty / "answers-00000.jsonl").write_text("")
    found = of(made / "pope-a", empty, made / "pope-b")
    assert any("share no question" in text for text in found.text)
    assert len(found.items) == 2


def test_tables_on_a_terminal_hold_every_cell_and_no_markup(made):
    from dataclasses import replace

    from rich.console import Console

    found = of(made / "pope-a", made / "pope-b")
    table = replace(found.items[0], title="[bold]\x1b[31mred", notes=["[link=x]note"])
    console = Console(width=400, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal_table(table))
    text = console.export_text()
    for row in table.rows:
        for cell in row:
            assert cell.text in text
            assert all(limit in text for limit in cell.limits or ())
    assert "[bold]\\x1b[31mred" in text
    assert "[link=x]note" in text


def test_a_verdict_needs_the_adjusted_p_too(made):
    from dataclasses import replace

    from reports.compare.comparison import Lead, compare
    from reports.compare.sides import open_sides

    base, other = open_sides([made / "pope-a", made / "pope-b"], None, None, "image")
    one = compare(base, other, draws=100)
    difference = one.headline.scores["accuracy"]
    lead = Lead(one, "accuracy", difference, 0.051)
    assert lead.verdict == "a tie"
    assert replace(lead, p=0.04).verdict == "higher, established"
    assert overview([lead]).rows[0][5].text == lead.verdict
