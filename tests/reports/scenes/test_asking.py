from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agevlm.scenes.questions import cv_scenes
from agevlm.vlm.contract import Ask
from benchmarks.statistics.clusters import clustered_standard_error, resampling_weights, score_interval
from reports.scenes import asking
from reports.scenes.asking import AnswerRow, answer_scores, ask_all, kinds_of
from reports.scenes.evaluate import load_vlm
from reports.scenes.files import read_rows, write_rows
from reports.scenes.intervals import image_draws, over_seeds, share
from tests.reports.scenes.toys import Planted, planted_on_object
from train.scenes.store import SceneStore


def test_a_model_that_knows_existence(test_store: SceneStore, tmp_path: Path) -> None:
    vlm = Planted(test_store, planted_on_object(test_store))
    rows = ask_all(vlm, test_store, 20)
    scores = answer_scores(rows, image_draws(20, 200))
    for split in ("random", "popular", "adversarial", "pope"):
        found = scores[split]
        assert found["accuracy"].value == 1
        assert found["fpr"].value == 0
        assert found["recall"].value == 1
        # Blind it always says no, which is right half of the time.
        assert found["blind"].value == 0.5
        assert found["seeing"].value == 0.5
        assert found["accuracy"].low < 1
    # Of anything else the last option: by letters the same one.
    asked = list(cv_scenes(test_store.facts, 0))
    right = np.mean([q.asked.options[-1] == q.asked.answer for q in asked])
    assert scores["cv"]["accuracy"].value == scores["cv"]["letters"].value == pytest.approx(right)
    assert scores["cv"]["questions"] == len(asked)
    assert "letters" not in scores["pope"]
    assert "recall" not in scores["cv"]
    # Nothing was ranked twice: neither what several splits ask, nor the same words without an image.
    with_image = [(p, i) for p, i in vlm.ranked if i is not None]
    blind = [p for p, i in vlm.ranked if i is None]
    assert max(Counter(blind).values()) == 1
    assert max(Counter(with_image).values()) == 1
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows(tmp_path / "rows.jsonl", AnswerRow) == rows


@pytest.mark.parametrize("fusion", ["cross", "concat"])
def test_rows_hold_what_the_model_ranks(
    checkpoints: dict[str, Path], test_store: SceneStore, fusion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = asking._questions
    monkeypatch.setattr(asking, "_questions", lambda *a: [q for q in every(*a) if q.image < 2 and q.kind != "popular"])
    vlm = load_vlm(checkpoints[fusion])
    rows = ask_all(vlm, test_store, 5)
    own = [r for r in rows if r.kind in ("count", "color", "relation", "depth", "distance")]
    asked = {(q.image, q.asked.question.text): q.asked for q in cv_scenes(test_store.facts[:5], 0)}
    assert len(own) == sum(image < 2 for image, _ in asked)
    for row in own[:2]:
        q = asked[row.image, row.subject]
        one = vlm.encode([Image.fromarray(test_store.image(row.image))])
        for said, ask, options in (
            (row.said, Ask(row.subject, 0), q.options),
            (row.blind, Ask(row.subject, None), q.options),
            (row.letter, Ask(q.lettered().question.text, 0), q.lettered().options),
        ):
            assert said == options[int(np.argmax(vlm.rank(one, [ask], [options])[0]))]
        assert (row.answer, row.right_letter) == (q.answer, q.lettered().answer)


def _rows(seed: int, skill: float = 0.7) -> list[AnswerRow]:
    draw = np.random.default_rng(seed)
    rows = []
    for i in range(40):
        for k in range(4):
            right, wrong = ("yes", "no") if k % 2 else ("no", "yes")
            said = right if draw.random() < skill else wrong
            rows.append(AnswerRow(i, "random", str(k), right, said, "no"))
    return rows


def test_intervals_are_those_of_the_benchmarks_statistics() -> None:
    rows = _rows(0)
    right = np.array([float(r.said == r.answer) for r in rows])
    images = np.array([r.image for r in rows])
    weights = resampling_weights(40, 2000, 0)
    found = answer_scores(rows, weights)["random"]["accuracy"]
    sums = np.array([right[images == i].sum() for i in range(40)])
    longhand = score_interval(right.mean(), weights @ sums / (weights @ np.full(40, 4.0)), 40)
    assert vars(found) == pytest.approx(vars(longhand))
    error = clustered_standard_error(right, images, correction=True)
    assert (found.high - found.low) / 2 == pytest.approx(2.02 * error, rel=0.1)


def test_pooled_kinds_hold_all_of_theirs() -> None:
    rows = _rows(0)
    rows += [replace(r, kind="adversarial") for r in _rows(1)] + [replace(_rows(2)[0], kind="count", answer="2")]
    found = kinds_of(rows)
    assert {kind: len(own) for kind, own in found.items()} == {
        "random": 160,
        "adversarial": 160,
        "count": 1,
        "pope": 320,
        "cv": 1,
    }


def test_over_seeds_against_longhand() -> None:
    draw = np.random.default_rng(3)
    images = np.repeat(np.arange(30), 2)
    values = [draw.random(60) < p for p in (0.5, 0.6, 0.9)]
    weights, chosen = resampling_weights(30, 300, 0), resampling_weights(3, 300, 1)
    found = over_seeds([(v, images) for v in values], weights, chosen)
    draws = []
    for w, s in zip(weights, chosen, strict=True):
        each = [sum(w[i] * v for v, i in zip(own, images, strict=True)) / sum(w[i] for i in images) for own in values]
        middle = np.mean(each)
        draws.append(middle + 1.5**0.5 * (sum(s[k] * each[k] for k in range(3)) / 3 - middle))
    longhand = score_interval(float(np.mean(values)), draws, 30)
    assert vars(found) == pytest.approx(vars(longhand))
    alone = over_seeds([(values[0], images)], weights)
    assert vars(alone) == pytest.approx(vars(share(values[0], images, weights)))
    # Seeds that differ widen the interval, seeds that agree do not.
    same = over_seeds([(values[0], images)] * 3, weights)
    assert vars(same) == pytest.approx(vars(alone))
    assert found.high - found.low > alone.high - alone.low
