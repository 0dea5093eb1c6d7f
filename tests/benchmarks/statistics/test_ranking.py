import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from benchmarks.statistics import ranking
from benchmarks.statistics.clusters import boundary_interval, expanded_percentile_interval, resampling_weights
from benchmarks.statistics.ranking import auroc_draws, clustered_auroc, concordant_blocks
from tests.oracles import statistics as oracle

ROWS = st.lists(st.tuples(st.integers(-2, 2), st.booleans(), st.integers(0, 4)), min_size=1, max_size=25)


def data(n_clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with many ties, labels and unsorted clusters."""
    generator = np.random.default_rng(seed)
    clusters = generator.integers(0, n_clusters, 9 * n_clusters)
    labels = generator.random(clusters.size) < 0.4
    return np.round(generator.normal(size=clusters.size) + labels, 1), labels, clusters


@pytest.mark.parametrize("entries", [1, 40, 1 << 21])
@given(ROWS)
def test_concordant_blocks_equal_the_definition(entries: int, rows: list[tuple[int, bool, int]]) -> None:
    scores, labels, clusters = zip(*rows, strict=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_BLOCK_ENTRIES", entries)
        blocks, positives, negatives = concordant_blocks(scores, labels, clusters, 6)
        pairs = np.zeros((6, 6))
        for first, columns, block in blocks:
            pairs[first : first + len(block), columns] = block
    assert np.array_equal(pairs, oracle.concordant_pairs(scores, labels, clusters, 6))
    assert positives.sum() == sum(labels)
    assert negatives.sum() == len(labels) - sum(labels)
    assert pairs.shape == (6, 6)


def test_auroc_and_its_draws_equal_scikit_learn_on_repeated_rows() -> None:
    scores, labels, clusters = data(20, seed=0)
    weights = resampling_weights(20, 50, seed=1)
    interval = clustered_auroc(scores, labels, clusters, weights)
    assert interval.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    _, draws = auroc_draws(*concordant_blocks(scores, labels, clusters, 20), weights)
    expected = []
    for weight in weights:
        rows = np.repeat(np.arange(scores.size), weight[clusters].astype(int))
        expected.append(roc_auc_score(labels[rows], scores[rows]))
    assert draws == pytest.approx(np.array(expected), abs=1e-12)
    low, high = expanded_percentile_interval(np.array(expected), 20)
    assert (interval.low, interval.high) == pytest.approx((float(low), float(high)), abs=1e-12)


@pytest.mark.parametrize("entries", [1, 300])
def test_the_size_of_the_blocks_changes_no_bit(entries: int) -> None:
    scores, labels, clusters = data(20, seed=0)
    weights = resampling_weights(20, 50, seed=1)
    whole = clustered_auroc(scores, labels, clusters, weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_BLOCK_ENTRIES", entries)
        assert clustered_auroc(scores, labels, clusters, weights) == whole


def test_auroc_without_a_class_is_nan() -> None:
    weights = resampling_weights(3, 20, seed=0)
    for label in (True, False):
        interval = clustered_auroc([0.1, 0.2, 0.3], [label] * 3, [0, 1, 2], weights)
        assert np.isnan([interval.value, interval.low, interval.high]).all()
    _, draws = auroc_draws(*concordant_blocks([1.0, 0.0], [True, False], [0, 1], 2), np.array([[2.0, 0], [1, 1]]))
    assert np.isnan(draws).tolist() == [True, False]


def test_a_perfect_ranking_gets_the_boundary_of_the_scarcer_class() -> None:
    clusters = np.repeat(np.arange(30), 2)
    labels = np.tile([True, False], 30) & (clusters < 10)
    interval = clustered_auroc(labels.astype(float), labels, clusters, resampling_weights(30, 200, seed=0))
    assert (interval.value, interval.low, interval.high) == (1.0, *boundary_interval(1.0, 10))


@settings(max_examples=60, deadline=None)
@given(ROWS, st.randoms())
def test_auroc_is_in_range_in_any_order_of_rows(rows: list[tuple[int, bool, int]], random) -> None:
    weights = resampling_weights(5, 40, seed=0)
    interval = clustered_auroc(*zip(*rows, strict=True), weights)
    shuffled = clustered_auroc(*zip(*random.sample(rows, len(rows)), strict=True), weights)
    assert str(interval) == str(shuffled)
    assert np.isnan(interval.value) or 0 <= interval.value <= 1
    assert np.isnan(interval.low) or 0 <= interval.low <= interval.high <= 1


def test_unusable_input_is_an_error() -> None:
    weights = resampling_weights(2, 5, seed=0)
    with pytest.raises(ValueError, match="NaN"):
        clustered_auroc([0.0, float("nan")], [True, False], [0, 1], weights)
    with pytest.raises(ValueError, match="shape"):
        clustered_auroc([0.0], [True, False], [0, 1], weights)
    with pytest.raises(ValueError, match="indices"):
        clustered_auroc([0.0, 1.0], [True, False], [0, 2], weights)
