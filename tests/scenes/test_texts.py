"""Texts on disk: true or false as they say, and their mentions point at the right annotations."""

from __future__ import annotations

import json
import re

import pytest

from agevlm.scenes.coco import write_coco
from agevlm.scenes.questions import cv_scenes
from tests.scenes import longhand
from tests.scenes.longhand import CATEGORY_OF, Truth

COUNT = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("texts") / "data", range(500_000_000, 500_000_000 + COUNT)).out


def rows(folder, name):
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def truths():
    return {500_000_000 + i: Truth(scene) for i, scene in enumerate(longhand.scenes("test", COUNT))}


@pytest.fixture(scope="module")
def named(folder):
    """Category and image of every annotation."""
    content = json.loads((folder / "instances.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    return {a["id"]: (names[a["category_id"]], a["image_id"]) for a in content["annotations"]}


def check_mentions(said, image, named, truth):
    """Every mention names the annotations of its noun in its own image, all of them, or none that is there."""
    assert said["mentions"]
    for mention in said["mentions"]:
        if mention["kind"] != "object":
            assert {named[i][1] for i in mention["annotation_ids"]} <= {image}
            continue
        category = CATEGORY_OF[said["text"][mention["start"] : mention["end"]]]
        assert {named[i] for i in mention["annotation_ids"]} <= {(category, image)}
        assert len(mention["annotation_ids"]) == truth.number(category)


def test_captions_match_and_mismatched_ones_do_not(folder, named, truths):
    found = rows(folder, "captions.jsonl")
    assert [row["image_id"] for row in found] == list(truths)
    for row in found:
        truth = truths[row["image_id"]]
        assert row["file_name"] == f"images/{row['image_id']:012d}.png"
        check_mentions(row["caption"], row["image_id"], named, truth)
        check_mentions(row["mismatched"], row["image_id"], named, truth)
        assert all(longhand.true_of(truth, entry) for entry in longhand.listed(row["caption"]["text"])[0])
        wrong = [e for e in longhand.listed(row["mismatched"]["text"])[0] if truth.number(e.category) == 0]
        assert len(wrong) == 1


def test_statements_hold_or_not_as_they_say(folder, named, truths):
    found = rows(folder, "statements.jsonl")
    assert {row["kind"] for row in found} == {"exist", "absence", "count", "color", "relation", "depth"}
    assert {row["true"] for row in found} == {True, False}
    assert {row["image_id"] for row in found} == set(truths)
    for row in found:
        truth = truths[row["image_id"]]
        assert longhand.holds(truth, row["kind"], row["text"]) is row["true"]
        check_mentions(row, row["image_id"], named, truth)
    kinds = {(row["kind"], m["kind"]) for row in found for m in row["mentions"] if m["kind"] != "object"}
    assert kinds == {("color", "attribute"), ("relation", "relation"), ("depth", "relation"), ("absence", "negation")}


def test_questions_are_those_that_models_are_measured_by(folder):
    expected = [q.asked.question.text for q in cv_scenes(longhand.facts("test", COUNT))]
    assert [row["question"] for row in rows(folder, "cv-scenes.jsonl")] == expected


def test_a_scenes_texts_do_not_depend_on_its_neighbours(folder, tmp_path):
    alone = write_coco(tmp_path / "alone", [500_000_007]).out
    for name in ("captions.jsonl", "statements.jsonl"):
        expected = [row for row in rows(folder, name) if row["image_id"] == 500_000_007]
        got = rows(alone, name)
        assert expected
        assert [re.sub(r"\[[\d, ]*\]", "", json.dumps(r)) for r in got] == [
            re.sub(r"\[[\d, ]*\]", "", json.dumps(r)) for r in expected
        ]
    questions = [row for row in rows(folder, "cv-scenes.jsonl") if "500000007" in row["filename"]]
    assert [{**row, "idx": 0} for row in rows(alone, "cv-scenes.jsonl")] == [{**row, "idx": 0} for row in questions]
