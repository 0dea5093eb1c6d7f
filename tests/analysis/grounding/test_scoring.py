"""Scores of records: planted looks whose results are known, nulls by hand, statistics against the plain bootstrap."""

from dataclasses import replace

import numpy as np
import pytest

from agevlm.data.masks import encode_mask
from agevlm.data.noise import Noise, resize_mask
from agevlm.geometry import Geometry
from analysis.grounding import stress
from analysis.grounding.measures import scores
from analysis.grounding.nulls import donors
from analysis.grounding.records import KINDS, Look, Said
from analysis.grounding.results import Results, answers, differences
from analysis.grounding.scoring import score_all
from analysis.grounding.statistics import Images, halves
from benchmarks.statistics.clusters import resampling_weights

SIDE, CELLS = 48, 8
GEOMETRY = Geometry.letterbox((SIDE, SIDE * 3 // 4), (SIDE, SIDE), (CELLS, CELLS))
LAYERS = ("mean", "3", "9")
HEADLINE = KINDS.index("phrase-last")


def mask_at(rng):
    height, width = GEOMETRY.image_height, GEOMETRY.image_width
    top, left = rng.integers(0, height - 12), rng.integers(0, width - 12)
    mask = np.zeros((height, width), np.bool_)
    mask[top : top + rng.integers(6, 13), left : left + rng.integers(6, 13)] = True
    return mask


def planted(images=24, each=2, seed=0, sink=0.0):
    """Layer 9 looks at the mask, layer 3 anywhere; the mean of both. A sink takes part of every map."""
    rng, found = np.random.default_rng(seed), []
    for image in range(images):
        held = []
        for k in range(each):
            mask = mask_at(rng)
            share, coverage = GEOMETRY.mask_to_grid(mask), GEOMETRY.coverage()
            good = np.divide(share, coverage, out=np.zeros_like(share), where=coverage > 0) + 0.02
            wild = rng.random((len(KINDS), CELLS, CELLS))
            layers = np.stack([wild / wild.sum((-2, -1), keepdims=True), np.stack([good / good.sum()] * 4)], axis=1)
            layers[..., 3, 6] += sink
            maps = np.concatenate([layers.mean(1, keepdims=True), layers], axis=1)
            elsewhere = np.zeros(maps.shape[:2])
            name = f"{image:02d}.png"
            about = "object" if k == 0 else "attribute"
            held.append(
                Look(f"{name}|{k}", name, "cat", about, GEOMETRY, encode_mask(mask), LAYERS, maps, elsewhere, None)
            )
        found.append((f"{image:02d}.png", held))
    return found


def results(looks, seed=0, **given):
    scored = score_all(lambda: iter(looks), seed=seed, **given)
    return Results(scored, Images([image for image, _ in looks], 300, seed), seed)


def test_the_layer_that_looks_is_told_from_the_one_that_does_not():
    found = results(planted())
    good, wild = (found.cell(found.headline, "iou", layer=layer) for layer in ("9", "3"))
    assert good["corrected"]["uniform"]["value"] == pytest.approx(1)
    assert good["corrected"][good["strongest"]]["low"] > 0.95
    # What looks anywhere is no better than chance, and its interval says so.
    assert wild["corrected"]["uniform"]["low"] < 0 < wild["corrected"]["uniform"]["high"]
    auroc = found.cell(found.headline, "auroc", layer="3")
    assert auroc["low"] < 0.5 < auroc["high"]
    assert auroc["nulls"]["uniform"] == pytest.approx(0.5)
    assert abs(good["nulls"]["swapped"] - good["nulls"]["uniform"]) < 0.1, "another image's mask is met by chance"
    summary = found.summary()
    assert summary["chosen"]["layer"] == "9"
    assert summary["chosen"]["tuning_images"] + summary["chosen"]["tested_images"] == 24
    assert summary["headline_looks"] == 24, "words of attributes stay out"
    assert set(summary["groups"]) == {"object", "attribute"}


def test_nulls_by_hand():
    looks = planted(images=5, each=1)
    scored = score_all(lambda: iter(looks), seed=7)
    every = [look for _, held in looks for look in held]
    lending = donors([look.image for look in every], [look.about for look in every], 7)
    coverage = GEOMETRY.coverage()
    for k, look in enumerate(every):
        share = GEOMETRY.mask_to_grid(look.mask)
        rest = [other.maps / other.maps.sum((-2, -1), keepdims=True) for other in every if other is not look]
        assert scored.scores["iou"][k] == pytest.approx(scores(look.maps, share, coverage)["iou"], rel=1e-5)
        by_hand = scores(np.mean(rest, axis=0), share, coverage)
        lent = GEOMETRY.mask_to_grid(resize_mask(every[lending[k]].mask, *look.size))
        swapped = scores(look.maps, lent, coverage)
        for name in ("iou", "mass", "auroc", "dice"):
            assert scored.nulls["others"][name][k] == pytest.approx(by_hand[name], rel=1e-5)
            assert scored.nulls["swapped"][name][k] == pytest.approx(swapped[name], rel=1e-5, abs=1e-7)


def test_sinks_are_flagged_and_removed_on_demand():
    looks = planted(images=32, each=1, sink=0.6)
    plain, without = results(looks), results(looks, remove_sinks=True)
    for one in (plain, without):
        assert one.fact(one.headline, "sink_cells", layer="9")["value"] == 1
        assert 0.3 < one.fact(one.headline, "sinks", layer="9")["value"] < 0.45
    # Raw maps point at the sink; without it they are the planted ones.
    assert plain.cell(plain.headline, "pointing", layer="9")["value"] < 0.2
    cell = without.cell(without.headline, "pointing", layer="9")
    assert cell["value"] > 0.9 * cell["ceiling"]
    assert plain.cell(plain.headline, "mass", layer="9")["corrected"]["uniform"]["value"] < 0.75
    bland, few = results(planted(images=32, each=1)), results(looks[:20], remove_sinks=True)
    assert bland.fact(bland.headline, "sink_cells")["value"] == 0
    # Few images do not tell what all look at.
    assert few.fact(few.headline, "sinks") == {"value": None, "low": None, "high": None}
    assert few.cell(few.headline, "iou") == results(looks[:20]).cell(few.headline, "iou")


def test_differences_are_paired_and_between_the_same_regions():
    looks = planted()
    other = [(image, [replace(one, maps=one.maps[:, ::-1]) for one in held]) for image, held in looks[1:]]
    first, second = results(looks), results(other)
    found = differences(first, second)
    assert found["n"] == 23
    values = first.scored.scores["iou"][first.headline][1:, HEADLINE, 0]
    theirs = second.scored.scores["iou"][second.headline][:, HEADLINE, 0]
    assert found["iou"]["value"] == pytest.approx((values - theirs).mean(), rel=1e-5)
    same = differences(first, first)
    assert same["iou"]["value"] == 0
    assert same["iou"]["low"] <= 0 <= same["iou"]["high"]


def test_intervals_resample_images_with_all_their_looks():
    rng = np.random.default_rng(2)
    images = np.repeat([f"{k}" for k in range(30)], 4)
    level = np.repeat(rng.random(30), 4)
    values = np.clip(level + rng.normal(0, 0.01, 120), 0, 1)
    own = Images(list(dict.fromkeys(images)), 2000, 0)
    found = own.mean(values, images)
    weights = resampling_weights(30, 2000, 0)
    means = values.reshape(30, 4).mean(1)
    draws = weights @ means / 30
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(np.ptp(np.quantile(draws, [0.025, 0.975])), rel=0.1)
    alone = Images([str(k) for k in range(120)], 2000, 0).mean(values, [str(k) for k in range(120)])
    assert found.high - found.low > 1.7 * (alone.high - alone.low), "looks of an image are no independent ones"


def test_corrected_is_a_ratio_of_means_with_what_is_not_defined_left_out():
    own = Images(["a", "b", "c"], 200, 0)
    values, null, ceiling = np.array([0.5, 0.3, np.nan]), np.array([0.1, 0.1, 0.1]), np.array([0.9, 0.3, 0.9])
    found = own.corrected(values, null, ceiling, ["a", "b", "c"])
    assert found.value == pytest.approx((0.4 + 0.2) / (0.8 + 0.2))
    nothing = own.corrected(np.full(3, np.nan), null, ceiling, ["a", "b", "c"])
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()


def test_halves_share_no_image_and_do_not_depend_on_the_order():
    names = [f"{k}.png" for k in range(21)]
    first, second = halves(names, 4)
    assert (len(first), len(second)) == (10, 11)
    assert not first & second
    assert halves(names[::-1], 4) == (first, second)
    assert halves(names, 5)[0] != first


def test_noise_moves_scores_as_it_should(monkeypatch):
    looks = planted()
    clean = results(looks)
    monkeypatch.setattr(stress, "looks_by_image", lambda table: iter(looks))
    zero, swapped, eroded, dropped = (
        stress.under_noise(clean, None, Noise(kind, level), 0)
        for kind, level in (("shift", 0.0), ("swap", 1.0), ("erode", 0.4), ("drop", 0.5))
    )
    assert zero["change"]["iou"]["value"] == 0
    assert (zero["agreement"], zero["lost"]) == (1, 0)
    # A wholly swapped mask is the null of that name.
    for score in ("iou", "mass", "auroc"):
        expected = clean.cell(clean.headline, score)["nulls"]["swapped"]
        assert swapped["scores"][score]["value"] == pytest.approx(expected, rel=1e-5)
    assert eroded["change"]["mass"]["high"] < 0
    assert eroded["agreement"] < 1
    assert 0 < dropped["lost"] < 24
    assert dropped["change"]["iou"]["value"] == 0, "those that are left are as they were"
    assert stress.under_noise(clean, None, Noise("drop", 1.0), 0) == {"left_out": "no mask is left", "lost": 24}


def test_answers_are_counted_by_group_and_by_what_is_right():
    said = [
        Said("a", "q1", "object", "yes", "yes"),
        Said("a", "q2", "object", "no", "yes"),
        Said("b", "q1", "object", "yes", "unparsed"),
        Said("b", "q3", "negation", "no", "no"),
        Said("b", "q4", "phrase", None, "yes"),
    ]
    found = answers(said, Images(["a", "b"], 200, 0))
    assert set(found) == {"object", "negation"}, "where no right answer is known there is nothing to count"
    held = found["object"]
    assert (held["questions"], held["neither"], held["right_is_yes"]) == (3, 1, pytest.approx(2 / 3))
    assert held["accuracy"]["value"] == pytest.approx(1 / 3)
    assert held["accuracy_where_yes"]["value"] == pytest.approx(1 / 2)
    assert held["accuracy_where_no"]["value"] == 0


def test_no_look_at_all_has_no_scores():
    assert score_all(lambda: iter(()), seed=0) is None
