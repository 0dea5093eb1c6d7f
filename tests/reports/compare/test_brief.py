"""What `agevlm-eval compare` prints where nothing else is asked for: a screen, with what matters."""

from __future__ import annotations

import json
from dataclasses import replace
from math import nan

import pytest
from rich.console import Console

from benchmarks.statistics.clusters import Interval
from reports.compare.brief import FEW, MOST, flip_lines, headlines, parts, striking
from reports.compare.comparison import compare, leads
from reports.compare.numbers import Group
from reports.compare.sides import open_sides
from reports.writing.terminal import fitted, terminal_table
from tests.benchmarks.runs.launch import command_here
from tests.reports.compare.conftest import rewrite


@pytest.fixture(autouse=True)
def screen(monkeypatch):
    """Of one width, whatever the tests run in: names fold where there is less room."""
    monkeypatch.setenv("COLUMNS", "120")


def lead_of(*folders, metric="accuracy"):
    base, *others = open_sides(folders, None, None, "image")
    return leads([compare(base, one, draws=100) for one in others], metric)


def test_three_runs_fit_a_screen_headline_first(made, copy):
    third = copy("pope-b", "third")
    arguments = [str(made / "pope-a"), str(made / "pope-b"), str(third), "--draws", "100"]
    printed = command_here("compare", *arguments).stdout.splitlines()
    full = command_here("compare", *arguments, "--full").stdout.splitlines()
    assert len(printed) <= 60 < 2 * len(printed) < len(full)
    (found, _) = json.loads(command_here("compare", *arguments, "--json", "-").stdout)
    head = found["headline"]
    assert printed[0].startswith("POPE: accuracy, mean of splits")
    row = next(line for line in printed if line.startswith(" B "))
    gain, low, high = (f"{100 * head[name]:+.1f}" for name in ("difference", "low", "high"))
    assert f"{gain} [{low}, {high}]" in row
    assert head["verdict"] in row
    assert printed[-1].startswith("B, C: 360 questions")


@pytest.mark.parametrize(
    ("metric", "want"),
    [
        ("accuracy", ["accuracy, random", "accuracy, popular", "accuracy, adversarial", "F1, mean", "yes ratio, mean"]),
        ("f1", ["F1, random", "F1, popular", "F1, adversarial", "accuracy, mean", "yes ratio, mean"]),
    ],
)
def test_the_parts_of_pope(made, metric, want):
    (lead,) = lead_of(made / "pope-a", made / "pope-b", metric=metric)
    table = parts(lead)
    names = [str(row[0]) for row in table.rows]
    assert [name.removesuffix(" of splits") for name in names[:5]] == want
    assert all(name.startswith("object ") for name in names[5:])
    numbers = {one.name: one.scores for one in lead.comparison.numbers}
    d = numbers["popular"][metric]
    assert str(table.rows[1][3]) == f"{100 * d.gain.value:+.1f} [{100 * d.gain.low:+.1f}, {100 * d.gain.high:+.1f}]"
    left = len(lead.comparison.categories) - (len(names) - 5)
    assert (left > 0) == bool(table.notes)
    if left:
        assert table.notes[0].startswith(f"{left} more objects")


def test_the_parts_of_cvbench_name_each_thing_once(made):
    (lead,) = lead_of(made / "cv-a", made / "cv-b")
    names = [str(row[0]) for row in parts(lead).rows]
    assert len(set(names)) == len(names)
    assert {"2D", "3D", "row mean"} <= set(names)
    assert "official" not in names
    assert str(headlines([lead]).title).startswith("CV-Bench: accuracy, official")


def group(name: str, gain: float, holm: float) -> Group:
    side = 0.01 if holm <= 0.05 else 2.0
    return Group(name, 9, 9, 0.5, 0.5 + gain, Interval(gain, gain - side, gain + side), 0, 0, 1.0, nan, holm, holm)


def test_established_categories_come_before_larger_differences():
    small = [group(f"small {i}", 0.02, 0.001) for i in range(2)]
    large = [group(f"large {i}", 0.3 - i / 100, 1.0) for i in range(9)]
    shown = striking([*large, *small])
    assert len(shown) == FEW
    assert set(small) < set(shown)
    assert [one.name for one in shown] == ["large 0", "large 1", "large 2", "small 0", "small 1"]
    many = [group(f"sure {i}", -0.5 + i / 100, 0.001) for i in range(12)]
    assert [one.name for one in striking(many)] == [f"sure {i}" for i in range(MOST)]
    assert striking(many[:3]) == many[:3]


def test_a_question_of_several_splits_is_printed_once(made):
    (lead,) = lead_of(made / "pope-a", made / "pope-b")
    gained = [flip for flip in lead.comparison.flips if flip.gained]
    asked = list(dict.fromkeys((flip.base.image, flip.base.text) for flip in gained))
    assert 4 < len(asked) < len(gained)
    lines = list(flip_lines(lead.comparison, 4))
    assert lines[0].startswith(f"right in B, wrong in A: {len(gained)} questions; 4")
    for line, (image, text) in zip(lines[1:5], asked, strict=False):
        assert line.split()[0] == text.split()[0]
        assert f"  {image}  " in line
    assert list(flip_lines(lead.comparison, 0)) == []
    # As many as there are.
    assert len(list(flip_lines(lead.comparison, 9999))) < len(lead.comparison.flips)


@pytest.mark.parametrize("columns", [20, 84, 90, 400])
def test_a_table_folds_its_texts_and_never_its_numbers(made, columns):
    found = lead_of(made / "pope-a", made / "pope-b")
    named = replace(found[0].comparison.other, label="a/rather/long/path/of/a/checkpoint/" * 2)
    table = headlines([replace(found[0], comparison=replace(found[0].comparison, other=named))])
    console = Console(width=400, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(fitted(terminal_table(table, inline=True), console, columns))
    text = console.export_text()
    assert all(str(cell) in text for cell, column in zip(table.rows[0], table.columns, strict=True) if column.numeric)
    if columns >= 84:
        assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text


def test_what_a_model_says_is_printed_inert(made, copy):
    other = copy("pope-b")
    rewrite(other / "answers-00000.jsonl", lambda row: row | {"text": "\x1b[31m[bold]yes\u202e", "commit": [0, 1]})
    printed = command_here("compare", str(made / "pope-a"), str(other), "--draws", "100").stdout
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert "[bold]yes" in printed


def test_a_split_that_one_run_lacks_is_named(made, copy):
    """The mean is then of the others; and where one is left, that is another headline than that of the other run."""
    two, one = copy("pope-b", "two"), copy("pope-b", "one")
    rewrite(two / "questions.jsonl", lambda row: None if row["question"]["split"] == "popular" else row)
    rewrite(one / "questions.jsonl", lambda row: row if row["question"]["split"] == "popular" else None)
    arguments = [str(made / "pope-a"), str(made / "pope-b"), str(two), str(one), "--draws", "100"]
    for more in ([], ["--full"]):
        printed = command_here("compare", *arguments, *more).stdout
        assert "C: no shared question of popular" in printed
        assert "D: no shared question of adversarial, random" in printed
        assert "B: no shared" not in printed
        title = printed[printed.index("POPE: accuracy") :].splitlines()[0]
        assert "mean of splits" not in title
        assert "D (stub (one)), popular" in printed
        assert "C (stub (two)), mean of splits" in printed
