"""Scores against longhand ones and against POPE's own scoring."""

import math

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom

from analysis.figures import encoded
from analysis.padding.answers import mcnemar
from analysis.padding.canvas import conditions
from analysis.padding.figure import profile
from analysis.padding.looking import schema
from analysis.padding.score import score
from benchmarks.pope.protocols import PROTOCOLS
from benchmarks.pope.rows import Answer, Answered
from benchmarks.pope.score import score as pope_score
from benchmarks.pope.types import Question, QuestionSet

WAYS = conditions(("letterbox", "crop"), ("black",))
SPLITS = ("random", "popular", "adversarial")
IMAGES, QUESTIONS = 12, 6


def record(image, question, condition, rng, **given):
    square = image % 4 == 0
    label = question < 3
    made = {
        "group": f"g{image}",
        "set": "made",
        "image": f"{image}.png",
        "width": 40,
        "height": 40 if square else (30 if image % 2 else 20),
        "question": f"Is there a thing{question} in the image?",
        "thing": f"thing{question}",
        "label": label,
        # Positives stand in all splits, negatives in one each: as in POPE.
        "splits": list(SPLITS) if label else [SPLITS[question - 3]],
        "left_by_crop": None,
        "condition": condition,
        "answer": rng.choice(["Yes", "No", "Yes", "No", "Perhaps"]),
        "error": None,
        "yes": -0.2,
        "no": -1.0,
        "hidden_yes": None,
        "hidden_no": None,
        "layers": [1, 3],
        "padding_cells": 0.0 if square or condition == "crop" else 0.25,
        "empty_cells": 0.0 if square or condition == "crop" else 0.125,
        "cells": 64,
    }
    for query in ("object", "last"):
        mass = rng.uniform(0.0, 0.4, 2)
        made |= {f"{query}_visual": [0.5, 0.8], f"{query}_padding": (mass * [0.5, 0.8]).tolist()}
        made |= {f"{query}_empty": (mass * [0.25, 0.4]).tolist()}
    return {**made, **given}


def records(seed=0, change=None):
    rng = np.random.default_rng(seed)
    made = []
    for image in range(IMAGES):
        for way in WAYS if image % 4 else WAYS[:1]:
            for question in range(QUESTIONS):
                one = record(image, question, way.name, rng)
                made.append({**one, **(change(one) or {})} if change else one)
    return made


def table(rows):
    return pa.Table.from_pylist(rows, schema=schema())


def scored(*tables, draws=200):
    return score({f"m{i}": table(t) for i, t in enumerate(tables)}, WAYS, draws=draws, seed=0)


def answers(scores, condition, group="non-square", what="answers"):
    (found,) = [r for r in getattr(scores, what) if (r.checkpoint, r.condition, r.group) == ("m0", condition, group)]
    return found.compared


def test_native_scores_are_those_that_pope_pools():
    rows = records()
    questions, given = [], {}
    for row in rows:
        if row["condition"] != "native":
            continue
        for split in row["splits"]:
            name = f"{row['image']} {row['question']}"
            questions.append(
                Question(split, name, row["image"], row["question"], row["label"], row["thing"], row["image"], "here")
            )
            given[split, name] = Answer(row["answer"])
    sets = Answered(QuestionSet("made", "custom", "", tuple(questions)), {"image": given}, "default")
    pope = pope_score([sets], [PROTOCOLS["default"]], draws=200, seed=0)
    (pooled,) = [r for r in pope.rows if r.split == "pooled" and not r.is_floor]
    ours = answers(scored(rows), "native", "all")
    assert ours.n == pooled.n
    assert ours.images == pooled.images == IMAGES
    for name in ("accuracy", "f1", "yes_ratio"):
        assert ours.scores[name] == pooled.scores[name]
    assert 0 < ours.scores["accuracy"].value < 1, "what is compared is not trivial"


def test_changes_and_flips_are_counted_question_by_question():
    rows = records()
    found = answers(scored(rows), "letterbox black")
    by_key = {(r["condition"], r["image"], r["question"]): r for r in rows}
    n = flips_yes = flips_no = worse = better = change = 0
    for (condition, image, question), row in by_key.items():
        if condition != "letterbox black":
            continue
        before = by_key["native", image, question]["answer"]
        after, truth = row["answer"], "Yes" if row["label"] else "No"
        times = len(row["splits"])
        n += times
        change += times * ((after == truth) - (before == truth))
        flips_yes += (before, after) == ("No", "Yes")
        flips_no += (before, after) == ("Yes", "No")
        worse += before == truth and after != truth
        better += before != truth and after == truth
    assert min(flips_yes, flips_no, worse, better) > 0
    assert (found.n, found.to_yes, found.to_no, found.to_wrong, found.to_right) == (
        n, flips_yes, flips_no, worse, better,
    )  # fmt: skip
    assert found.change["accuracy"].value == pytest.approx(change / n)
    assert found.change["accuracy"].low < found.change["accuracy"].value < found.change["accuracy"].high
    assert found.images == 9


def test_a_square_image_stands_under_every_condition_in_all_and_in_none_else():
    scores = scored(records())
    assert answers(scores, "native", "square").images == 3
    for way in WAYS:
        assert answers(scores, way.name, "all").images == IMAGES
        assert answers(scores, way.name).images == 9
    assert (scores.shapes.square, scores.shapes.non_square) == (3, 9)
    # 40 x 30 needs a quarter, 40 x 20 a half.
    assert dict(scores.shapes.by_need) == {"needs up to 25%": 6, "needs 25-50%": 3, "needs over 50%": 0}


def test_shares_and_ratios_are_means_over_questions():
    rows = records()
    (found,) = [
        r.attended
        for r in scored(rows).attention
        if (r.condition, r.group, r.query, r.layer) == ("native", "non-square", "last", 3)
    ]
    own = [r for r in rows if r["condition"] == "native" and r["width"] != r["height"]]
    share = np.mean([np.float32(r["last_padding"][1]) / np.float32(r["last_visual"][1]) for r in own])
    assert found.n == len(own)
    assert found.share.value == pytest.approx(share, abs=1e-6)
    assert found.cells == 0.25
    assert found.ratio.value == pytest.approx(share / 0.25, abs=1e-6)
    assert found.empty_ratio.value == pytest.approx(share / 2 / 0.125, abs=1e-6)
    assert found.visual.value == pytest.approx(0.8)
    assert 0 < found.ratio.low < found.ratio.value < found.ratio.high


def test_rows_that_float32_sums_to_a_hair_more_than_one_are_scored():
    hair = float(np.nextafter(np.float32(1), np.float32(2)))

    def all_on_padding(one):
        lists = {f"{query}_{name}": [hair, hair] for query in ("object", "last") for name in ("visual", "empty")}
        return {**lists, **{f"{query}_padding": [2 * hair - 1] * 2 for query in ("object", "last")}}

    scores = scored(records(change=all_on_padding), records())
    (found,) = [
        r.attended
        for r in scores.attention
        if (r.checkpoint, r.condition, r.group, r.query, r.layer) == ("m0", "native", "non-square", "last", None)
    ]
    assert found.visual.value == found.share.value == 1
    assert found.ratio.value == 4, "what 1 / null is"
    assert [r for r in scores.differences if r.what == "ratio last"]


def test_the_figures_legend_has_lines_that_the_first_panel_lacks():
    # The first model crops by itself: no native padding in it.
    first = records(change=lambda one: {"padding_cells": 0.0} if one["condition"] == "native" else {})
    drawn = profile(scored(first, records()).to_json()["attention"])
    assert drawn is not None
    said = encoded(drawn)[1].decode()
    for name in ("native", "letterbox black"):
        assert f"<!-- {name} -->" in said or f">{name}<" in said, name


def test_the_margins_interval_has_no_bounds_of_its_own():
    def moved(row):
        return {"yes": -0.2 if row["condition"] == "native" else -0.7}

    same = answers(scored(records(change=moved)), "letterbox black").margin
    # Positives stand in three splits: (9 x -0.5 + 3 x 0.5) / 12, in every image alike.
    assert same.value == pytest.approx(-0.25)
    assert np.isnan([same.low, same.high]).all(), "no width of zero, and no bounds that nobody measured"

    def varied(row):
        return {"yes": -0.2 - (row["condition"] != "native") * float(row["image"][:-4])}

    found = answers(scored(records(change=varied)), "letterbox black").margin
    assert found.low < found.value < found.high


def test_what_a_crop_leaves_out_is_counted_apart():
    def change(row):
        if row["label"] and row["width"] != row["height"]:
            gone = row["question"].endswith("thing0 in the image?")
            said = {"answer": "No" if row["condition"] == "crop" else "Yes"} if gone else {}
            return {"left_by_crop": 0.05 if gone else 0.9, **said}
        return None

    scores = scored(records(change=change))
    (row,) = scores.cropped
    assert (row.known, row.unknown, row.gone) == (27, 0, 9)
    assert (row.yes_native, row.yes_crop) == (1.0, 0.0)
    assert answers(scores, "native").questions == 54
    assert answers(scores, "crop").questions == 45
    assert answers(scores, "letterbox black").questions == 54
    (plain,) = scored(records()).cropped
    assert (plain.known, plain.unknown, plain.gone, plain.yes_crop) == (0, 27, 0, None)


def test_hidden_decisions_are_by_margin_and_missing_ones_are_counted():
    def change(row):
        if row["empty_cells"] == 0:
            return None
        told = {"yes": -0.1, "no": -2.0, "hidden_yes": -2.0, "hidden_no": -0.1}
        if row["image"] == "1.png" and row["condition"] == "native":
            told["hidden_yes"] = None
        return told

    found = answers(scored(records(change=change)), "native", what="hidden")
    assert (found.questions, found.missing, found.images) == (48, 6, 8)
    # Positives count three times: saying yes to all is right in three of four.
    assert found.change["yes_ratio"].value == -1
    assert found.scores["accuracy"].value == pytest.approx(0.25)
    assert (found.to_yes, found.to_no) == (0, 48)
    assert found.margin.value == pytest.approx(-3.8 * 0.75 + 3.8 * 0.25)


def test_an_answer_that_failed_is_missing_in_the_pair_and_no_wrong_one():
    def change(row):
        if row["condition"] == "letterbox black" and row["image"] == "1.png":
            return {"answer": None, "error": "MemoryError"}
        return None

    found = answers(scored(records(change=change)), "letterbox black")
    assert (found.missing, found.questions, found.images) == (6, 48, 8)


def test_checkpoints_are_compared_on_the_same_draws():
    rows = records()
    same = scored(rows, rows)
    assert {r.difference.value for r in same.differences} == {0.0}
    halved = [{**r, **{f"{q}_padding": [v / 2 for v in r[f"{q}_padding"]] for q in ("object", "last")}} for r in rows]
    found = scored(rows, halved)
    (difference,) = [r for r in found.differences if (r.condition, r.what) == ("native", "ratio last")]
    ratios = {
        r.checkpoint: r.attended.ratio
        for r in found.attention
        if (r.condition, r.group, r.query, r.layer) == ("native", "non-square", "last", None)
    }
    assert difference.difference.value == pytest.approx(ratios["m1"].value - ratios["m0"].value)
    # Half of the same in every draw: the paired interval is half as wide as one ratio's, not wider than both.
    assert difference.difference.high - difference.difference.low == pytest.approx(
        (ratios["m0"].high - ratios["m0"].low) / 2, rel=1e-6
    )
    # A crop has no padding to compare.
    assert {r.what for r in found.differences if r.condition == "crop"} == {"accuracy", "change of accuracy"}


def test_the_change_of_a_change_is_the_difference_of_two_changes():
    one, other = records(1), records(2)
    found = scored(one, other)
    changes = {}
    for row in found.answers:
        if (row.condition, row.group) == ("letterbox black", "non-square"):
            changes[row.checkpoint] = row.compared.change["accuracy"].value
    (difference,) = [r for r in found.differences if (r.condition, r.what) == ("letterbox black", "change of accuracy")]
    assert difference.difference.value == pytest.approx(changes["m1"] - changes["m0"])
    assert difference.difference.value != 0


@pytest.mark.parametrize(("wrong", "right"), [(0, 0), (1, 0), (7, 2), (5, 5), (0, 9)])
def test_mcnemar_is_the_exact_test_of_a_fair_coin(wrong, right):
    n = wrong + right
    longhand = min(1.0, 2 * binom.cdf(min(wrong, right), n, 0.5)) if n else 1.0
    assert mcnemar(wrong, right) == pytest.approx(longhand)


def test_the_same_records_in_another_order_give_the_same_scores_as_json():
    rows = records()
    shuffled = [rows[i] for i in np.random.default_rng(3).permutation(len(rows))]
    first, second = scored(rows).to_json(), scored(shuffled).to_json()
    assert first == second
    cropped = next(r for r in first["attention"] if r["condition"] == "crop")
    assert cropped["attended"]["ratio"]["value"] is None
    assert cropped["attended"]["share"]["value"] is None

    def numbers(value):
        if isinstance(value, dict | list):
            for one in value.values() if isinstance(value, dict) else value:
                yield from numbers(one)
        elif isinstance(value, float):
            yield value

    assert all(math.isfinite(v) for v in numbers(first))
