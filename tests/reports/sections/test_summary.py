"""The first table, tasks of lmms-eval, and where the numbers come from."""

from __future__ import annotations

import json
import shutil

import pytest

from agevlm.errors import DataError
from benchmarks.lmms.command import metric_rows
from reports.document import Cell, Finding, Listing
from reports.opened import Run
from reports.sections import bias, controls, cvbench, lmms, pope, provenance, summary
from tests.reports.sections.conftest import opened
from tests.reports.sections.reading import rows, scores_of, table, told


def one_row(folder, **wanted):
    (row,) = [r for r in scores_of(folder)["rows"] if all(r[name] == value for name, value in wanted.items())]
    return row


def test_the_headlines_of_every_run(scored):
    folders = {name: scored / name for name in ("cvbench", "pope", "wordless")}
    found = summary.section(opened(*folders.values()))
    shown = rows(table(found, "summary"))
    assert len({row["model"] for row in shown}) == len(shown)
    mean = one_row(folders["pope"], split="mean", condition="image", protocol="default")
    official = one_row(folders["cvbench"], score="official", condition="image", reading="rules")
    (pope_row,) = [row for row in shown if told(mean, "f1") in row.values()]
    assert [name for name in shown[0] if name.startswith("POPE: F1, mean of splits, %")]
    assert [value for name, value in pope_row.items() if "accuracy, mean of splits" in name and value != "–"] == [
        told(mean, "accuracy")
    ]
    assert [row["CV-Bench: official, %"] for row in shown if row["CV-Bench: official, %"] != "–"] == [
        told(official, "accuracy")
    ]
    asked = {row["benchmark"] + row["prompt"]: row for row in rows(table(found, "asked"))}
    one = asked["POPEdefault"]
    assert (one["n"], one["missing"], one["unparsed"]) == (str(mean["n"]), "0", str(mean["unparsed"]))
    assert (one["data version"], one["protocol or reading"]) == (mean["data_version"], "default")
    assert asked["POPEofficial"]["model"] != one["model"]
    (cv,) = [row for row in asked.values() if row["benchmark"] == "CV-Bench"]
    assert cv["protocol or reading"] == "rules"


def test_measures_of_different_data_or_prompts_are_columns_of_their_own(scored):
    shown = rows(table(summary.section(opened(scored / "pope", scored / "wordless")), "summary"))
    assert [name for name in shown[0] if name.startswith("POPE: F1")] == [
        "POPE: F1, mean of splits, % · default",
        "POPE: F1, mean of splits, % · official",
    ]
    for row in shown:
        assert sum(value == "–" for value in row.values()) == 2
    one = table(summary.section(opened(scored / "pope")), "summary")
    assert one.notes[0] == "POPE: % of questions."
    (alone,) = rows(one)
    assert list(alone) == ["model", "POPE: F1, mean of splits, %", "POPE: accuracy, mean of splits, %"]


def test_findings_stand_with_the_established_ones_first():
    tie = Finding("IoU", "a", "b", Cell("+0.1", ("-0.1", "+0.2")), "a tie")
    found = [tie, Finding("IoU", "a", "c", Cell("+0.3", ("+0.1", "+0.4")), "higher, established")]
    shown = rows(table(summary.section([], found), "findings"))
    assert [(row["second"], row["first less second"], row["the first is"]) for row in shown] == [
        ("c", "+0.3 [+0.1, +0.4]", "higher, established"),
        ("b", "+0.1 [-0.1, +0.2]", "a tie"),
    ]


def test_what_makes_a_headline_doubtful_is_said(scored, tmp_path):
    def doubts(folder):
        return [text for text in summary.section(opened(folder)).text if text.startswith("Mind: ")]

    folder = shutil.copytree(scored / "pope", tmp_path / "pope")
    unread, few = doubts(folder)
    split = one_row(folder, split="pooled", condition="image", protocol="default")
    assert f"{split['unparsed']} of {split['n']} answers could not be read" in unread
    assert "only 12 images" in few
    scores = scores_of(folder)
    for row in scores["rows"]:
        row |= {"images": 500, "unparsed": 0}
    (folder / "scores.json").write_text(json.dumps(scores))
    assert doubts(folder) == []


def test_a_kind_of_run_that_is_not_known_and_one_without_scores_have_rows_that_say_so(tmp_path):
    runs = [
        Run(tmp_path / "a", "new thing", "telepathy", {"model": {"ckpt": "m"}}, {"rows": []}),
        Run(tmp_path / "b", "m", "grounding", {"models": {"m": {}}}, None),
    ]
    shown = {row["model"]: row for row in rows(table(summary.section(runs), "asked"))}
    assert shown["new thing"]["remark"] == "a kind of run that this version does not know"
    assert shown["new thing"]["benchmark"] == "telepathy"
    assert (shown["m"]["remark"], shown["m"]["n"]) == ("no scores", "–")


def test_analyses_are_named_by_model_with_what_is_measured(tmp_path):
    cells = [
        {
            "model": model,
            "space": "hidden",
            "headline": True,
            "pooling": "mean",
            "form": "raw",
            "kind": "other",
            "auroc": {"value": value, "low": value - 0.1, "high": value + 0.1},
        }
        for model, value in (("a", 0.6), ("b", 0.55))
    ]
    run = Run(tmp_path / "s", "s", "similarity", {"models": {"a": {}, "b": {}}}, {"cells": cells})
    shown = rows(table(summary.section([run]), "summary"))
    assert shown == [
        {"model": "a", "similarity: AUROC": "0.600 [0.500, 0.700]"},
        {"model": "b", "similarity: AUROC": "0.550 [0.450, 0.650]"},
    ]


def test_signs_of_failure_are_one_column(tmp_path):
    readings = [{"model": m, "verdict": v} for m, v in (("a", "absent"), ("a", "present"), ("a", "absent"), ("b", "x"))]
    run = Run(tmp_path / "s", "s", "failure-signs", {}, {"readings": readings})
    assert rows(table(summary.section([run]), "summary")) == [
        {"model": "a", "failure signs": "1 present, 2 absent"},
        {"model": "b", "failure signs": "1 x"},
    ]


@pytest.mark.parametrize("part", [summary, pope, cvbench, controls, bias, lmms])
@pytest.mark.parametrize("benchmark", ["pope", "cvbench", "lmms"])
def test_odd_scores_are_an_error_that_names_the_file_and_no_traceback(tmp_path, part, benchmark):
    """Of a run whose answers are not there to score again."""
    odd = [{}, {"rows": 3}, {"rows": [{"condition": "image"}]}, {"rows": [[]]}, {"rows": [{"task": "t"}]}]
    said = []
    for scores in odd:
        run = Run(tmp_path / "odd", "m", benchmark, {"model": {"ckpt": "m"}}, scores)
        try:
            part.section([run])
        except DataError as error:
            said.append(str(error))
    assert all(str(tmp_path / "odd") in text and "scores.json" in text for text in said)
    looks = {pope: ("pope",), controls: ("pope", "cvbench"), bias: ("pope",), cvbench: ("cvbench",), lmms: ("lmms",)}
    assert bool(said) == (part is summary or benchmark in looks[part])


RESULTS = {
    "results": {
        "mme": {"alias": "mme", "total,none": 1234.5, "total_stderr,none": "N/A"},
        "pope": {"f1,none": 0.87654, "f1_stderr,none": 0.0123, "f1_stderr_clustered,none": 0.0234, "by,none": {"a": 1}},
    },
    "n_recorded": {"mme": 20, "pope": 9000},
    "higher_is_better": {"pope": {"f1": True}},
}


def test_tasks_of_lmms_eval(tmp_path):
    manifest = {
        "schema": 1,
        "benchmark": "lmms",
        "tasks": ["mme", "pope"],
        "limit": 20,
        "model": {"ckpt": "m"},
        "packages": {"lmms-eval": "0.7.3"},
        "launches": [{"started": "2026-01-01T00:00:00Z", "ended": "2026-01-01T00:01:00Z", "missing": 2}],
    }
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(manifest))
        (tmp_path / name / "scores.json").write_text(json.dumps({"rows": metric_rows(RESULTS)}))
    runs = opened(tmp_path / "a", tmp_path / "b")
    assert "2 answers missing" in runs[0].remarks[0]
    found = table(lmms.section(runs), "lmms")
    shown = rows(found)
    assert [(row["task"], row["metric"], row["model"]) for row in shown] == [
        (task, metric, run.label) for task, metric in (("mme", "total"), ("pope", "f1"), ("pope", "by")) for run in runs
    ]
    assert (shown[0]["value"], shown[0]["standard error"], shown[0]["n"]) == ("1234.500", "–", "20")
    assert (shown[2]["value"], shown[2]["standard error"], shown[2]["better"]) == ("0.877", "0.012", "higher")
    assert shown[2]["clustered over images"] == "0.023"
    assert shown[4]["value"] == '{"a": 1}'
    assert any("0.7.3" in note and "first 20 documents" in note and "2 answers missing" in note for note in found.notes)
    for row in rows(table(summary.section(runs), "summary")):
        assert (row["mme: total"], row["pope: f1"]) == ("1234.500", "0.877")


def test_every_run_says_what_made_it(scored):
    runs = opened(scored / "pope", scored / "cvbench")
    found = provenance.section(runs)
    for place, run in enumerate(runs, start=1):
        manifest = json.loads((run.folder / "run.json").read_text())
        facts = {
            row["field"]: row["value"]
            for item in found.items
            if getattr(item, "id", "").startswith(f"run-{place}-")
            for row in rows(item)
        }
        assert facts["model, fingerprint"] == manifest["model"]["fingerprint"]
        assert facts["data version"] == manifest["data"][0]["data_version"]
        assert facts["data, content sha256"] == manifest["data"][0]["content_sha256"]
        assert facts["prompt"].startswith(f"{manifest['prompt']['name']}: {{")
        assert facts["launches"] == "1"
        assert manifest["packages"]["numpy"] in facts["packages"]
        listings = {item.title: item for item in found.items if isinstance(item, Listing)}
        assert listings[f"Run {place}: the command"].text == manifest["command"]
        assert json.loads(listings[f"Run {place}: run.json"].text) == manifest


def test_a_manifest_of_odd_types_is_shown_as_it_is(scored, tmp_path):
    folder = shutil.copytree(scored / "pope", tmp_path / "odd")
    odd = {
        "schema": 1,
        "benchmark": "pope",
        "created": 3,
        "command": [],
        "packages": None,
        "hardware": "x",
        "python": {},
    }
    (folder / "run.json").write_text(json.dumps(odd))
    runs = opened(folder)
    assert runs[0].label == "odd"
    for part in (summary, pope, controls, bias, provenance):
        assert part.section(runs) is not None
