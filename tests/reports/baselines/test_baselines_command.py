"""`agevlm-eval baselines` and the part of a report, on real run folders."""

from __future__ import annotations

import csv
import json
import re

import pytest

from reports.opened import open_runs
from reports.published import CSV, UNDEFINED, load
from reports.sections.published import section
from tests.reports.runs.test_listing import drop_last_commit

OLD, NEW = "pope-coco@e3e3926", "pope-coco@3df3ba1"
CV = "cv-bench@aaaaaaaaaaaa"
ROWS = load()


def test_without_a_run_all_that_is_published(call):
    code, out, err = call("baselines", "--json", "-")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert {row["is"] for row in rows} == {"published"}
    # Each in one table and no other; those without a figure in every table of their benchmark.
    valued = [
        (r["model"], r["benchmark"], r["split"], r["metric"], r["source"]) for r in rows if r["value"] is not None
    ]
    wanted = [(r.model, r.benchmark, r.split, r.metric, r.source) for r in ROWS if r.value is not None]
    assert sorted(valued) == sorted(wanted)
    assert {(r["model"], r["benchmark"]) for r in rows if r["value"] is None} == {
        (r.model, r.benchmark) for r in ROWS if r.value is None
    }


def test_the_terminal_tells_of_figures_that_say_not_what_they_are_and_prints_them_when_asked(call):
    vague = [row for row in ROWS if row.metric in UNDEFINED and row.value is not None]
    code, out, err = call("baselines")
    assert code == 0
    assert f"Not printed here: {len(vague)} figures" in " ".join(err.split())
    assert "not stated; published alone" not in out
    code, out, err = call("baselines", *(part for name in UNDEFINED for part in ("--metric", name)))
    assert (code, err) == (0, "")
    assert all(row.model in out for row in vague)


def test_a_run_stands_beside_its_metric_alone(call, renamed):
    run = renamed("pope", OLD)
    code, out, err = call("baselines", run, "--json", "-")
    assert code == 0
    rows = json.loads(out)
    beside = {(r["metric"], r["is"]) for r in rows if r["beside_data_version"] == OLD}
    assert beside == {
        (m, i) for m in ("F1 mean of three splits", "accuracy mean of three splits") for i in ("measured", "published")
    }
    scores = json.loads((run / "scores.json").read_text())["rows"]
    for score, metric in (("f1", "F1 mean of three splits"), ("accuracy", "accuracy mean of three splits")):
        wanted = [r for r in scores if (r["condition"], r["split"]) == ("image", "mean")]
        found = [r for r in rows if r["is"] == "measured" and r["metric"] == metric]
        assert [r["value"] for r in found] == [100 * r[score] for r in wanted]
        assert [r["read_by"] for r in found] == [r["protocol"] for r in wanted]
    assert {r["prompt"] for r in rows if r["is"] == "measured"} == {
        "Answer the question using a single word or phrase."
    }
    assert "published by nobody in the list on these questions: POPE accuracy pooled" in " ".join(err.split())
    # A benchmark that was not measured is not shown unless it is asked for.
    assert {r["benchmark"] for r in rows} == {"POPE"}


def test_rows_of_scored_answers_stand_there_as_the_run_does(call, renamed, tmp_path):
    run, file = renamed("pope", OLD), tmp_path / "elsewhere.json"
    file.write_text(json.dumps(json.loads((run / "scores.json").read_text())["rows"]))
    told = []
    for given in (run, file):
        code, out, _ = call("baselines", given, "--json", "-")
        assert code == 0
        told.append([row for row in json.loads(out) if row["is"] == "measured"])
    for one, other in zip(*told, strict=True):
        differ = {name for name in one if one[name] != other[name]}
        assert differ == {"model", "fingerprint", "date"}
        assert other["model"] == "elsewhere"
    code, out, _ = call("baselines", run, file, "--metric", "F1 mean of three splits")
    assert "scored answers" in out


def test_real_answers_beside_the_figure_their_authors_publish(call, shared, tmp_path):
    file = tmp_path / "llava-1.5-13b.json"
    answers = shared / "pope/answers/llava-1.5-13b/llava_pope_test_answers.jsonl"
    questions = shared / "pope/llava_variant"
    code, _, _ = call("score", "pope", "--answers", answers, "--questions", questions, "--draws", 100, "--json", file)
    assert code == 0
    code, out, _ = call("baselines", file, "--json", "-")
    assert code == 0
    rows = json.loads(out)
    beside = [r for r in rows if r["metric"] == "F1 mean of three splits"]
    measured = [r for r in beside if r["is"] == "measured"]
    # LLaVA's model zoo prints 85.9 for these questions.
    assert {(round(r["value"], 3), r["data_version"]) for r in measured} == {(85.947, OLD)}
    (published,) = [r for r in beside if r["model"] == "LLaVA-1.5-13B"]
    assert published["printed"] == "85.9"
    assert {r["beside_data_version"] for r in beside} == {OLD}
    assert {r["prompt"] for r in (*measured, published)} == {"Answer the question using a single word or phrase."}
    # Ten protocols read these answers alike: one row.
    code, out, _ = call("baselines", file, "--metric", "F1 mean of three splits")
    assert out.count("measured, ") == 1
    assert "measured, default and 9 alike" in out


def test_readings_that_differ_have_rows_of_their_own(renamed):
    def other(row):
        row["unparsed"] += row["protocol"] == "strict"

    runs, _ = open_runs([renamed("pope", OLD, other)])
    cells = [str(row[3]) for row in section(runs).items[0].rows if str(row[3]).startswith("measured")]
    protocols = runs[0].scores["settings"]["protocols"]
    assert len(cells) > 1
    assert sum(1 + int(cell.split(" and ")[1].split()[0]) if " and " in cell else 1 for cell in cells) == len(protocols)


def test_the_older_release_is_not_the_newer_one(call, renamed):
    code, out, _ = call("baselines", renamed("pope", NEW), "--metric", "F1 mean of three splits", "--json", "-")
    assert code == 0
    rows = json.loads(out)
    assert {r["data_version"] for r in rows if r["beside_data_version"] == NEW and r["value"] is not None} == {NEW}
    assert len([r for r in rows if r["beside_data_version"] is None and r["value"] is not None]) == 12


def test_the_official_formula_of_cv_bench(call, renamed):
    run = renamed("cvbench", CV)
    code, out, _ = call("baselines", run, "--json", "-")
    assert code == 0
    measured = [r for r in json.loads(out) if r["is"] == "measured"]
    assert {r["metric"] for r in measured} == {"accuracy, official formula"}
    scores = json.loads((run / "scores.json").read_text())["rows"]
    official_rows = [r for r in scores if (r["score"], r["condition"]) == ("official", "image")]
    assert [r["value"] for r in measured] == [100 * r["accuracy"] for r in official_rows]


def test_a_metric_that_is_asked_for_is_shown_though_nobody_publishes_it(call, renamed):
    code, out, _ = call("baselines", renamed("pope", OLD), "--metric", "F1 random")
    assert code == 0
    assert f"POPE, F1 random, % on {OLD}: measured" in out
    assert "Nobody in our list publishes" in out


def test_a_half_of_cv_bench_has_only_its_own_number(call, renamed):
    code, out, _ = call("baselines", renamed("cvbench", "cv-bench 2D@bbbbbbbbbbbb"), "--json", "-", "--metric",
                        "accuracy, over questions", "--metric", "accuracy 2D, mean of ADE20K and COCO")  # fmt: skip
    assert code == 0
    measured = {r["metric"] for r in json.loads(out) if r["is"] == "measured"}
    assert measured == {"accuracy 2D, mean of ADE20K and COCO"}


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("custom:0123456789ab", "questions of one's own"),
        ("pope-scenes@2", "rendered scenes"),
        ("pope-coco@3df3ba1 limit 60 seed 0", "a part of the questions"),
        ("pope-gqa@3df3ba1", "no published result is listed"),
    ],
)
def test_what_may_not_be_compared_is_said(call, renamed, version, why):
    code, out, err = call("baselines", renamed("pope", version), "--json", "-")
    assert code == 0
    assert {row["is"] for row in json.loads(out)} == {"published"}
    said = " ".join(err.split())
    assert f"No published figure stands beside stub on {version}" in said
    assert why in said


def test_an_unfinished_run_is_left_out(call, renamed):
    run = renamed("pope", OLD)
    drop_last_commit(run)
    code, out, err = call("baselines", run, "--json", "-")
    assert code == 0
    assert {row["is"] for row in json.loads(out)} == {"published"}
    assert re.search(r"[1-9]\d* questions wait for an answer", " ".join(err.split()))


def test_questions_that_the_model_failed_on_are_counted(renamed):
    runs, _ = open_runs([renamed("broken", OLD)])
    found = section(runs)
    failed = max(r["missing"] for r in runs[0].scores["rows"] if r["condition"] == "image")
    assert failed > 0
    assert any(f"{failed:,} that the model failed on left out" in note for t in found.items for note in t.notes)


def test_own_results_stand_beside_the_others(call, tmp_path):
    own = tmp_path / "own.csv"
    header = CSV.read_text().splitlines()[0]
    mine = "Mine,1B,POPE,mean,F1 mean of three splits,91.25,,,https://example.org/a,https://example.org/a,2026-01,"
    own.write_text(f"{header}\n{mine}\n")
    code, out, _ = call("baselines", "--published", own, "--metric", "F1 mean of three splits", "--json", "-")
    assert code == 0
    assert next(r["printed"] for r in json.loads(out) if r["benchmark"] == "POPE") == "91.25"
    own.write_text(f"{header}\nbad\n")
    code, _, err = call("baselines", "--published", own)
    assert code == 2
    assert "line 2" in err


def test_tables_on_the_terminal(call, renamed):
    code, out, _ = call("baselines", renamed("pope", OLD), "--size", "0-3B")
    assert code == 0
    assert "measured and published" in out
    assert "not available to us" in out
    assert "InternVL2-1B" in out
    assert "InternVL2-8B" not in out


def test_a_csv_of_all_rows_has_addresses_and_prompts_in_full(call, renamed, tmp_path):
    out = tmp_path / "all.csv"
    code, said, _ = call("baselines", renamed("pope", OLD), "--json", "-", "--csv", out)
    assert code == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = json.loads(said)
    assert [row["printed"] for row in rows] == [row["printed"] for row in wanted]
    published = [row for row in rows if row["is"] == "published"]
    assert all(row["source"].startswith("https://") for row in published)
    assert "Answer the question using a single word or phrase." in {row["prompt"] for row in published}
    code, _, err = call("baselines", "--csv", tmp_path)
    assert code == 2
    assert "cannot write" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--metric", "F1"], "F1 mean of three splits"),
        (["--size", "small"], "0-3B"),
        (["--size", "0-0B", "--metric", "F1 random"], "no published result"),
        (["nowhere"], "no run.json"),
        ([CSV], "neither a run folder nor rows of"),
        (["--published", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_bad_input(call, arguments, says):
    code, _, err = call("baselines", *arguments)
    assert code == 2
    assert says in err


def test_damaged_scores_are_named_and_made_again(call, renamed):
    run = renamed("pope", OLD)
    own = json.loads(call("baselines", run, "--json", "-")[1])
    (run / "scores.json").write_text('{"rows": [{"condition": "image"}]}')
    code, out, err = call("baselines", run, "--json", "-")
    assert code == 0
    assert f"{run}: scores.json is damaged" in " ".join(err.split())
    assert json.loads(out) == own


# --- the part of a report ---------------------------------------------------------------------------------------------


def test_a_report_on_rendered_scenes_says_why_nothing_stands_there(renamed):
    runs, _ = open_runs([renamed("pope", "pope-scenes@2")])
    found = section(runs)
    assert not found.items
    assert found.text[0] == "None stands beside these runs."
    assert "rendered scenes" in found.text[1]


def test_a_report_on_the_published_questions_has_tables_with_measured_rows_alone(renamed):
    runs, _ = open_runs([renamed("pope", OLD)])
    tables = section(runs).items
    assert len(tables) == 2
    assert all("measured and published" in table.title for table in tables)


def test_a_report_on_something_else_has_no_such_part():
    assert section([]) is None
