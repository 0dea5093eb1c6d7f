import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.statistics.clusters import (
    boundary_interval,
    clustered_standard_error,
    design_effect,
    expanded_percentile_interval,
    minimum_detectable_effect,
    ratio_standard_error,
    resampling_weights,
    score_interval,
    sum_by_cluster,
)
from tests.oracles import statistics as oracle

ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=40)


def test_weights_are_multinomial_counts_fixed_by_the_seed() -> None:
    weights = resampling_weights(7, 4000, seed=3)
    assert weights.shape == (4000, 7)
    assert weights.dtype == np.float64
    assert (weights.sum(axis=1) == 7).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(7), abs=0.07)
    assert weights.var(axis=0) == pytest.approx(np.full(7, 6 / 7), rel=0.1)
    assert np.array_equal(weights, resampling_weights(7, 4000, seed=3))
    assert not np.array_equal(weights, resampling_weights(7, 4000, seed=4))
    for bad in [(0, 5), (5, 0)]:
        with pytest.raises(ValueError, match="at least one"):
            resampling_weights(*bad, seed=0)


@given(ROWS)
def test_standard_error_equals_the_definition(rows: list[tuple[bool, int]]) -> None:
    values, clusters = [float(value) for value, _ in rows], [cluster for _, cluster in rows]
    expected = oracle.clustered_standard_error(values, clusters)
    # the definition subtracts, so near zero it is the less exact of the two
    assert clustered_standard_error(values, clusters) ** 2 == pytest.approx(expected**2, rel=1e-9, abs=1e-15)


@given(ROWS, st.randoms())
def test_order_of_rows_and_names_of_clusters_do_not_matter(rows: list[tuple[bool, int]], random) -> None:
    shuffled = random.sample(rows, len(rows))
    values, clusters = zip(*rows, strict=True)
    values_2, clusters_2 = zip(*shuffled, strict=True)
    names = [f"image {9 - cluster}" for cluster in clusters_2]
    for statistic in (clustered_standard_error, design_effect):
        assert statistic(values, clusters) == pytest.approx(statistic(values_2, names), abs=1e-12, nan_ok=True)


def correlated(n_clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    sizes = generator.integers(3, 19, n_clusters)
    chance = generator.beta(4, 2, n_clusters)
    clusters = np.repeat(np.arange(n_clusters), sizes)
    return (generator.random(clusters.size) < chance[clusters]).astype(float), clusters


def test_copies_of_rows_add_no_information_about_clusters() -> None:
    values, clusters = correlated(40, seed=1)
    once = clustered_standard_error(values, clusters)
    twice = clustered_standard_error(np.repeat(values, 2), np.repeat(clusters, 2))
    assert twice == pytest.approx(once, rel=1e-12)
    rows = np.arange(values.size)
    naive_once = clustered_standard_error(values, rows)
    naive_twice = clustered_standard_error(np.repeat(values, 2), np.arange(2 * values.size))
    assert naive_once == pytest.approx(oracle.naive_standard_error(values), rel=1e-12)
    assert naive_once / naive_twice == pytest.approx(np.sqrt(2), rel=1e-12)
    assert design_effect(np.repeat(values, 2), np.repeat(clusters, 2)) == pytest.approx(
        2 * design_effect(values, clusters), rel=1e-12
    )


def test_design_effect_is_the_cluster_size_for_copies_and_one_for_single_rows() -> None:
    values = np.array([0.0, 1, 1, 0, 1])
    assert design_effect(values, np.arange(5)) == pytest.approx(1)
    assert design_effect(np.repeat(values, 4), np.repeat(np.arange(5), 4)) == pytest.approx(4)
    assert design_effect([0.0, 1, 0, 1], [0, 0, 1, 1]) == 0
    assert np.isnan(design_effect([0.1, 0.1, 0.1], [0, 0, 1]))
    assert np.isnan(design_effect([], []))


def test_bootstrap_agrees_with_the_closed_forms() -> None:
    values, clusters = correlated(200, seed=2)
    sums, sizes = sum_by_cluster(values, clusters, 200), sum_by_cluster(np.ones(values.size), clusters, 200)
    weights = resampling_weights(200, 8000, seed=0)
    bootstrap = np.std((weights @ sums) / (weights @ sizes))
    closed = clustered_standard_error(values, clusters)
    assert bootstrap == pytest.approx(closed, rel=0.03)
    assert clustered_standard_error(values, np.arange(values.size)) < 0.8 * closed
    corrected = clustered_standard_error(values, clusters, correction=True)
    assert corrected == pytest.approx(closed * np.sqrt(200 / 199), rel=1e-12)
    assert ratio_standard_error(sums, sizes) == pytest.approx(corrected, rel=1e-12)


def test_ratio_standard_error_of_f1_agrees_with_the_bootstrap() -> None:
    generator = np.random.default_rng(5)
    hits, false = generator.binomial(9, generator.beta(8, 2, 300)), generator.binomial(9, generator.beta(1, 9, 300))
    top, bottom = 2.0 * hits, 9.0 + hits + false
    weights = resampling_weights(300, 8000, seed=1)
    assert ratio_standard_error(top, bottom) == pytest.approx(np.std((weights @ top) / (weights @ bottom)), rel=0.03)


def test_clusters_without_a_denominator_do_not_count() -> None:
    top, bottom = np.array([1.0, 2, 0]), np.array([2.0, 3, 4])
    padded = ratio_standard_error(np.append(top, [0, 0]), np.append(bottom, [0, 0]))
    assert padded == pytest.approx(ratio_standard_error(top, bottom), rel=1e-12)


def test_standard_errors_of_too_little_are_nan() -> None:
    assert np.isnan(clustered_standard_error([], []))
    assert np.isnan(clustered_standard_error([0, 1], [3, 3], correction=True))
    assert np.isnan(ratio_standard_error([1.0], [2.0]))
    assert np.isnan(ratio_standard_error([0.0, 0.0], [0.0, 0.0]))
    with pytest.raises(ValueError, match="one length"):
        clustered_standard_error([0, 1], [0])
    with pytest.raises(ValueError, match="one length"):
        ratio_standard_error([0, 1], [0])


def test_sums_by_cluster_refuse_indices_out_of_range() -> None:
    assert sum_by_cluster([1, 2, 4], [2, 0, 2], 4).tolist() == [2, 0, 5, 0]
    for clusters in ([0, 1, 4], [0, -1, 2], [0, 1], [0.0, 1.0, 2.0]):
        with pytest.raises(ValueError):
            sum_by_cluster([1, 2, 4], clusters, 4)


@pytest.mark.parametrize(("n_clusters", "level"), [(2, 0.95), (24, 0.95), (24, 0.8), (500, 0.95)])
def test_expanded_percentiles_follow_the_formula(n_clusters: int, level: float) -> None:
    draws = np.random.default_rng(0).normal(size=(501, 3))
    draws[::7, 1] = np.nan
    low, high = expanded_percentile_interval(draws, n_clusters, level)
    t = stats.t.ppf(1 - (1 - level) / 2, n_clusters - 1)
    tail = stats.norm.cdf(-np.sqrt(n_clusters / (n_clusters - 1)) * t)
    assert low == pytest.approx(np.nanquantile(draws, tail, axis=0), abs=1e-12)
    assert high == pytest.approx(np.nanquantile(draws, 1 - tail, axis=0), abs=1e-12)


def test_expanded_tail_is_that_of_hesterbergs_table() -> None:
    # draws 0..1 in even steps: the lower limit is the tail itself
    draws = np.linspace(0, 1, 100_001)
    assert expanded_percentile_interval(draws, 20)[0] == pytest.approx(0.0159, abs=1e-4)
    assert expanded_percentile_interval(draws, 10**6)[0] == pytest.approx(0.025, abs=1e-5)


def test_percentiles_without_draws_or_clusters_are_nan() -> None:
    draws = np.stack([np.full(50, np.nan), np.arange(50.0), np.arange(50.0)], axis=1)
    low, high = expanded_percentile_interval(draws, np.array([30, 1, 30]))
    assert np.isnan(low).tolist() == np.isnan(high).tolist() == [True, True, False]
    for level in (0, 1, 95):
        with pytest.raises(ValueError, match="level"):
            expanded_percentile_interval(draws, 30, level)
    with pytest.raises(ValueError, match="draw"):
        expanded_percentile_interval(np.empty((0, 3)), 30)


@pytest.mark.parametrize("n_clusters", [1, 20, 24, 500])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_boundary_is_clopper_pearson(n_clusters: int, level: float) -> None:
    for successes in (0, n_clusters):
        exact = stats.binomtest(successes, n_clusters).proportion_ci(level, method="exact")
        limits = boundary_interval(successes / n_clusters, n_clusters, level)
        assert limits == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_boundary_inside_the_range_and_of_gains() -> None:
    share = 1 - 0.025 ** (1 / 24)
    assert boundary_interval(0.5, 24) == pytest.approx((0.5 - share / 2, 0.5 + share / 2))
    assert boundary_interval(0, 24, lowest=-1) == pytest.approx((-share, share))
    assert boundary_interval(1, 24, lowest=-1) == pytest.approx((1 - 2 * share, 1))
    assert np.isnan(boundary_interval(1.0, 0)).all()
    assert np.isnan(boundary_interval(float("nan"), 5)).all()
    with pytest.raises(ValueError, match="outside"):
        boundary_interval(1.5, 24)


def test_score_interval_never_claims_certainty() -> None:
    draws = np.random.default_rng(0).normal(0.97, 0.03, 2000)
    ordinary = score_interval(0.97, draws, 24)
    assert ordinary.high == 1
    assert ordinary.low == expanded_percentile_interval(draws, 24)[0]
    for value in (0.0, 0.5, 1.0):
        constant = score_interval(value, np.full(2000, value), 24)
        assert (constant.low, constant.high) == boundary_interval(value, 24)
        assert constant.high - constant.low > 0.1
    # a calibration error of 0 varies from draw to draw
    perfect = score_interval(0.0, np.linspace(0.01, 0.05, 2000), 24)
    assert (perfect.low, perfect.high) == boundary_interval(0.0, 24)
    undefined = score_interval(float("nan"), np.full(2000, np.nan), 0)
    assert np.isnan([undefined.value, undefined.low, undefined.high]).all()
    one_image = score_interval(0.9, draws, 1)
    assert one_image.value == 0.9
    assert np.isnan([one_image.low, one_image.high]).all()


@given(
    st.lists(st.one_of(st.floats(-0.5, 1.5), st.just(float("nan"))), min_size=1, max_size=30),
    st.floats(0, 1),
    st.integers(2, 600),
)
def test_score_intervals_are_ordered_and_inside_the_range(draws: list[float], value: float, n_clusters: int) -> None:
    interval = score_interval(value, draws, n_clusters)
    if np.isnan(draws).all():
        assert np.isnan([interval.low, interval.high]).all()
    else:
        assert 0 <= interval.low <= interval.high <= 1


def test_minimum_detectable_effect_has_the_stated_power() -> None:
    effect = minimum_detectable_effect(0.01)
    assert effect == pytest.approx(0.0280158, abs=1e-6)
    estimates = np.random.default_rng(0).normal(effect, 0.01, 200_000)
    assert np.mean(estimates / 0.01 > stats.norm.ppf(0.975)) == pytest.approx(0.8, abs=0.005)
    with pytest.raises(ValueError, match="power"):
        minimum_detectable_effect(0.01, power=1)
