"""Scores that are not as a run writes them are named; nothing else ever comes out."""

from __future__ import annotations

import contextlib
import copy as copies
import random

import pytest

from agevlm.errors import DataError, RunFolderError
from reports.document import Table
from reports.opened import UnusableRun, open_runs
from reports.sections import grounding, linkage, padding, signs, similarity
from tests.reports.sections.inside.conftest import KINDS, scores_of, section_of, tables_of, write

SECTIONS = (similarity, grounding, padding, linkage, signs)


def test_runs_of_other_kinds_are_no_concern_of_a_section(made):
    for module, kind in zip(SECTIONS, KINDS, strict=True):
        runs, _ = open_runs([made / other for other in KINDS if other != kind])
        assert module.section(runs) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_not_scored_is_named_and_others_are_shown(copy, kind):
    good, bare = copy(kind, "good"), copy(kind, "bare")
    (bare / "scores.json").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reports.sections.inside.Looks.figures", lambda *_: iter(()))
        section = section_of(good, bare)
        alone = section_of(bare)
    assert section.text[-1] == alone.text[-1] == "Not scored, and not shown: bare."
    assert [item for item in section.items if isinstance(item, Table)]
    assert not alone.items


@pytest.mark.parametrize("content", [[], "text", 5, {}, {"cells": 3, "models": [], "readings": {}, "attention": None}])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_that_are_something_else_are_named(copy, kind, content):
    folder = copy(kind)
    write(folder, content)
    (run,), left_out = open_runs([folder])
    assert left_out == []
    if run.scores is None:
        (said,) = run.remarks
    else:  # what only the section needs
        with pytest.raises(UnusableRun) as caught:
            section_of(folder)
        assert caught.value.folder == folder
        said = str(caught.value)
    assert said.startswith(str(folder))
    assert "scores.json" in said
    assert "give the run's command again" in said


def places(content, path=()):
    """All places in a JSON value."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


@pytest.mark.parametrize("kind", KINDS)
def test_any_damage_ends_in_tables_or_in_one_line(copy, kind):
    folder = copy(kind)
    whole = scores_of(folder)
    draw = random.Random(0)
    known = list(places(whole))
    refused = 0
    for path in draw.sample(known, 60):
        content = copies.deepcopy(whole)
        held = content
        for key in path[:-1]:
            held = held[key]
        if draw.random() < 0.5 or isinstance(held, list):
            held[path[-1]] = draw.choice([None, "odd", [], {}, -1, 1e308, [1], float("inf")])
        else:
            del held[path[-1]]
        write(folder, content)
        with contextlib.suppress(DataError):
            tables_of(folder)
            refused -= 1
        refused += 1
    assert 0 < refused < 60, "some damage was told, some is of numbers that no table shows"


@pytest.mark.parametrize("kind", KINDS)
def test_damage_that_only_a_figure_meets_is_told_in_one_line(copy, kind):
    folder = copy(kind)
    content = scores_of(folder)
    if kind == "similarity":
        content["cells"][0]["auroc"]["value"] = "odd"
    elif kind == "grounding":
        for held in content["models"].values():
            held["by_layer"]["mean"]["iou"]["low"] = None
            del next(own for layer, own in held["by_layer"].items() if layer != "mean")["mass"]["ceiling"]
    elif kind == "padding":
        row = next(r for r in content["attention"] if r["layer"] is not None and r["group"] == "non-square")
        row["attended"]["ratio"]["value"] = "odd"
    elif kind == "linkage":
        del content["models"]["looks"]["targets"]["error"]["signals"]["word_peak"]["permuted"]
    else:
        content["readings"][0]["threshold"] = "odd"
    write(folder, content)
    with pytest.raises(DataError, match="damaged or of another version"):
        section_of(folder)


def test_a_manifest_that_is_something_else_is_named(copy):
    folder = copy("grounding")
    write(folder, {"schema": 1, "benchmark": "grounding", "data": 5}, "run.json")
    with pytest.raises(RunFolderError, match=r"run\.json: damaged \(data "):
        open_runs([folder])
