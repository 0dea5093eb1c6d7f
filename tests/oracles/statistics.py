"""Statistics written out from their definitions: slow, loop by loop, sharing nothing with the code under test."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def clustered_standard_error(values: Sequence[float], clusters: Sequence[int]) -> float:
    """SE^2 = SE_CLT^2 + (1/n^2) sum_c sum_i sum_{j != i} (s_ic - m)(s_jc - m); SE_CLT^2 = sum_i (s_i - m)^2 / n^2."""
    n = len(values)
    mean = sum(values) / n
    independent = sum((value - mean) ** 2 for value in values) / n**2
    shared = 0.0
    for i in range(n):
        for j in range(n):
            if i != j and clusters[i] == clusters[j]:
                shared += (values[i] - mean) * (values[j] - mean)
    return math.sqrt(max(0.0, independent + shared / n**2))


def naive_standard_error(values: Sequence[float]) -> float:
    """The standard error of a mean of independent rows, with the variance divided by n."""
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values)) / len(values)


def expected_calibration_error(probabilities: Sequence[float], labels: Sequence[bool], bins: int) -> float:
    """sum_b (n_b / n) |mean P(yes) - frequency of yes| over the bins [b/B, (b+1)/B), the last one closed."""
    total = 0.0
    for b in range(bins):
        last = b == bins - 1
        inside = [
            (p, y) for p, y in zip(probabilities, labels, strict=True) if b / bins <= p and (last or p < (b + 1) / bins)
        ]
        if inside:
            mean = sum(p for p, _ in inside) / len(inside)
            frequency = sum(y for _, y in inside) / len(inside)
            total += len(inside) / len(probabilities) * abs(mean - frequency)
    return total


def concordant_pairs(
    scores: Sequence[float], labels: Sequence[bool], clusters: Sequence[int], n_clusters: int
) -> np.ndarray:
    """Pairs of a positive of one cluster and a negative of another that are ranked right, ties counted one half."""
    pairs = np.zeros((n_clusters, n_clusters))
    for s_p, y_p, g in zip(scores, labels, clusters, strict=True):
        for s_n, y_n, h in zip(scores, labels, clusters, strict=True):
            if y_p and not y_n:
                pairs[g, h] += 1.0 if s_p > s_n else 0.5 if s_p == s_n else 0.0
    return pairs


def resampled_rows(clusters: Sequence[int], drawn: Sequence[int]) -> list[int]:
    """The rows of a data set made of the drawn clusters, as often as each was drawn."""
    return [row for cluster in drawn for row, own in enumerate(clusters) if own == cluster]
