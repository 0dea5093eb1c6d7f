"""Scores of maps against masks: cases with a known answer, other implementations, and what must never change."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy, mannwhitneyu
from sklearn.metrics import roc_auc_score

from agevlm.geometry import Geometry
from analysis.grounding.measures import (
    SCORES,
    SIZES,
    THRESHOLDS,
    all_scores,
    area_matched_iou,
    auroc,
    ceilings,
    facts,
    mass_inside,
    pointing_game,
    scores,
    size_bin,
    soft_dice,
    threshold_iou,
)

GEOMETRIES = {
    "letterbox": lambda size: Geometry.letterbox(size, (96, 96), (6, 8)),
    "squash": lambda size: Geometry.squash(size, (96, 96), (6, 8)),
    "crop": lambda size: Geometry.crop(size, (96, 96), (6, 8)),
}


@st.composite
def cells(draw):
    """Share and coverage of a grid, with padding, and something on the mask."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 6)))
    coverage = draw(arrays(np.float64, shape, elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])))
    part = draw(arrays(np.float64, shape, elements=st.sampled_from([0.0, 0.3, 1.0])))
    assume((part * coverage).sum() > 0)
    return part * coverage, coverage


@st.composite
def looked(draw):
    """A map on such a grid, with ties."""
    share, coverage = draw(cells())
    values = arrays(np.float64, coverage.shape, elements=st.sampled_from([0.0, 0.001, 0.1, 0.1001, 0.5, 1.0]))
    a = draw(values)
    assume((a * coverage).sum() > 0)
    return a, share, coverage


def hard(rng, shape=(5, 7)):
    """A map without ties and a mask of whole cells, no padding."""
    share = np.zeros(shape)
    share.ravel()[rng.permutation(share.size)[: rng.integers(1, share.size - 1)]] = 1
    return rng.random(shape), share, np.ones(shape)


@pytest.mark.parametrize("size", [(96, 96), (123, 45), (50, 121)])
@pytest.mark.parametrize("mode", GEOMETRIES)
def test_a_map_equal_to_the_mask_reaches_the_ceiling_and_flipped_or_turned_ones_do_not(mode, size):
    geometry = GEOMETRIES[mode](size)
    # The upper left corner of what is seen, higher than wide: no flip leaves it where it is.
    x0, y0, x1, y1 = geometry.seen_box
    mask = np.zeros((size[1], size[0]), np.bool_)
    mask[int(y0) : int(y0 + 0.4 * (y1 - y0)), int(x0) : int(x0 + 0.25 * (x1 - x0))] = True
    share, coverage = geometry.mask_to_grid(mask), geometry.coverage()
    ideal = np.divide(share, coverage, out=np.zeros_like(share), where=coverage > 0)
    top = ceilings(share, coverage)
    found = all_scores(ideal, share, coverage)
    for name in ("iou", "dice", "auroc", "pointing"):
        assert found[name] == pytest.approx(top[name], abs=1e-9)
    assert max(threshold_iou(ideal, share, coverage, [*THRESHOLDS, 1e-9])) <= top["best_iou"] + 1e-9
    for wrong in (ideal[::-1], ideal[:, ::-1], ideal.T.reshape(ideal.shape), ideal[::-1, ::-1]):
        moved = all_scores(wrong, share, coverage)
        for name in ("iou", "dice", "auroc"):
            assert np.nan_to_num(moved[name]) < 0.8 * found[name]


def test_whole_cells_reach_one():
    share = np.zeros((4, 6))
    share[1:3, 2:5] = 1
    top = ceilings(share, np.ones((4, 6)))
    assert top == {"iou": 1, "dice": 1, "pointing": 1, "mass": 1, "lift": 4, "auroc": 1, "best_iou": 1}
    found = scores(share, share, np.ones((4, 6)))
    assert {name: float(v) for name, v in found.items()} == {**dict.fromkeys(SCORES, 1.0), "lift": 4.0}


@given(cells())
def test_a_uniform_map_has_the_chance_values(grid):
    share, coverage = grid
    p = share.sum() / coverage.sum()
    found = scores(np.ones(coverage.shape), share, coverage)
    assert found["mass"] == pytest.approx(p)
    assert found["pointing"] == pytest.approx(p)
    assert found["lift"] == pytest.approx(1)
    assert found["iou"] == pytest.approx(p / (2 - p))
    assert found["auroc"] == pytest.approx(0.5) if p < 1 - 1e-9 else np.isnan(found["auroc"])
    assert threshold_iou(np.ones(share.shape), share, coverage, [0.5])[0] == pytest.approx(p)
    of_map = facts(np.ones(coverage.shape), coverage)
    assert of_map["padding"] == pytest.approx(1 - coverage.mean())
    if (coverage > 0).sum() > 1:
        assert of_map["entropy"] == pytest.approx(1)


@pytest.mark.parametrize("seed", range(8))
def test_auroc_is_scikit_learn_s_and_scipy_s_for_masks_of_whole_cells(seed):
    a, share, coverage = hard(np.random.default_rng(seed))
    a = np.round(a, 1)  # ties
    labels = share.ravel() > 0
    assert auroc(a, share, coverage) == pytest.approx(roc_auc_score(labels, a.ravel()))
    u = mannwhitneyu(a.ravel()[labels], a.ravel()[~labels]).statistic
    assert auroc(a, share, coverage) == pytest.approx(u / labels.sum() / (~labels).sum())


@given(looked())
def test_auroc_of_partly_covered_cells_is_scikit_learn_s_with_areas_as_weights(grid):
    a, share, coverage = grid
    rest = coverage - share
    found = auroc(a, share, coverage)
    if rest.sum() < 1e-9:
        assert np.isnan(found)
        return
    labels = np.r_[np.ones(a.size), np.zeros(a.size)]
    weights = np.r_[share.ravel(), rest.ravel()]
    theirs = roc_auc_score(labels[weights > 0], np.tile(a.ravel(), 2)[weights > 0], sample_weight=weights[weights > 0])
    assert found == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_iou_is_pycocotools_where_cells_are_whole_pixels(seed):
    from pycocotools import mask as coco

    rng = np.random.default_rng(seed)
    a, _, coverage = hard(rng)
    geometry = Geometry.squash((70, 50), (70, 50), (5, 7))
    mask = rng.random((50, 70)) < 0.3
    share = geometry.mask_to_grid(mask)
    truth = coco.encode(np.asfortranarray(mask, np.uint8))
    for threshold in (0.2, 0.5, 0.9):
        painted = geometry.grid_to_image(a >= threshold * a.max())
        theirs = coco.iou([coco.encode(np.asfortranarray(painted, np.uint8))], [truth], [0])[0, 0]
        assert threshold_iou(a, share, coverage, [threshold])[0] == pytest.approx(theirs)
    # The best choice of cells, painted and compared in pixels.
    order = np.argsort(-share.ravel())
    best = 0.0
    for count in range(1, share.size + 1):
        chosen = np.zeros(share.size)
        chosen[order[:count]] = 1
        painted = geometry.grid_to_image(chosen.reshape(share.shape)).astype(np.bool_)
        best = max(best, (painted & mask).sum() / (painted | mask).sum())
    assert ceilings(share, coverage)["best_iou"] == pytest.approx(best)


def test_no_choice_of_cells_beats_the_ceiling():
    rng = np.random.default_rng(3)
    coverage = rng.choice([0.0, 0.5, 1.0], (2, 4))
    share = coverage * rng.random((2, 4))
    ious, c, s = [], coverage.ravel(), share.ravel()
    for chosen in itertools.product([0, 1], repeat=8):
        inside = np.dot(chosen, s)
        ious.append(inside / (s.sum() + np.dot(chosen, c) - inside))
    assert ceilings(share, coverage)["best_iou"] == pytest.approx(max(ious))


def test_equal_cells_are_taken_as_random_order_takes_them_on_average():
    a = np.array([[5.0, 1, 1], [1, 1, 0]])
    share, coverage = np.array([[0.5, 1, 0], [0.25, 0, 0.75]]), np.ones((2, 3))
    area, inside = share.sum(), []
    for order in itertools.permutations(range(6)):
        ranked = sorted(order, key=lambda k: -a.ravel()[k])
        left, got = area, 0.0
        for k in ranked:
            got += min(1.0, left) * share.ravel()[k]
            left -= min(1.0, left)
        inside.append(got)
    mean = np.mean(inside)
    assert np.ptp(inside) > 0.2, "the order matters"
    assert area_matched_iou(a, share, coverage) == pytest.approx(mean / (2 * area - mean))


@pytest.mark.parametrize(("covered", "loss"), [(40, 0.870), (200, 0.484)])
def test_soft_dice_of_a_uniform_map_on_576_cells(covered, loss):
    share = np.zeros((24, 24))
    share.ravel()[:covered] = 1
    assert 1 - soft_dice(np.full((24, 24), 1 / 576), share, np.ones((24, 24))) == pytest.approx(loss, abs=1e-3)


@given(looked())
def test_longhand(grid):
    a, share, coverage = grid
    on_mask = on_image = 0.0
    p, q = [], []
    for row, column in np.ndindex(a.shape):
        on_mask += a[row, column] * share[row, column]
        on_image += a[row, column] * coverage[row, column]
        p.append(a[row, column] * coverage[row, column])
        q.append(share[row, column])
    p, q = np.divide(p, sum(p)), np.divide(q, sum(q))
    assert mass_inside(a, share, coverage) == pytest.approx(on_mask / on_image)
    assert soft_dice(a, share, coverage) == pytest.approx(2 * (p * q).sum() / ((p**2).sum() + (q**2).sum()))
    largest = a[coverage > 0].max()
    hits = [(share[k], coverage[k]) for k in np.ndindex(a.shape) if coverage[k] > 0 and a[k] == largest]
    assert pointing_game(a, share, coverage) == pytest.approx(sum(s for s, _ in hits) / sum(c for _, c in hits))
    found = facts(a, coverage)
    assert found["on_image"] == pytest.approx(on_image)
    assert found["padding"] == pytest.approx(1 - on_image / a.sum())
    if (coverage > 0).sum() > 1:
        even = coverage[coverage > 0]
        assert found["entropy"] == pytest.approx(entropy(p) / entropy(even / even.sum()))


@given(looked(), st.sampled_from([1e-6, 0.25, 3.0]))
def test_scores_are_of_shares_and_not_of_sizes(grid, factor):
    a, share, coverage = grid
    one, other = scores(a, share, coverage), scores(a * factor, share, coverage)
    for name in SCORES:
        assert one[name] == pytest.approx(other[name], nan_ok=True)


@given(looked(), st.floats(0, 5))
def test_cells_of_padding_change_nothing_but_the_padding(grid, on_padding):
    a, share, coverage = grid
    wide = [np.pad(x, ((0, 1), (2, 0))) for x in (a, share, coverage)]
    wide[0][-1, :] = on_padding
    one, other = all_scores(a, share, coverage), all_scores(*wide)
    for name, value in one.items():
        assert value == pytest.approx(other[name], nan_ok=True)
    assert facts(wide[0], wide[2])["padding"] >= facts(a, coverage)["padding"] - 1e-12


@given(looked())
def test_scores_lie_between_0_and_their_ceiling(grid):
    top = ceilings(*grid[1:])
    for name, value in all_scores(*grid).items():
        most = top["best_iou" if "@" in name else name]
        assert np.isnan(value) == (name == "auroc" and np.isclose(grid[1].sum(), grid[2].sum())) or value >= 0
        assert not value > most + 1e-9


@given(looked())
def test_maps_with_leading_axes_are_scored_one_by_one(grid):
    a, share, coverage = grid
    many = np.stack([a, np.ones(a.shape), np.zeros(a.shape), a[::-1]])[None]
    found = all_scores(many, share, coverage)
    for k in range(4):
        for name, value in all_scores(many[0, k], share, coverage).items():
            assert found[name].shape == (1, 4)
            assert found[name][0, k] == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize("empty", [0.0, np.nan])
def test_a_map_with_nothing_on_the_image_has_no_score(empty):
    share, coverage = np.ones((2, 2)) / 2, np.array([[1.0, 1.0], [0.0, 1.0]])
    share[1, 0] = 0
    a = np.full((2, 2), empty)
    a[1, 0] = 0.5
    assert all(np.isnan(v) for v in all_scores(a, share, coverage).values())
    # Padding alone is a fact all the same.
    if empty == 0:
        assert facts(a, coverage)["padding"] == 1


def test_sizes_are_binned_with_the_upper_end_outside():
    shares = [0, 0.0049, 0.005, 0.0499, 0.05, 1]
    assert [SIZES.index(size_bin(share)) for share in shares] == [0, 0, 1, 1, 2, 2]
