"""`agevlm-eval runs` on folders of the real commands, and on what kills, damage and later versions leave of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.records import read_commits
from benchmarks.run_folder import RunFolder, now
from reports.runs.headline import headlines
from reports.runs.listing import Listed, State, look_at
from reports.runs.table import age
from tests.benchmarks.runs.launch import command_here


def listed(path: Path) -> Listed:
    found = look_at(path)
    assert found is not None
    return found


def scores_of(path: Path) -> dict:
    return json.loads((path / "scores.json").read_text())


def drop_last_commit(path: Path) -> int:
    """What a kill before the last image group would have left; how many answers that takes away."""
    (file,) = RunFolder(path).answer_files
    commits = list(read_commits(file))
    with file.open("rb+") as opened:
        opened.truncate(sum(size for _, size in commits[:-1]))
    return len(commits[-1][0])


def test_a_complete_run_with_its_headline(copy):
    run = copy("pope")
    found = listed(run)
    (mean,) = [
        r for r in scores_of(run)["rows"] if (r["split"], r["condition"], r["protocol"]) == ("mean", "image", "default")
    ]
    assert found.state is State.COMPLETE
    assert (found.benchmark, found.models) == ("pope", ("stub",))
    assert found.data == (json.loads((run / "run.json").read_text())["data"][0]["data_version"],)
    assert [(h.measure, h.value, h.low, h.high) for h in found.headlines] == [
        ("F1", mean["f1"], mean["f1_low"], mean["f1_high"]),
        ("accuracy", mean["accuracy"], mean["accuracy_low"], mean["accuracy_high"]),
    ]
    assert (
        str(found.headlines[0])
        == f"F1 {100 * mean['f1']:.1f} [{100 * mean['f1_low']:.1f}, {100 * mean['f1_high']:.1f}]"
    )
    assert 0 <= found.age(datetime.now(UTC)) < 3600


def test_cvbench_leads_with_the_official_number(copy):
    run = copy("cvbench")
    found = listed(run)
    (row,) = [
        r
        for r in scores_of(run)["rows"]
        if (r["score"], r["condition"], r["reading"]) == ("official", "image", "rules")
    ]
    assert found.state is State.COMPLETE
    assert [(h.measure, h.value, h.low) for h in found.headlines] == [
        ("official", row["accuracy"], row["accuracy_low"])
    ]


@pytest.mark.parametrize("name", ["pope", "cvbench"])
def test_missing_answers_are_counted_whether_scores_are_there_or_not(copy, name):
    run = copy(name)
    total = len(RunFolder(run).answers())
    gone = drop_last_commit(run)
    found = listed(run)
    assert gone > 0
    assert (found.state, found.detail) == (State.RESUMABLE, f"{gone} of {total} answers missing")
    assert found.headlines  # of the scores that are there
    (run / "scores.json").unlink()
    assert (listed(run).state, listed(run).headlines) == (State.RESUMABLE, ())


@pytest.mark.parametrize("name", ["pope", "cvbench"])
def test_all_answered_but_not_scored(copy, name):
    run = copy(name)
    (run / "scores.json").unlink()
    assert listed(run).state is State.UNSCORED


def test_errors_in_the_place_of_answers_are_a_failed_run(copy):
    run = copy("broken")
    errors = sum(record.error is not None for record in RunFolder(run).answers().values())
    assert errors > 0
    told = listed(run)
    (run / "scores.json").unlink()
    counted = listed(run)
    assert (told.state, counted.state) == (State.FAILED, State.FAILED)
    assert counted.detail == f"{errors} errors"


def test_an_owned_folder_is_in_use_and_the_list_leaves_its_lock_alone(copy):
    run = copy("pope")
    folder = RunFolder(run)
    folder.own()
    assert listed(run).state is State.IN_USE
    assert listed(run).detail == f"{len(folder.answers())} of {len(folder.answers())} answers"
    folder.release()
    assert listed(run).state is State.COMPLETE
    folder.own()
    folder.release()


def test_damage_is_named(copy):
    run = copy("pope")
    scores, manifest = run / "scores.json", (run / "run.json").read_text()
    whole = scores.read_text()
    scores.write_text(whole[:100])
    assert listed(run).state is State.DAMAGED
    assert "scores.json" in listed(run).detail
    scores.write_text('{"rows": [{"condition": "image"}], "settings": {}}')
    assert listed(run).state is State.DAMAGED
    scores.write_text(whole)
    (run / "run.json").write_text(manifest[:50])
    assert listed(run).state is State.DAMAGED
    assert "run.json" in listed(run).detail
    (run / "run.json").unlink()
    assert listed(run).state is State.DAMAGED
    (run / "run.json").write_text(json.dumps({**json.loads(manifest), "schema": 99}))
    assert (listed(run).state, listed(run).detail) == (State.NEWER, "schema 99")
    (run / "run.json").write_text(manifest)
    scores.unlink()
    (file,) = RunFolder(run).answer_files
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:3], b"{broken\n", *lines[4:]]))
    assert listed(run).state is State.DAMAGED
    assert listed(run).detail.startswith(f"{file.name}:4: ")


ANALYSES = {
    "similarity": (
        {
            "cells": [
                {"model": "a", "space": space, "layer": "8", "headline": head, "pooling": "mean", "form": "raw",
                 "kind": "other", "auroc": {"value": value, "low": value - 0.1, "high": value + 0.1}}
                for space, head, value in (("hidden", False, 0.9), ("hidden", True, 0.6), ("query_key", True, 0.8))
            ]
        },
        ["AUROC 0.600 [0.500, 0.700]"],
    ),
    "grounding": (
        {"models": {"a": {"headline": {"iou": {"value": 0.5, "low": 0.4, "high": 0.625}}}, "b": {"left_out": {}}}},
        ["IoU 0.500 [0.400, 0.625]"],
    ),
    "padding": (
        {
            "attention": [
                {"checkpoint": model, "condition": condition, "group": group, "query": query, "layer": layer,
                 "attended": {"ratio": {"value": value, "low": value, "high": value}}}
                for model, condition, group, query, layer, value in (
                    ("a", "native", "non-square", "object", 1, 0.9),
                    ("a", "native", "non-square", "object", None, 0.25),
                    ("a", "letterbox black", "non-square", "object", None, 0.7),
                    ("b", "native", "non-square", "object", None, None),
                    ("b", "letterbox black", "non-square", "object", None, 1.5),
                    ("c", "native", "needs 25-50%", "object", None, 0.5),
                )
            ]
        },
        ["padding ratio 0.250 [0.250, 0.250]", "padding ratio, black 1.500 [1.500, 1.500]", "padding ratio –"],
    ),
    "linkage": (
        {
            "models": {
                "a": {
                    "counts": {"errors": 0},
                    "targets": {
                        "error": {
                            "signals": {"confidence": {"auroc": {"value": 0.25, "low": 0.125, "high": None}}},
                            "added_by_attention": {
                                "prior": None,
                                "margin and prior": {"full": {"value": 0.75, "low": 0.5, "high": 1.0}},
                            },
                        }
                    },
                }
            }
        },
        ["AUROC of errors by confidence 0.250", "with margin, prior and attention 0.750 [0.500, 1.000]"],
    ),
    "failure-signs": (
        {"readings": [{"model": "a", "verdict": v} for v in ("absent", "present", "absent", "not measured")]},
        ["1 present", "2 absent", "1 not measured"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ANALYSES)
def test_analyses_are_listed_with_their_own_headlines(tmp_path, name):
    scores, want = ANALYSES[name]
    assert [str(h) for h in headlines(name, scores)] == want
    run = tmp_path / name
    folder = RunFolder(run)
    folder.own()
    launch = {"started": now(), "ended": now()}
    manifest = {
        "schema": 1,
        "benchmark": name,
        "data": [{"name": "scenes"}],
        "limit": 30,
        "models": {"a": {"errors": []}},
        "launches": [launch],
    }
    folder.write_json("run.json", manifest)
    folder.write_json("scores.json", scores)
    folder.release()
    found = listed(run)
    assert (found.state, found.data, found.models) == (State.COMPLETE, ("scenes", "limit 30"), ("a",))
    folder.write_json("run.json", {**manifest, "models": {"a": {"errors": ["x.png: damaged", "y.png: damaged"]}}})
    assert (listed(run).state, listed(run).detail) == (State.FAILED, "2 errors")
    folder.write_json("run.json", {**manifest, "launches": [launch, {"started": now()}]})
    assert listed(run).state is State.RESUMABLE
    folder.write_json("run.json", manifest)
    (run / "scores.json").unlink()
    assert listed(run).state is State.UNSCORED


def test_the_command_lists_what_is_below_a_folder_the_latest_first(copy, tmp_path):
    pope, broken = copy("pope"), copy("broken")
    manifest = json.loads((broken / "run.json").read_text())
    later = datetime.now(UTC) + timedelta(hours=1)
    manifest["launches"][-1]["started"] = later.strftime("%Y-%m-%dT%H:%M:%SZ")
    manifest["model"]["ckpt"] = "\x1b[31m[bold]evil[/bold] :cat:"
    (broken / "run.json").write_text(json.dumps(manifest))
    train = tmp_path / "runs" / "train"
    train.mkdir()
    (train / "run.json").write_text('{"stage": {"name": "guide"}}')
    (train / "lock").touch()
    rows = json.loads(command_here("runs", str(tmp_path / "runs"), "--json", "-").stdout)
    assert [row["path"] for row in rows] == [str(broken), str(pope)]
    assert [row["state"] for row in rows] == ["failed", "complete"]
    assert rows[1]["headline"][0]["measure"] == "F1"
    assert rows[1]["last_launch"] == json.loads((pope / "run.json").read_text())["launches"][-1]["started"]
    table = command_here("runs", str(tmp_path / "runs")).stdout
    assert "\\x1b[31m[bold]evil[/bold] :cat:" in table
    assert "\x1b" not in table
    assert rows[1]["path"].rpartition("/")[2] in table
    assert command_here("runs", str(tmp_path / "runs"), "--json", str(tmp_path / "o.json")).stdout == table
    assert [row["path"] for row in json.loads((tmp_path / "o.json").read_text())] == [str(broken), str(pope)]


def test_no_folder_and_no_runs(tmp_path):
    gone = command_here("runs", str(tmp_path / "gone"))
    assert gone.returncode == 2
    assert "no such folder" in gone.stderr
    none = command_here("runs", str(tmp_path), "--json", "-")
    assert (none.returncode, json.loads(none.stdout)) == (0, [])


def test_ages():
    assert [age(s) for s in (None, -5, 0, 59, 60, 7199, 86400 * 3)] == [
        "–",
        "now",
        "now",
        "59 s",
        "1 min",
        "1 h",
        "3 d",
    ]
