"""What the gallery says of questions is what `show` reads; kinds and margins by longhand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from reports.gallery.entries import kind_of, margin_of
from reports.gallery.making import Wanted, gallery_of
from reports.opened import open_runs
from reports.runs.showing import open_run
from tests.reports.gallery.conftest import gallery


@pytest.mark.parametrize("name", ["pope", "broken", "cvbench"])
def test_items_are_what_show_reads(made, name):
    shown = open_run(made / name, None, None, "image").questions
    items = gallery(made / name).items
    assert len(items) == len(shown) > 20
    for item, q in zip(items, shown, strict=True):
        assert (item.number, item.split, item.category, item.image) == (q.number, q.split, q.category, q.image)
        assert (item.question, item.official, item.answer) == (q.text, q.official, q.answer)
        assert item.read.startswith(f"{q.read.label} (")
        right = item.kind == "right"
        assert right == (q.read.verdict == "right" and not q.read.unparsed)
        assert (item.kind == "model failed") == (q.read.verdict == "error")


def test_kinds_and_margins_of_pope_by_longhand(made):
    answers = [json.loads(line) for line in (made / "pope" / "answers-00000.jsonl").read_text().splitlines()]
    by_key = {row["key"]: row for row in answers}
    rows = [json.loads(line) for line in (made / "pope" / "questions.jsonl").read_text().splitlines()]
    items = gallery(made / "pope").items
    kinds = set()
    for item, row in zip(items, rows, strict=True):
        record, label = by_key[row["keys"]["image"]], row["question"]["label"]
        word = record["text"].strip().lower()[:3]
        said = True if word.startswith("yes") else False if word.startswith("no") else None
        expected = {
            (True, True): "right",
            (False, False): "right",
            (True, False): "false yes",
            (False, True): "missed",
        }.get((said, label), "unparsed")
        assert item.kind == expected, (record["text"], label)
        yes, no = record["logprobs"]["yes"], record["logprobs"]["no"]
        assert item.margin == pytest.approx(no - yes if label else yes - no)
        assert dict(item.logprobs) == record["logprobs"]
        assert item.logprobs[0][1] >= item.logprobs[1][1]
        kinds.add(item.kind)
    assert kinds == {"right", "false yes", "missed", "unparsed"}


def test_margins_of_cvbench_by_longhand(made):
    answers = {}
    for line in (made / "cvbench" / "answers-00000.jsonl").read_text().splitlines():
        row = json.loads(line)
        answers[row["key"]] = row
    rows = [json.loads(line) for line in (made / "cvbench" / "questions.jsonl").read_text().splitlines()]
    items = gallery(made / "cvbench").items
    wrong = 0
    for item, row in zip(items, rows, strict=True):
        logprobs = answers[row["keys"]["image"]]["logprobs"]
        gold, options = row["question"]["gold"], row["question"]["options"]
        values = [logprobs[f"({'ABCDEF'[k]})"] for k in range(len(options))]
        said = "ABCDEF".find(item.read[0])
        others = [v for k, v in enumerate(values) if k != gold]
        answered = values[said] if item.kind == "wrong answer" else max(others)
        assert item.margin == pytest.approx(answered - values[gold])
        wrong += item.kind == "wrong answer"
    assert wrong > 3


def test_a_margin_needs_all_of_it():
    assert margin_of({"yes": -0.1, "no": -3.0}, "no", "yes") == pytest.approx(2.9)
    assert margin_of({"yes": -0.1, "no": -3.0}, "yes", "yes") == pytest.approx(-2.9)
    assert margin_of({"A": -3.0, "B": -1.0, "C": -0.5}, "A", "B") == pytest.approx(2.0), "what was said"
    assert margin_of({"A": -3.0, "B": -1.0, "C": -0.5}, "A", "none") == pytest.approx(2.5), "the likeliest"
    assert margin_of({}, "yes", "no") is None
    assert margin_of({"yes": -1.0}, "yes", "no") is None
    assert margin_of({"yes": float("-inf"), "no": -1.0}, "yes", "no") is None, "no number a page could hold"


def test_one_item_for_each_split_and_one_picture_for_each_image(made):
    found = gallery(made / "pope")
    asked: dict[tuple[str, str], list] = {}
    for item in found.items:
        asked.setdefault((item.image, item.question), []).append(item)
    thrice = [items for items in asked.values() if len(items) == 3]
    assert thrice
    for items in thrice:
        assert {item.split for item in items} == {"random", "popular", "adversarial"}
        assert len({item.picture for item in items}) == 1
    images = {item.image for item in found.items}
    assert len(found.pictures) == len(images) == len({item.picture for item in found.items})
    assert len({picture.name for picture in found.pictures}) == len(images)


def test_files_with_the_same_bytes_have_one_picture(made, tmp_path):
    shutil.copytree(made / "pope", tmp_path / "again")
    alone, both = gallery(made / "pope"), gallery(made / "pope", tmp_path / "again")
    assert len(both.items) == 2 * len(alone.items)
    assert len({item.run for item in both.items}) == 2
    assert {p.name: p for p in both.pictures} == {p.name: p for p in alone.pictures}
    assert len(both.pictures) == len(alone.pictures)


def test_answers_that_a_judge_read_are_shown_by_the_next_protocol(copy):
    run = copy("pope")
    scores = json.loads((run / "scores.json").read_text())
    scores["settings"]["protocols"] = ["judged", "strict", "default"]
    (run / "scores.json").write_text(json.dumps(scores))
    found = gallery(run)
    strict = open_run(run, "strict", None, "image").questions
    assert [i.kind == "unparsed" for i in found.items] == [q.read.unparsed for q in strict]
    assert any("as read by strict, not by judged" in note for note in found.notes)
    default = open_run(run, "default", None, "image").questions
    assert [q.read for q in strict] != [q.read for q in default]


def test_damaged_lines_are_named_and_the_rest_is_used(copy):
    run = copy("pope")
    whole = gallery(run)
    lines = (run / "questions.jsonl").read_text().splitlines()
    lines[4] = lines[4][:30]
    (run / "questions.jsonl").write_text("\n".join(lines) + "\n")
    answers = (run / "answers-00000.jsonl").read_text().splitlines()
    answers[7] = "{]"
    (run / "answers-00000.jsonl").write_text("\n".join(answers) + "\n")
    found = gallery(run)
    assert len(found.items) == len(whole.items) - 1
    assert any("questions.jsonl:5" in note for note in found.notes)
    assert any("answers-00000.jsonl:8" in note for note in found.notes)
    lost = [item for item in found.items if item.kind == "not answered"]
    assert lost
    assert all(item.answer is None and item.margin is None and item.picture is not None for item in lost)


def test_runs_without_records_and_without_questions(copy):
    run = copy("pope")
    (run / "answers-00000.jsonl").unlink()
    found = gallery(run)
    assert {item.kind for item in found.items} == {"not answered"}
    assert found.pictures, "of the files that are there, which no model has seen"
    (run / "questions.jsonl").unlink()
    runs, _ = open_runs([run])
    assert gallery_of(runs, Wanted()) is None


def test_kind_of_what_is_not_counted(made):
    one = open_run(made / "pope", None, None, "image").questions[0]
    for verdict, unparsed, kind in (
        ("not counted", False, "not counted"),
        ("not counted", True, "unparsed"),
        ("missing", False, "not answered"),
        ("error", False, "model failed"),
        ("right", True, "unparsed"),
    ):
        assert kind_of(replace(one, read=replace(one.read, verdict=verdict, unparsed=unparsed))) == kind
