"""From scores of analyses to measurements, and the two scores that only this table needed."""

import numpy as np
import pytest

from analysis.failure_signs.sources import grounding_signs, padding_signs, similarity_signs
from analysis.grounding.statistics import Images

LEAST = {"attribute": 0.2, "relation": 0.2, "negation": 0.2}


def limits(value, half=0.05):
    return {"value": value, "low": value - half, "high": value + half}


def cell(**changes):
    same = {
        "model": "m", "space": "hidden", "layer": "8", "headline": True, "pooling": "mean", "form": "raw",
        "kind": "other", "images": 30, "pairs": 60, "overlap_of_chance": 0.9,
        "auroc": limits(0.5), "overlap": limits(0.8),
    }  # fmt: skip
    return {**same, **changes}


def test_similarity_is_that_of_the_headline_layer_and_no_other_cell():
    wrong = dict.fromkeys(("auroc", "overlap"), limits(0.01))
    decoys = [
        cell(model="other", **wrong),
        cell(space="query_key", **wrong),
        cell(headline=False, layer="3", **wrong),
        cell(pooling="max", **wrong),
        cell(kind="hard", **wrong),
    ]
    cells = [*decoys, cell(auroc=limits(0.7)), cell(form="centred", auroc=limits(0.9)), *decoys]
    found = similarity_signs({"cells": cells}, "m")
    assert {name: one.value for name, one in found.items()} == {"auroc": 0.7, "auroc-centred": 0.9, "overlap": 0.8}
    assert found["auroc"].n == "30 images, 60 pairs"
    assert "0.90 is to be expected" in found["overlap"].note
    assert similarity_signs({"cells": decoys}, "m")["auroc"].value is None


def padded(condition, query="object", ratio=0.5, **changes):
    held = {"n": 9, "images": 4, "cells": 0.25, "ratio": limits(ratio)}
    row = {"checkpoint": "m", "condition": condition, "group": "non-square", "query": query, "layer": None}
    return {**row, "attended": held, **changes}


def test_padding_is_the_models_own_and_black_only_where_it_makes_none():
    none = {"attended": {"n": 9, "images": 4, "cells": 0.0, "ratio": dict.fromkeys(("value", "low", "high"))}}
    decoys = [padded("native", ratio=9, checkpoint="x"), padded("native", ratio=9, layer=3)]
    content = {"shapes": {"non_square": 4}, "absent": []}
    own = padding_signs({**content, "attention": [*decoys, padded("native"), padded("letterbox black", ratio=2)]}, "m")
    assert own["padding-object"].value == 0.5
    assert "the model's own padding; 25 % of the cells" in own["padding-object"].note
    assert "with black padding 2.00 [1.95, 2.05]" in own["padding-object"].note
    rows = [padded("native", **none), padded("letterbox black", ratio=2)]
    put = padding_signs({**content, "attention": rows}, "m")
    assert put["padding-object"].value == 2
    assert "itself pads none" in put["padding-object"].note
    assert put["padding-last"].value is None
    square = padding_signs({**content, "shapes": {"non_square": 0}, "attention": []}, "m")
    assert "all images are square" in square["padding-object"].note


def test_hallucination_needs_questions_about_what_is_absent():
    content = {"shapes": {"non_square": 0}, "attention": []}
    row = {"checkpoint": "m", "questions": 12, "images": 4, "unparsed": 2, "yes": limits(0.25)}
    found = padding_signs({**content, "absent": [row]}, "m")["yes-to-absent"]
    assert (found.value, found.n) == (0.25, "4 images, 12 questions")
    assert "2 answers neither" in found.note
    assert "no question about an absent" in padding_signs({**content, "absent": []}, "m")["yes-to-absent"].note
    assert "earlier version" in padding_signs(content, "m")["yes-to-absent"].note


def grounded(objects=0.9, own=0.3, half=0.05):
    def group(value):
        return {"iou": {"n": 20, "images": 10, "corrected": {"others": limits(value, half), "uniform": limits(0.99)}}}

    held = {"groups": {"object": group(objects), "attribute": group(own)}}
    held["behind_objects"] = {"attribute": limits(objects - own)}
    return {"models": {"m": held}}


def test_abstract_words_are_compared_with_objects():
    found = grounding_signs(grounded(), "m", LEAST)
    assert found["attribute"].value == pytest.approx(0.6)
    assert found["attribute"].note == "objects 0.90, attribute 0.30"
    assert not found["attribute"].doubt
    assert "no relation words" in found["relation"].note
    assert found["relation"].value is None


def test_nothing_stays_behind_objects_that_are_not_looked_at_themselves():
    found = grounding_signs(grounded(0.22, 0.2), "m", LEAST)["attribute"]
    assert found.doubt
    assert "not looked at by more than 0.2" in found.note
    assert not grounding_signs(grounded(0.26, 0.24), "m", LEAST)["attribute"].doubt


def test_a_run_scored_before_or_without_phrases_is_not_measured():
    old = grounded()
    del old["models"]["m"]["behind_objects"]
    assert "earlier version" in grounding_signs(old, "m", LEAST)["attribute"].note
    assert "no phrase" in grounding_signs({"models": {"m": {}}}, "m", LEAST)["attribute"].note


def test_the_gap_is_the_difference_of_both_and_its_draws_are_paired():
    draw = np.random.default_rng(0)
    names = [f"{k}" for k in range(12)]
    images = Images(names, 500, 1)
    objects, words = (
        (draw.uniform(0.3, 1, 24), np.full(24, 0.1), np.full(24, 1.0), names * 2),
        (draw.uniform(0, 0.5, 12), np.full(12, 0.2), np.full(12, 0.8), names),
    )
    found = images.behind(objects, words)

    def longhand(weights):
        parts = []
        for values, null, ceiling, own in (objects, words):
            times = np.array([weights[names.index(name)] for name in own])
            parts.append((times @ (values - null)) / (times @ (ceiling - null)))
        return parts[0] - parts[1]

    assert found.value == pytest.approx(longhand(np.ones(12)))
    drawn = [longhand(weights) for weights in images.weights]
    assert np.quantile(drawn, 0.005) < found.low < np.quantile(drawn, 0.05)
    assert np.quantile(drawn, 0.95) < found.high < np.quantile(drawn, 0.995)
    # Of the same looks there is no gap, draw by draw: independent draws would leave one.
    same = images.behind(words, words)
    assert (same.value, same.low, same.high) == (0, 0, 0)
