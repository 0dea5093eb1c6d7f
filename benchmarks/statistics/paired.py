"""The difference of two models on the same questions, with an interval over images."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.statistics.clusters import Interval, score_interval, sum_by_cluster
from benchmarks.statistics.scores import Floats, divide


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
