"""CV-Bench's part of a report: readings, chance, and what a judge decided."""

from __future__ import annotations

import pytest

from reports.document import Figure
from reports.sections.cvbench import section
from tests.benchmarks.cvbench.stub import CvStub, make_cv_data
from tests.benchmarks.judge.conftest import name_of, replying, verdict
from tests.reports.runs.conftest import ask
from tests.reports.sections.conftest import opened
from tests.reports.sections.reading import digits, rows, scores_of, table, told
from tests.vlm.served.server import serving


def image_rows(folder, reading="rules"):
    found = scores_of(folder)["rows"]
    return {r["score"]: r for r in found if (r["condition"], r["reading"]) == ("image", reading)}


def test_every_number_has_the_digits_of_its_scores_and_stands_against_chance(scored):
    found = table(section(opened(scored / "cvbench")), "cvbench")
    shown = {row["number"]: row for row in rows(found)}
    expected = image_rows(scored / "cvbench")
    assert list(shown) == list(expected)
    assert {"official", "2D", "3D", "row mean", "source COCO", "task Count"} <= set(shown)
    verdicts = set()
    for name, row in expected.items():
        mine = shown[name]
        assert mine["accuracy"] == told(row, "accuracy")
        assert (mine["chance"], mine["n"]) == (digits(row["chance"]), str(row["n"]))
        assert (mine["unparsed"], mine["missing"]) == (str(row["unparsed"]), "0")
        assert mine["if these were right"] == digits(row["accuracy_if_unparsed_right"])
        above, below = row["accuracy_low"] > row["chance"], row["accuracy_high"] < row["chance"]
        assert mine["against chance"] == ("above" if above else "below" if below else "a tie")
        verdicts.add(mine["against chance"])
    assert len(verdicts) > 1
    assert "Data version custom@" in found.notes[0]


def test_the_same_answers_under_every_reading(scored):
    found = table(section(opened(scored / "cvbench")), "cvbench-readings")
    shown = {row["reading"].split()[0]: row for row in rows(found)}
    assert list(shown) == scores_of(scored / "cvbench")["settings"]["readings"]
    for reading, mine in shown.items():
        expected = image_rows(scored / "cvbench", reading)
        for name, row in expected.items():
            assert mine[name] == told(row, "accuracy")
        assert mine["unparsed"] == str(expected["row mean"]["unparsed"])
        assert mine["if these were right"] == digits(expected["official"]["accuracy_if_unparsed_right"])
    assert shown["official"]["published with it"] == "official"
    assert shown["rules"]["published with it"] == "–"


def test_the_figure_is_the_same_bytes_each_time(scored):
    runs = opened(scored / "cvbench")
    first, second = ([i for i in section(runs).items if isinstance(i, Figure)] for _ in range(2))
    assert [(f.png, f.svg) for f in first] == [(f.png, f.svg) for f in second]
    (drawn,) = first
    for text in ("official", "Count", "Distance", "accuracy, % of questions (rules)", "chance"):
        assert f">{text}<" in drawn.svg.decode()


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """A run whose judge reads every answer as (A), and fails on one."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("AGEVLM_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(edit=replying(lambda _: verdict("A"))) as server:
        options = ["--judge", name_of(server), "--judge-which", "all"]
        assert ask("cvbench", CvStub(), make_cv_data(tmp_path / "data", 6), tmp_path / "judged", *options) == 0
    return tmp_path / "judged"


def test_the_judges_share(judged):
    shares = scores_of(judged)["judge"]["shares"]
    (mine,) = rows(table(section(opened(judged)), "cvbench-judge"))
    (share,) = shares
    assert share["to_judge"] > share["right_by_judge_alone"] > 0
    assert mine["protocol or reading"] == "judged-all"
    assert (mine["answers"], mine["for the judge"]) == (str(share["answers"]), str(share["to_judge"]))
    assert mine["judge's share of the answers, %"] == digits(share["to_judge"] / share["answers"])
    assert mine["judge's share of the right ones, %"] == digits(share["right_by_judge_alone"] / share["right"])
    assert mine["same as by rules, %"] == digits(share["alike"] / share["both"])
    readings = {row["reading"].split()[0]: row for row in rows(table(section(opened(judged)), "cvbench-readings"))}
    assert readings["judged-all"]["official"] == told(image_rows(judged, "judged-all")["official"], "accuracy")


def test_a_judges_reading_of_other_answers_is_left_out_and_said(judged):
    (file,) = judged.glob("answers-*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([b"{\n", *lines[1:]]))
    (run,) = opened(judged)
    assert any("judged-all" in remark and "--judge" in remark for remark in run.remarks)
    found = section([run])
    assert "judged-all" not in [row["reading"] for row in rows(table(found, "cvbench-readings"))]
    assert all(item.id != "cvbench-judge" for item in found.items)


def test_nothing_without_a_run_of_cvbench(scored):
    assert section(opened(scored / "pope")) is None
