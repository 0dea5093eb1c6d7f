import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics

from benchmarks.statistics.bootstrap import Interval, mean_of_scores, score_with_intervals
from benchmarks.statistics.clusters import boundary_interval, expanded_percentile_interval, resampling_weights
from benchmarks.statistics.scores import FIELDS, SCORES, score_counts
from tests.oracles import statistics as oracle


def counts_of(confusion: np.ndarray) -> np.ndarray:
    """Counts (..., 9) of tp, fp, tn, fn (..., 4)."""
    tp, fp, tn, fn = np.moveaxis(np.asarray(confusion, dtype=float), -1, 0)
    zero = np.zeros_like(tp)
    return np.stack([tp + fp + tn + fn, tp + tn, tp, fp, tn, fn, zero, zero, tp + fp], axis=-1)


def cell(n_images: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    hits = generator.binomial(3, generator.beta(8, 2, n_images))
    false = generator.binomial(3, generator.beta(1, 6, n_images))
    return counts_of(np.stack([hits, false, 3 - false, 3 - hits], axis=-1))


def rows_of(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, answers and images, row by row."""
    kinds = {"tp": (True, True), "fp": (False, True), "tn": (False, False), "fn": (True, False)}
    rows = [
        (*kinds[kind], image)
        for image, row in enumerate(counts)
        for kind in kinds
        for _ in range(int(row[FIELDS.index(kind)]))
    ]
    label, answer, image = zip(*rows, strict=True)
    return np.array(label), np.array(answer), np.array(image)


def naive_draws(counts: np.ndarray, drawn: np.ndarray) -> dict[str, np.ndarray]:
    label, answer, image = rows_of(counts)
    result: dict[str, list[float]] = {score: [] for score in SCORES}
    for ids in drawn:
        rows = oracle.resampled_rows(image, ids)
        y, a = label[rows], answer[rows]
        result["accuracy"].append(metrics.accuracy_score(y, a))
        result["precision"].append(metrics.precision_score(y, a, zero_division=np.nan))
        result["recall"].append(metrics.recall_score(y, a, zero_division=np.nan))
        result["f1"].append(metrics.f1_score(y, a, zero_division=np.nan))
        result["yes_ratio"].append(a.mean())
    return {score: np.array(values) for score, values in result.items()}


def test_draws_equal_a_loop_over_resampled_images() -> None:
    n_images = 12
    counts = cell(n_images, seed=4)
    drawn = np.random.default_rng(9).integers(0, n_images, size=(60, n_images))
    weights = np.stack([np.bincount(ids, minlength=n_images) for ids in drawn]).astype(float)
    naive = naive_draws(counts, drawn)
    vectorised = score_counts(weights @ counts)
    table = score_with_intervals({"all": counts}, weights)["all"]
    label, answer, _ = rows_of(counts)
    assert table["f1"].value == pytest.approx(metrics.f1_score(label, answer), abs=1e-12)
    for score in SCORES:
        assert vectorised[score] == pytest.approx(naive[score], abs=1e-12)
        low, high = expanded_percentile_interval(naive[score], n_images)
        assert (table[score].low, table[score].high) == pytest.approx((float(low), float(high)), abs=1e-12)


def test_cells_do_not_disturb_each_other() -> None:
    weights = resampling_weights(30, 300, seed=0)
    cells = {("split", k): cell(30, seed=k) for k in range(3)}
    together = score_with_intervals(cells, weights)
    assert list(together) == list(cells)
    for key, counts in cells.items():
        assert together[key] == score_with_intervals({key: counts}, weights)[key]
    assert score_with_intervals({}, weights) == {}


def test_clusters_are_those_with_a_denominator() -> None:
    counts = cell(200, seed=1)
    counts[20:] = 0
    counts[:20] = counts_of(np.array([3, 0, 3, 0]))
    table = score_with_intervals({"cell": counts}, resampling_weights(200, 400, seed=0))["cell"]
    for score in ("accuracy", "precision", "recall", "f1"):
        assert table[score] == Interval(1.0, *boundary_interval(1.0, 20))
    assert table["yes_ratio"] == Interval(0.5, *boundary_interval(0.5, 20))


def test_precision_of_a_model_that_never_says_yes_is_nan() -> None:
    counts = np.broadcast_to(counts_of(np.array([0, 0, 3, 3])), (25, 9))
    table = score_with_intervals({"cell": counts}, resampling_weights(25, 200, seed=0))["cell"]
    assert np.isnan([table["precision"].value, table["precision"].low, table["precision"].high]).all()
    assert table["f1"] == Interval(0.0, *boundary_interval(0.0, 25))


def test_the_mean_over_splits_is_resampled_jointly() -> None:
    weights = resampling_weights(100, 2000, seed=0)
    one = cell(100, seed=2)
    alone = score_with_intervals({0: one}, weights)[0]["f1"]
    copies = mean_of_scores([one, one, one], weights)["f1"]
    assert (copies.value, copies.low, copies.high) == pytest.approx((alone.value, alone.low, alone.high), abs=1e-12)
    cells = [cell(100, seed=seed) for seed in (2, 3, 4)]
    mean = mean_of_scores(cells, weights)["f1"]
    draws = np.mean([score_counts(weights @ counts)["f1"] for counts in cells], axis=0)
    low, high = expanded_percentile_interval(draws, 100)
    assert mean.value == pytest.approx(np.mean([score_counts(c.sum(axis=0))["f1"] for c in cells]), abs=1e-12)
    assert (mean.low, mean.high) == pytest.approx((float(low), float(high)), abs=1e-12)
    assert mean.high - mean.low < 0.8 * (copies.high - copies.low)


def test_the_mean_has_the_clusters_of_its_smallest_cell() -> None:
    faultless = np.array(np.broadcast_to(counts_of(np.array([3, 0, 3, 0])), (40, 9)))
    smaller = faultless.copy()
    smaller[25:] = 0
    mean = mean_of_scores([faultless, smaller], resampling_weights(40, 200, seed=0))["f1"]
    assert mean == Interval(1.0, *boundary_interval(1.0, 25))


def test_a_mean_with_an_undefined_cell_is_undefined() -> None:
    weights = resampling_weights(20, 100, seed=0)
    mean = mean_of_scores([cell(20, seed=0), np.zeros((20, 9))], weights)["f1"]
    assert np.isnan([mean.value, mean.low, mean.high]).all()


def test_wrong_shapes_are_errors() -> None:
    weights = resampling_weights(20, 10, seed=0)
    with pytest.raises(ValueError, match="counts of shape"):
        score_with_intervals({0: cell(21, seed=0)}, weights)
    with pytest.raises(ValueError, match="at least one cell"):
        mean_of_scores([], weights)


@settings(max_examples=60, deadline=None)
@given(arrays(np.int64, st.tuples(st.integers(2, 8), st.just(4)), elements=st.integers(0, 3)), st.randoms())
def test_scores_and_limits_stay_in_range_in_any_order_of_images(confusion: np.ndarray, random) -> None:
    counts = counts_of(confusion)
    weights = resampling_weights(len(counts), 40, seed=0)
    table = score_with_intervals({0: counts}, weights)[0]
    order = random.sample(range(len(counts)), len(counts))
    assert str(score_with_intervals({0: counts[order]}, weights[:, order])[0]) == str(table)
    for interval in table.values():
        assert np.isnan(interval.value) or 0 <= interval.value <= 1
        assert np.isnan(interval.low) == np.isnan(interval.high)
        assert np.isnan(interval.low) or 0 <= interval.low <= interval.high <= 1
