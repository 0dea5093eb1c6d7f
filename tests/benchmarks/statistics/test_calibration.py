import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.statistics.calibration import calibration_gaps, expected_calibration_error, reliability_bins
from benchmarks.statistics.clusters import boundary_interval, expanded_percentile_interval, resampling_weights
from tests.oracles import statistics as oracle

PROBABILITY = st.one_of(st.integers(0, 15).map(lambda k: k / 15), st.floats(0, 1))
ROWS = st.lists(st.tuples(PROBABILITY, st.booleans(), st.integers(0, 4)), min_size=1, max_size=40)


def overconfident(n_images: int, seed: int, slope: float = 2.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    logit = generator.normal(0, 0.7, (n_images, 1)) + generator.normal(0, 2, (n_images, 18))
    labels = generator.random(logit.shape) < 1 / (1 + np.exp(-logit))
    return 1 / (1 + np.exp(-slope * logit.ravel())), labels.ravel(), np.repeat(np.arange(n_images), 18)


@settings(deadline=None)
@given(ROWS, st.sampled_from([1, 3, 10, 15]), st.randoms())
def test_the_error_equals_the_definition_in_any_order_of_rows(rows, bins: int, random) -> None:
    weights = resampling_weights(5, 40, seed=0)
    probability, labels, clusters = zip(*rows, strict=True)
    interval = expected_calibration_error(probability, labels, clusters, weights, bins)
    assert interval.value == pytest.approx(oracle.expected_calibration_error(probability, labels, bins), abs=1e-12)
    shuffled = expected_calibration_error(*zip(*random.sample(rows, len(rows)), strict=True), weights, bins)
    assert shuffled.value == pytest.approx(interval.value, abs=1e-12)
    assert np.isnan(interval.low) or 0 <= interval.low <= interval.value <= interval.high <= 1


def test_draws_equal_the_error_of_resampled_rows() -> None:
    probability, labels, clusters = overconfident(15, seed=0)
    drawn = np.random.default_rng(1).integers(0, 15, size=(80, 15))
    weights = np.stack([np.bincount(ids, minlength=15) for ids in drawn]).astype(float)
    naive = []
    for ids in drawn:
        rows = oracle.resampled_rows(clusters, ids)
        naive.append(oracle.expected_calibration_error(probability[rows], labels[rows], 15))
    gaps, questions = calibration_gaps(probability, labels, clusters, 15)
    assert np.abs(weights @ gaps).sum(axis=1) / (weights @ questions) == pytest.approx(np.array(naive), abs=1e-12)
    interval = expected_calibration_error(probability, labels, clusters, weights)
    low, _ = expanded_percentile_interval(naive, 15)
    assert interval.high == pytest.approx(max(interval.value, 2 * interval.value - float(low)), abs=1e-12)


def test_a_calibrated_model_may_have_no_error_and_an_overconfident_one_has() -> None:
    weights = resampling_weights(100, 1000, seed=0)
    intervals = [expected_calibration_error(*overconfident(100, seed, slope=1.0), weights) for seed in range(40)]
    assert np.mean([interval.low == 0 for interval in intervals]) >= 0.9
    assert all(interval.value <= interval.high for interval in intervals)
    # plain percentiles would exclude zero every time
    gaps, questions = calibration_gaps(*overconfident(100, 0, slope=1.0), 100)
    plain = np.abs(weights @ gaps).sum(axis=1) / (weights @ questions)
    assert expanded_percentile_interval(plain, 100)[0] > 0
    assert expected_calibration_error(*overconfident(100, 0, slope=3.0), weights).low > 0.02


def test_faultless_certainty_gets_the_boundary() -> None:
    labels = np.tile([True, False], 20)
    weights = resampling_weights(20, 200, seed=0)
    interval = expected_calibration_error(labels.astype(float), labels, np.repeat(np.arange(20), 2), weights)
    assert (interval.value, interval.low, interval.high) == (0.0, *boundary_interval(0.0, 20))
    wrong = expected_calibration_error(labels.astype(float), ~labels, np.repeat(np.arange(20), 2), weights)
    assert (wrong.value, wrong.low, wrong.high) == (1.0, *boundary_interval(1.0, 20))


def test_reliability_bins() -> None:
    bins = reliability_bins([0.0, 0.1, 0.2, 0.6, 0.9, 1.0], [False, True, False, True, True, False], bins=5)
    assert bins.edges.tolist() == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert bins.count.tolist() == [2, 1, 0, 1, 2]
    assert bins.mean_probability == pytest.approx([0.05, 0.2, np.nan, 0.6, 0.95], nan_ok=True)
    assert bins.observed_frequency == pytest.approx([0.5, 0, np.nan, 1, 0.5], nan_ok=True)


def test_no_question_is_nan_and_unusable_input_an_error() -> None:
    weights = resampling_weights(2, 5, seed=0)
    empty = expected_calibration_error([], [], [], weights)
    assert np.isnan([empty.value, empty.low, empty.high]).all()
    for probability in ([0.5, 1.1], [0.5, float("nan")], [-0.1, 0.5]):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            expected_calibration_error(probability, [True, False], [0, 1], weights)
    with pytest.raises(ValueError, match="bin"):
        reliability_bins([0.5], [True], bins=0)
    with pytest.raises(ValueError, match="length"):
        reliability_bins([0.5], [True, False])
    with pytest.raises(ValueError, match="shape"):
        expected_calibration_error([0.5, 0.5], [True, False], [0], weights)
