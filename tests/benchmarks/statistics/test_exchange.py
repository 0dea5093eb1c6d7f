"""Whether two models differ: against every choice of signs, longhand sums, published examples and simulation."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from benchmarks.statistics.clusters import minimum_detectable_effect, resampling_weights, sum_by_cluster
from benchmarks.statistics.exchange import exchange_exact, exchange_test, holm, mcnemar_exact
from benchmarks.statistics.paired import difference, paired_gain

COUNTS = st.integers(0, 60)


@pytest.mark.parametrize(
    ("counts", "p"),
    [
        # Fagerland, Lydersen and Laake 2013 (BMC Medical Research Methodology 13, 91), the exact conditional test of
        # their two examples.
        ((1, 7), 0.0703),
        ((6, 16), 0.0525),
    ],
)
def test_mcnemar_of_published_examples(counts, p):
    assert mcnemar_exact(*counts) == pytest.approx(p, abs=5e-5)


@given(COUNTS, COUNTS)
def test_mcnemar_is_the_binomial_sum_and_scipys_test(b, c):
    n = b + c
    tail = sum(Fraction(comb(n, k), 2**n) for k in range(min(b, c) + 1))
    assert mcnemar_exact(b, c) == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-9)
    assert mcnemar_exact(b, c) == mcnemar_exact(c, b)
    if n:
        assert mcnemar_exact(b, c) == pytest.approx(binomtest(b, n).pvalue, rel=1e-9)


def test_mcnemar_at_its_ends():
    assert mcnemar_exact(0, 0) == 1
    assert mcnemar_exact(0, 40) == pytest.approx(2**-39)
    with pytest.raises(ValueError, match="negative"):
        mcnemar_exact(-1, 2)


@given(st.lists(st.integers(-6, 6), max_size=9))
def test_exchange_exact_is_the_share_of_all_choices_of_signs(gains):
    sums = [abs(sum(s * g for s, g in zip(signs, gains, strict=True))) for signs in product((1, -1), repeat=len(gains))]
    far = sum(one >= abs(sum(gains)) for one in sums)
    assert exchange_exact(gains) == pytest.approx(far / len(sums), rel=1e-9)


@given(COUNTS, COUNTS, st.integers(0, 5))
def test_one_question_for_each_image_is_mcnemar(b, c, agreeing):
    assert exchange_exact([1] * b + [-1] * c + [0] * agreeing) == pytest.approx(mcnemar_exact(b, c), rel=1e-9)


def test_copies_of_a_question_are_no_evidence():
    gains = [1] * 8 + [-1] * 2
    thrice = [3 * one for one in gains]
    assert exchange_exact(thrice) == pytest.approx(exchange_exact(gains))
    assert mcnemar_exact(6, 24) < 0.01 < exchange_exact(gains)


def test_exchange_exact_of_many_images_and_of_no_whole_numbers():
    many = np.random.default_rng(0).integers(-9, 10, 2000)
    assert 0 < exchange_exact(many) <= 1
    assert exchange_exact(np.ones(3000)) == 0  # 2^-2999: below the smallest number
    with pytest.raises(ValueError, match="whole"):
        exchange_exact([0.5])


def test_the_random_test_finds_the_exact_p():
    gains = np.random.default_rng(1).integers(-2, 4, 40).astype(float)
    first, second = np.maximum(gains, 0)[:, None], np.maximum(-gains, 0)[:, None]
    found, p = exchange_test(first, second, lambda a, b: a - b)
    exact = exchange_exact(gains)
    assert found[0] == gains.sum()
    assert 0.001 < exact < 0.3  # neither end would tell
    assert p[0] == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 10_000))


def test_the_random_test_by_longhand():
    generator = np.random.default_rng(2)
    first, second = generator.random((2, 7, 3))

    def statistic(a, b):
        return np.stack([a[..., 0] / a[..., 1] - b[..., 0] / b[..., 1], (a - b)[..., 2]], axis=-1)

    found, p = exchange_test(first, second, statistic, draws=1500, seed=5)
    exchanged = np.random.default_rng(5)
    flips = np.concatenate([exchanged.integers(0, 2, (1000, 7)), exchanged.integers(0, 2, (500, 7))])
    far = np.zeros(2)
    for flip in flips:
        a = np.where(flip[:, None] == 1, second, first).sum(axis=0)
        b = np.where(flip[:, None] == 1, first, second).sum(axis=0)
        far += np.abs(statistic(a, b)) >= np.abs(found) - 1e-9
    assert p == pytest.approx((1 + far) / 1501)
    assert exchange_test(second, first, statistic, draws=1500, seed=5)[1] == pytest.approx(p)


def test_an_undefined_number_has_no_p_and_undefined_draws_count_as_far():
    first, second = np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([[0.0, 0.0], [1.0, 1.0]])

    def ratio(a, b):
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.stack([np.where(a[:, 1] == 1, np.nan, a[:, 0] - b[:, 0]), a[:, 0] - b[:, 0]], axis=-1)

    _, p = exchange_test(first, second, ratio, draws=200)
    assert np.isnan(p[0])
    assert p[1] == 1
    _, p = exchange_test(first, second, lambda a, b: np.where(a[:, :1] == 2, np.nan, 1.0), draws=200)
    assert p[0] == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holm_is_the_closed_test_of_bonferronis(p_values):
    """Each is as small as alpha may be, so that every set of hypotheses that it belongs to is refused by Bonferroni."""
    places = range(len(p_values))
    for place, found in enumerate(holm(p_values)):
        sets = [s for size in range(1, len(p_values) + 1) for s in combinations(places, size) if place in s]
        assert found == pytest.approx(min(1, max(len(s) * min(p_values[i] for i in s) for s in sets)))


def test_holm_of_known_values():
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.04, 0.001, 0.3]) == pytest.approx([0.08, 0.003, 0.3])
    assert holm([]) == []
    found = holm([0.01, float("nan"), 0.5])
    assert found[::2] == pytest.approx([0.02, 0.5])
    assert np.isnan(found[1])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([1.2])


# --- by simulation ----------------------------------------------------------------------------------------------------

IMAGES, PER_IMAGE = 60, 6


def discordant(generator: np.random.Generator, gain: float, share: float = 0.3) -> np.ndarray:
    """Gains (images, questions) in -1, 0, 1 of mean `gain`; in half of the images all questions say the same."""
    chances = [(share - gain) / 2, 1 - share, (share + gain) / 2]
    gains = generator.choice([-1, 0, 1], (IMAGES, PER_IMAGE), p=chances)
    alike = generator.random(IMAGES) < 0.5
    return np.where(alike[:, None], gains[:, :1], gains)


def interval(gains: np.ndarray, weights: np.ndarray):
    clusters = np.repeat(np.arange(IMAGES), PER_IMAGE)
    flat = gains.ravel()
    return paired_gain(flat > 0, flat < 0, clusters, weights)


def test_false_alarms_of_models_that_do_not_differ():
    """Of 600 comparisons the interval and the test by image raise about 5 % alarms, McNemar's many more."""
    generator, weights = np.random.default_rng(3), resampling_weights(IMAGES, 400, 0)
    alarms = np.zeros(3)
    for _ in range(600):
        gains = discordant(generator, 0.0)
        found = interval(gains, weights)
        by_image = gains.sum(axis=1)
        alarms += (
            found.low > 0 or found.high < 0,
            exchange_exact(by_image) <= 0.05,
            mcnemar_exact(int((gains < 0).sum()), int((gains > 0).sum())) <= 0.05,
        )
    by_interval, by_exchange, by_mcnemar = alarms / 600
    # Three standard errors of a share of 5 % are 2.7 points.
    assert 0.023 < by_interval < 0.077
    assert 0.015 < by_exchange < 0.077
    assert by_mcnemar > 0.15


def test_a_difference_as_large_as_detectable_is_found_in_four_of_five():
    generator, weights = np.random.default_rng(4), resampling_weights(IMAGES, 400, 0)
    clusters = np.repeat(np.arange(IMAGES), PER_IMAGE)

    def detectable() -> float:
        flat = discordant(generator, 0.0).ravel()
        sums = sum_by_cluster(flat, clusters, IMAGES)
        draws = (weights @ sums) / (IMAGES * PER_IMAGE)
        return difference(float(flat.mean()), 0.0, draws, IMAGES, 1.0).detectable

    effect = float(np.mean([detectable() for _ in range(50)]))
    found = [interval(discordant(generator, effect), weights) for _ in range(600)]
    power = np.mean([one.low > 0 or one.high < 0 for one in found])
    assert 0.05 < effect < 0.25
    # The formula is that of a normal distribution; three standard errors of a share of 80 % are 4.9 points.
    assert 0.74 < power < 0.87


@given(st.floats(0, 1), st.floats(0.5, 0.99), st.floats(0.001, 0.2))
@settings(max_examples=30)
def test_the_detectable_difference_is_in_proportion_to_the_standard_error(error, power, alpha):
    one = minimum_detectable_effect(error, power, alpha)
    assert minimum_detectable_effect(2 * error, power, alpha) == pytest.approx(2 * one)
    assert one >= 0


def test_models_that_never_differ_have_no_detectable_difference():
    same = difference(0.5, 0.5, np.zeros(100), 50, 1.0)
    assert np.isnan(same.detectable)
    assert same.gain.low < 0 < same.gain.high  # no certainty without evidence
