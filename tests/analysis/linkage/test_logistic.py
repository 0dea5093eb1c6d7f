"""The logistic model against a general optimiser, and what is added against what was planted."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from analysis.linkage.logistic import PENALTY, added, fit
from benchmarks.statistics.clusters import resampling_weights

IMAGES = 80
WEIGHTS = resampling_weights(IMAGES, 120, 0)
CLUSTERS = np.repeat(np.arange(IMAGES), 6)


def planted(seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Signals a (tells), b (tells, on another scale) and noise, and what they tell."""
    generator = np.random.default_rng(seed)
    a, b, noise = generator.normal(size=(3, len(CLUSTERS)))
    positive = generator.random(len(CLUSTERS)) < 1 / (1 + np.exp(-(1.5 * a - 1.0 * b - 0.5)))
    return {"a": a, "b": 50 + 10 * b, "noise": noise}, positive


def test_coefficients_are_those_of_a_general_optimiser() -> None:
    values, positive = planted()
    found = fit(values, positive, CLUSTERS)
    assert found is not None
    matrix = np.stack(list(values.values()), 1)
    standard = (matrix - matrix.mean(0)) / matrix.std(0)
    sign = np.where(positive, 1, -1)

    def loss(w: np.ndarray) -> float:
        return float(np.logaddexp(0, -sign * (standard @ w[:3] + w[3])).sum() * PENALTY + 0.5 * (w[:3] ** 2).sum())

    expected = minimize(loss, np.zeros(4), tol=1e-10).x[:3]
    assert [i.value for i in found.coefficients.values()] == pytest.approx(expected, abs=1e-3)
    assert found.coefficients["a"].low > 0.8
    assert found.coefficients["b"].high < -0.5
    assert found.coefficients["noise"].low < 0 < found.coefficients["noise"].high


def test_copies_of_questions_do_not_narrow_the_interval() -> None:
    values, positive = planted()
    once = fit(values, positive, CLUSTERS)
    twice = fit({k: np.tile(v, 2) for k, v in values.items()}, np.tile(positive, 2), np.tile(CLUSTERS, 2))
    assert once is not None
    assert twice is not None
    width = {f: f.coefficients["a"].high - f.coefficients["a"].low for f in (once, twice)}
    assert width[twice] == pytest.approx(width[once], rel=0.1)


def test_errors_are_those_of_refitting_on_drawn_images() -> None:
    generator = np.random.default_rng(2)
    # A signal and a leaning that whole images share: plain errors would be far too small.
    a = generator.normal(size=IMAGES)[CLUSTERS] + 0.3 * generator.normal(size=len(CLUSTERS))
    leaning = 1.5 * generator.normal(size=IMAGES)[CLUSTERS]
    positive = generator.random(len(CLUSTERS)) < 1 / (1 + np.exp(-(a + leaning)))
    found = fit({"a": a}, positive, CLUSTERS)
    assert found is not None
    standard = ((a - a.mean()) / a.std())[:, None]
    refitted = [LogisticRegression(C=PENALTY).fit(standard, positive, draw[CLUSTERS]).coef_[0, 0] for draw in WEIGHTS]
    width = found.coefficients["a"].high - found.coefficients["a"].low
    assert width / (2 * 1.99) == pytest.approx(np.std(refitted), rel=0.25)
    alone = fit({"a": a}, positive, np.arange(len(a)))
    assert alone is not None
    assert width > 1.5 * (alone.coefficients["a"].high - alone.coefficients["a"].low)


def test_what_is_left_out_is_named() -> None:
    values, positive = planted()
    values["b"][:30] = np.nan
    values |= {"same": np.ones(len(positive)), "none": np.full(len(positive), np.nan)}
    found = fit(values, positive, CLUSTERS)
    assert found is not None
    assert set(found.dropped) == {"same", "none"}
    assert found.left_out == 30
    assert fit(values, positive & (CLUSTERS < 5), CLUSTERS) is None


def test_added_finds_what_is_there_and_nothing_where_nothing_is() -> None:
    values, positive = planted()
    one = added({"b": values["b"]}, {"a": values["a"]}, positive, CLUSTERS, WEIGHTS, 0)
    assert one is not None
    assert one.gain.low > 0.1
    assert one.gain.value == pytest.approx(one.full.value - one.base.value)
    assert one.permuted.low < 0 < one.permuted.high + 0.01
    two = added({"a": values["a"], "b": values["b"]}, {"noise": values["noise"]}, positive, CLUSTERS, WEIGHTS, 0)
    assert two is not None
    assert two.gain.low < 0.005
    assert abs(two.gain.value) < 0.01


def test_images_are_never_on_both_sides() -> None:
    # Each image has a value of its own, and a class of its own: known images give their class away, new ones do not.
    generator = np.random.default_rng(1)
    bits = {f"bit{k}": ((CLUSTERS >> k) & 1).astype(float) + generator.normal(0, 1e-3, len(CLUSTERS)) for k in range(7)}
    products = {f"{a}{b}": bits[a] * bits[b] for a in bits for b in bits if a < b}
    positive = (generator.random(IMAGES) < 0.5)[CLUSTERS]
    one = added({"noise": generator.normal(size=len(CLUSTERS))}, bits | products, positive, CLUSTERS, WEIGHTS, 0)
    assert one is not None
    assert one.full.low < 0.5
    matrix = np.stack(list((bits | products).values()), 1)
    known = LogisticRegression(C=100).fit(matrix[::2], positive[::2]).score(matrix[1::2], positive[1::2])
    assert known > 0.7
