"""One signal and one target: scikit-learn agrees, chance is chance, and what cannot be said is not said."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from analysis.linkage.ranks import difference, permuted_auroc, plain_auroc, rank_signal
from benchmarks.statistics.clusters import resampling_weights

IMAGES = 60
WEIGHTS = resampling_weights(IMAGES, 500, 0)


def sample(signal: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, classes and images; `signal` standard deviations lie between the classes."""
    generator = np.random.default_rng(seed)
    images = np.repeat(np.arange(IMAGES), 5)
    positive = generator.random(len(images)) < 0.3
    return generator.normal(size=len(images)) + signal * positive, positive, images


@pytest.mark.parametrize("signal", [-1.0, 0.0, 0.7, 40.0])
def test_it_is_scikit_learns_auroc(signal: float) -> None:
    values, positive, images = sample(signal)
    values = np.round(values, 1)  # ties
    found = rank_signal(values, positive, images, WEIGHTS, 0)
    assert found.auroc.value == pytest.approx(roc_auc_score(positive, values), abs=1e-12)
    assert found.auroc.low <= found.auroc.value <= found.auroc.high
    assert plain_auroc(values, positive) == pytest.approx(found.auroc.value)
    assert found.draws is not None
    draw = WEIGHTS[3].astype(int)
    repeated = np.concatenate([np.flatnonzero(images == i) for i in range(IMAGES) for _ in range(draw[i])])
    assert found.draws[3] == pytest.approx(roc_auc_score(positive[repeated], values[repeated]))
    assert found.direction == ("" if signal == 0 else "higher" if signal > 0 else "lower")


def test_permuted_values_give_a_half() -> None:
    values, positive, _ = sample(3.0)
    assert roc_auc_score(positive, values) > 0.95
    chance = permuted_auroc(values, positive, 0)
    assert chance.value == pytest.approx(0.5, abs=0.01)
    assert 0.4 < chance.low < 0.5 < chance.high < 0.6


def test_questions_without_a_value_are_counted_and_left_out() -> None:
    values, positive, images = sample(1.0)
    values[:40] = np.nan
    found = rank_signal(values, positive, images, WEIGHTS, 0)
    assert (found.undefined, found.sample.n) == (40, 260)
    assert found.auroc.value == pytest.approx(roc_auc_score(positive[40:], values[40:]))


def test_what_cannot_be_said_is_not_said() -> None:
    values, positive, images = sample(1.0)
    few = positive & (images < 9)
    assert rank_signal(values, few, images, WEIGHTS, 0).why_not == "too few"
    assert rank_signal(values, ~few, images, WEIGHTS, 0).why_not == "too few"
    ten = positive & (images < 20)
    assert len(np.unique(images[ten])) >= 10
    assert rank_signal(values, ten, images, WEIGHTS, 0).why_not is None
    same = rank_signal(np.full(len(values), 0.3), positive, images, WEIGHTS, 0)
    assert same.why_not == "constant"
    assert np.isnan(same.auroc.value)
    assert rank_signal(np.full(len(values), np.nan), positive, images, WEIGHTS, 0).why_not == "none"


def test_differences_are_paired() -> None:
    values, positive, images = sample(1.0)
    first = rank_signal(values, positive, images, WEIGHTS, 0)
    nearly = rank_signal(values + 0.01 * np.sin(np.arange(len(values))), positive, images, WEIGHTS, 0)
    other = rank_signal(sample(0.0, 5)[0], positive, images, WEIGHTS, 0)
    gap = difference(first, nearly)
    assert gap.high - gap.low < 0.2 * (first.auroc.high - first.auroc.low)
    gap = difference(first, other)
    assert gap.value == pytest.approx(other.auroc.value - first.auroc.value)
    assert gap.high < 0
    nothing = rank_signal(np.zeros(len(values)), positive, images, WEIGHTS, 0)
    assert np.isnan(difference(first, nothing).value)
