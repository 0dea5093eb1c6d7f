"""The difference of two models on the same questions, with an interval over images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.statistics.clusters import Interval, minimum_detectable_effect, score_interval, sum_by_cluster
from benchmarks.statistics.scores import Floats, divide


@dataclass(frozen=True)
class Difference:
    """A number of two models on the same questions; NaN where undefined."""

    first: float
    second: float
    gain: Interval
    """The first less the second."""
    standard_error: float
    """Of the gain, over images; 0 where the models never differ, which is no information."""
    p: float
    """Two-sided, of exchanging the models image by image: see `exchange_test`."""

    @property
    def detectable(self) -> float:
        """The smallest true difference that is found with 80 % power; NaN where the models never differ."""
        return minimum_detectable_effect(self.standard_error) if self.standard_error > 0 else float("nan")


def difference(
    first: float, second: float, draws: Floats, n_clusters: int, p: float, level: float = 0.95
) -> Difference:
    """A difference from its bootstrap draws (draws,), over `n_clusters` images; limits as in `paired_gain`.

    The standard error is the draws' standard deviation times sqrt(G / (G - 1)), as resampling G of G images falls
    short by that factor (Efron and Tibshirani 1993, section 5.3).
    """
    gain = score_interval(first - second, draws, n_clusters, level, lowest=-1.0, highest=1.0)
    defined = draws[~np.isnan(draws)]
    spread = float(np.std(defined)) if defined.size else float("nan")
    widened = float(np.sqrt(n_clusters / (n_clusters - 1))) if n_clusters > 1 else float("nan")
    return Difference(first, second, gain, spread * widened, p)


def paired_gain(
    correct_a: ArrayLike, correct_b: ArrayLike, clusters: ArrayLike, weights: Floats, level: float = 0.95
) -> Interval:
    """Mean of `correct_a` - `correct_b`, question by question: positive where a is better than b.

    `correct_a` and `correct_b` (n,) in [0, 1] (bool where an answer is right or wrong), in the same order of
    questions; `clusters` (n,) indices into the columns of `weights` (draws, G). Pairing takes the difficulty of the
    questions out of the interval, resampling images keeps what differences within an image share. Value and limits
    lie in [-1, 1]; NaN where there is no question. Where all differences are zero, or the mean difference is the same
    in every image, the interval of width zero is replaced by `boundary_interval` over [-1, 1]: 0 +- b for two models
    that agree on G images, b = 1 - (alpha/2)^(1/G). Raises ValueError where shapes differ, a value is outside [0, 1],
    an index is out of range or `level` is outside (0, 1).
    """
    first, second = np.asarray(correct_a, dtype=np.float64), np.asarray(correct_b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"both models need the same questions, got {first.shape} and {second.shape}")
    for values in (first, second):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError("correctness must lie in [0, 1]")
    n_clusters = weights.shape[1]
    gains = sum_by_cluster(first - second, clusters, n_clusters)
    questions = sum_by_cluster(np.ones(first.size), clusters, n_clusters)
    estimate = float(divide(gains.sum(), questions.sum()))
    draws = divide(weights @ gains, weights @ questions)
    return score_interval(estimate, draws, int(np.count_nonzero(questions)), level, lowest=-1.0, highest=1.0)
