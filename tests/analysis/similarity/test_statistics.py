"""Measures and intervals against scikit-learn, scipy and definitions written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gaussian_kde, norm
from sklearn.metrics import roc_auc_score

from analysis.similarity.statistics import MEASURES, Sides, difference, measure, overlap_of_no_difference
from benchmarks.statistics.clusters import resampling_weights


def sides(match, other, images=None, each=1):
    """Texts in pairs, `each` so many an image."""
    image = np.arange(len(match)) // each
    return Sides(np.asarray(match, float), image, np.asarray(other, float), image, np.arange(len(match)))


def values(measured):
    return {name: measured[name].interval.value for name in MEASURES}


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=4, max_size=20))
def test_values_are_those_of_the_definitions(pairs):
    match, other = np.array(pairs, float).T / 5
    found = values(measure(sides(match, other), np.zeros((0, len(match)))))
    labels = [1] * len(match) + [0] * len(other)
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, [*match, *other]), abs=1e-12)
    assert found["paired"] == pytest.approx(np.mean([1 if a > b else 0.5 if a == b else 0 for a, b in pairs]))
    spread = np.sqrt((match.var(ddof=1) + other.var(ddof=1)) / 2)
    if spread > 1e-6:
        assert found["d"] == pytest.approx((match.mean() - other.mean()) / spread)
    else:
        assert np.isnan(found["d"])
    if match.std() and other.std():
        fine = np.linspace(-4, 4, 8001)
        expected = np.trapezoid(np.minimum(gaussian_kde(match)(fine), gaussian_kde(other)(fine)), fine)
        assert found["overlap"] == pytest.approx(expected, abs=5e-3)
    else:
        assert np.isnan(found["overlap"])


def test_ends_of_the_scales():
    draw = np.random.default_rng(0)
    base = draw.normal(0, 0.1, 200)
    apart, same = (measure(sides(base + gap, base), resampling_weights(200, 200, 0)) for gap in (3, 0))
    assert (apart["auroc"].interval.value, apart["paired"].interval.value) == (1, 1)
    assert apart["overlap"].interval.value == pytest.approx(0, abs=1e-6)
    assert (same["auroc"].interval.value, same["paired"].interval.value) == (0.5, 0.5)
    assert same["overlap"].interval.value == pytest.approx(1, abs=1e-3)
    assert same["d"].interval.value == 0


def test_large_samples_come_near_the_truth():
    draw = np.random.default_rng(1)
    match, other = draw.normal(1, 1, 4000), draw.normal(0, 1, 4000)
    found = values(measure(sides(match, other), np.zeros((0, 4000))))
    assert found["auroc"] == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.02)
    assert found["d"] == pytest.approx(1, abs=0.05)
    assert found["overlap"] == pytest.approx(2 * norm.cdf(-0.5), abs=0.03)


def test_draws_are_the_measures_of_images_taken_again_and_again():
    draw = np.random.default_rng(2)
    match, other = draw.normal(0.4, 1, 24), draw.normal(0, 1, 24)
    own = sides(match, other, each=2)
    weights = resampling_weights(12, 5, 3)
    found = measure(own, weights)
    for number, counts in enumerate(weights.astype(int)):
        rows = np.concatenate([np.flatnonzero(own.match_image == i) for i in np.repeat(np.arange(12), counts)])
        labels = [1] * len(rows) + [0] * len(rows)
        a, b = match[rows], other[rows]
        assert found["auroc"].draws[number] == pytest.approx(roc_auc_score(labels, [*a, *b]))
        assert found["paired"].draws[number] == pytest.approx(np.mean(a > b))
        assert found["d"].draws[number] == pytest.approx(
            (a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
        )
        fine = np.linspace(-6, 6, 4001)
        widths = (match.std(ddof=1) * 24**-0.2, other.std(ddof=1) * 24**-0.2)
        densities = [
            np.mean([norm.pdf(fine, v, w) for v in part], axis=0) for part, w in zip((a, b), widths, strict=True)
        ]
        overlap = np.trapezoid(np.minimum(*densities), fine)
        # Mirrored at the estimate.
        assert 2 * found["overlap"].interval.value - found["overlap"].draws[number] == pytest.approx(overlap, abs=2e-3)


def test_texts_of_one_image_are_no_independent_evidence():
    draw = np.random.default_rng(4)
    match, other = np.repeat(draw.normal(0.5, 1, 20), 5), np.repeat(draw.normal(0, 1, 20), 5)
    clustered = measure(sides(match, other, each=5), resampling_weights(20, 500, 0))
    naive = measure(sides(match, other), resampling_weights(100, 500, 0))
    for name in ("auroc", "paired", "d"):
        one, other_ = clustered[name].interval, naive[name].interval
        assert one.high - one.low > 1.6 * (other_.high - other_.low)


def test_differences_are_paired_draw_by_draw():
    draw = np.random.default_rng(5)
    hard = draw.normal(0, 1, 80)  # what makes an image easy or hard for both
    first = sides(hard + 0.5 + draw.normal(0, 0.1, 80), hard * 0 + draw.normal(0, 0.1, 80))
    second = sides(hard + 0.3 + draw.normal(0, 0.1, 80), hard * 0 + draw.normal(0, 0.1, 80))
    weights = resampling_weights(80, 500, 0)
    a, b = measure(first, weights), measure(second, weights)
    gain = difference(a["auroc"], b["auroc"], "auroc", 80)
    assert gain.value == pytest.approx(a["auroc"].interval.value - b["auroc"].interval.value)
    assert gain.low > 0
    assert a["auroc"].interval.low < b["auroc"].interval.high, "unpaired, the intervals overlap"
    same = difference(a["auroc"], a["auroc"], "auroc", 80)
    assert same.value == 0
    assert same.low < 0 < same.high, "no difference in 80 images is no proof of none"


def test_what_chance_would_overlap():
    draw = np.random.default_rng(6)
    base = draw.normal(0, 1, 60)
    none, some = sides(base, draw.normal(0, 1, 60)), sides(base + 3, draw.normal(0, 1, 60))
    chance = overlap_of_no_difference(none, 0)
    assert 0.8 < chance < 1
    assert chance == overlap_of_no_difference(none, 0)
    found = values(measure(some, np.zeros((0, 60))))["overlap"]
    assert found < 0.3 < overlap_of_no_difference(some, 0)
    assert np.isnan(overlap_of_no_difference(sides([1.0] * 4, [1.0] * 4), 0))


def test_undefined_is_nan():
    empty = Sides(*(np.zeros(0), np.zeros(0, int)) * 2, np.zeros(0, int))
    assert all(np.isnan(value) for value in values(measure(empty, np.ones((3, 2)))).values())
