import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.statistics.clusters import (
    boundary_interval,
    clustered_standard_error,
    expanded_percentile_interval,
    resampling_weights,
)
from benchmarks.statistics.paired import paired_gain
from tests.oracles import statistics as oracle

ROWS = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 4)), min_size=1, max_size=30)


def models(n_images: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two models that find the same images hard, the first one a little better."""
    generator = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(n_images), 6)
    difficulty = generator.beta(2, 4, n_images)[clusters]
    luck = generator.random(clusters.size)
    return luck > 0.8 * difficulty, luck > difficulty, clusters


def test_gain_equals_a_loop_over_resampled_images() -> None:
    first, second, clusters = models(15, seed=0)
    drawn = np.random.default_rng(1).integers(0, 15, size=(80, 15))
    weights = np.stack([np.bincount(ids, minlength=15) for ids in drawn]).astype(float)
    naive = []
    for ids in drawn:
        rows = oracle.resampled_rows(clusters, ids)
        naive.append(np.mean(first[rows]) - np.mean(second[rows]))
    gain = paired_gain(first, second, clusters, weights)
    assert gain.value == pytest.approx(first.mean() - second.mean(), abs=1e-12)
    low, high = expanded_percentile_interval(naive, 15)
    assert (gain.low, gain.high) == pytest.approx((float(low), float(high)), abs=1e-12)


def test_pairing_shortens_the_interval_to_that_of_the_differences() -> None:
    first, second, clusters = models(300, seed=3)
    gain = paired_gain(first, second, clusters, resampling_weights(300, 4000, seed=0))
    paired = clustered_standard_error(first.astype(float) - second, clusters)
    unpaired = np.hypot(clustered_standard_error(first, clusters), clustered_standard_error(second, clusters))
    assert gain.high - gain.low == pytest.approx(2 * 1.97 * paired, rel=0.05)
    assert paired < 0.6 * unpaired


def test_models_that_agree_throughout_do_not_give_certainty() -> None:
    first, _, clusters = models(24, seed=0)
    weights = resampling_weights(24, 300, seed=0)
    bound = boundary_interval(0.0, 24)[1]
    agree = paired_gain(first, first, clusters, weights)
    assert agree.value == 0
    assert (agree.low, agree.high) == pytest.approx((-bound, bound))
    always = paired_gain(np.ones(24), np.zeros(24), np.arange(24), weights)
    assert (always.value, always.low, always.high) == pytest.approx((1, 1 - 2 * bound, 1))


def test_no_question_is_nan_and_unusable_input_an_error() -> None:
    weights = resampling_weights(2, 5, seed=0)
    empty = paired_gain([], [], [], weights)
    assert np.isnan([empty.value, empty.low, empty.high]).all()
    with pytest.raises(ValueError, match="same questions"):
        paired_gain([1, 0], [1], [0, 1], weights)
    with pytest.raises(ValueError, match="correctness"):
        paired_gain([1, 2], [1, 0], [0, 1], weights)
    with pytest.raises(ValueError, match="indices"):
        paired_gain([1, 0], [1, 0], [0, 2], weights)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.randoms())
def test_gain_is_in_range_antisymmetric_and_blind_to_order(rows: list[tuple[bool, bool, int]], random) -> None:
    weights = resampling_weights(5, 40, seed=0)
    first, second, clusters = zip(*rows, strict=True)
    gain = paired_gain(first, second, clusters, weights)
    assert str(paired_gain(*zip(*random.sample(rows, len(rows)), strict=True), weights)) == str(gain)
    swapped = paired_gain(second, first, clusters, weights)
    assert swapped.value == pytest.approx(-gain.value, abs=1e-12)
    assert (swapped.low, swapped.high) == pytest.approx((-gain.high, -gain.low), abs=1e-9, nan_ok=True)
    assert np.isnan(gain.low) or -1 <= gain.low <= gain.high <= 1
