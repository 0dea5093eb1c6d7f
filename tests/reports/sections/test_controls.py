"""Whether the image helps: controls, floors, and the words for both."""

from __future__ import annotations

import json
import shutil

from reports.sections.controls import section
from tests.reports.sections.conftest import opened
from tests.reports.sections.reading import rows, scores_of, table, told


def pooled(folder):
    found = scores_of(folder)["rows"]
    return {r["condition"]: r for r in found if r["split"] == "pooled" and r["protocol"] == "default"}


def test_controls_and_floors_of_pope_beside_the_image(scored):
    shown = {row["shown"]: row for row in rows(table(section(opened(scored / "pope")), "controls-pope"))}
    expected = pooled(scored / "pope")
    assert list(shown) == ["image", "blind", "shuffled", "floor:always-yes", "floor:always-no", "floor:object-prior"]
    for condition, row in expected.items():
        mine = shown[condition]
        assert (mine["accuracy"], mine["F1"]) == (told(row, "accuracy"), told(row, "f1"))
        assert mine["yes ratio"] == told(row, "yes_ratio")
        gain = told(row, "gain_accuracy", sign=True) if "gain_accuracy" in row else "–"
        assert mine["gain, points"] == gain
    by_split = rows(table(section(opened(scored / "pope")), "controls-pope-splits"))
    rows_of = {
        (r["condition"], r["split"]): r for r in scores_of(scored / "pope")["rows"] if r["protocol"] == "default"
    }
    assert [row["over"] for row in by_split] == ["blind", "shuffled"]
    for row in by_split:
        for split in ("random", "popular", "adversarial"):
            assert row[split] == told(rows_of[row["over"], split], "gain_accuracy", sign=True)


def test_floors_of_the_same_questions_stand_once(scored, tmp_path):
    shown = rows(table(section(opened(scored / "pope", scored / "wordless")), "controls-pope"))
    floors = [row for row in shown if row["shown"].startswith("floor:")]
    assert len(floors) == 6  # the prompts differ, so the rows do
    twin = shutil.copytree(scored / "pope", tmp_path / "twin")
    shown = rows(table(section(opened(scored / "pope", twin)), "controls-pope"))
    floors = [row for row in shown if row["shown"].startswith("floor:")]
    assert [row["model"] for row in floors] == ["no model"] * 3


def said(folder, gain: tuple[float, float, float], unparsed: int = 0) -> str:
    scores = scores_of(folder)
    for row in scores["rows"]:
        if row["condition"] == "blind":
            row |= dict(zip(("gain_accuracy", "gain_accuracy_low", "gain_accuracy_high"), gain, strict=True))
            row["unparsed"] = unparsed
            row["accuracy_if_unparsed_right"] = row["accuracy"] + unparsed / row["n"]
    (folder / "scores.json").write_text(json.dumps(scores))
    (line,) = [text for text in section(opened(folder)).text if "points over blind" in text]
    return line


def test_words_follow_the_interval(scored, tmp_path):
    folder = shutil.copytree(scored / "pope", tmp_path / "pope")
    assert "+3.0 [+1.0, +5.0] points over blind (no image at all): the image helps, established." in said(
        folder, (0.03, 0.01, 0.05)
    )
    assert "a tie: it is not shown that the image helps" in said(folder, (0.03, -0.01, 0.05))
    assert "a tie" in said(folder, (0.03, 0.0, 0.05))


def test_a_gain_that_hangs_on_answers_that_could_not_be_read_is_none(scored, tmp_path):
    folder = shutil.copytree(scored / "pope", tmp_path / "pope")
    for low, verdict, words in (
        (0.51, "established", "the image helps, established"),
        (0.49, "cannot be told", "whether the image helps cannot be told"),
    ):
        warned = said(folder, (0.6, low, 0.7), unparsed=72)
        assert f"{words}; 50.0 % of the answers under blind could not be read and count as wrong" in warned
        shown = {row["shown"]: row for row in rows(table(section(opened(folder)), "controls-pope"))}
        assert shown["image"]["the image helps"] == shown["floor:always-no"]["the image helps"] == "–"
        assert (shown["blind"]["the image helps"], shown["blind"]["unparsed"]) == (verdict, "72")


def test_a_loss_that_hangs_on_answers_about_the_image_that_could_not_be_read_is_none(scored, tmp_path):
    folder = shutil.copytree(scored / "pope", tmp_path / "pope")
    unread = next(r["unparsed"] / r["n"] for r in pooled(folder).values() if r["condition"] == "image")
    assert unread > 0.1
    assert "makes it worse, established" in said(folder, (-0.9, -0.95, -unread - 0.001))
    assert "cannot be told" in said(folder, (-0.9, -0.95, -unread + 0.001))


def test_cvbench_controls(scored):
    shown = rows(table(section(opened(scored / "cvbench")), "controls-cvbench"))
    found = {(r["condition"], r["score"]): r for r in scores_of(scored / "cvbench")["rows"] if r["reading"] == "rules"}
    blind = {row["number"]: row for row in shown if row["shown"] == "blind"}
    assert list(blind) == ["official", "2D", "3D"]
    for name, mine in blind.items():
        row = found["blind", name]
        assert mine["accuracy"] == told(row, "accuracy")
        assert mine["gain, points"] == told(row, "gain_accuracy", sign=True)
    assert {"floor:majority-letter", "floor:option-text"} <= {row["shown"] for row in shown}


def test_a_run_without_controls_says_how_to_get_one(scored):
    found = section(opened(scored / "wordless"))
    assert any("no control was run" in text and "--control blind" in text for text in found.text)
    assert section([]) is None
