"""Scores of cells of a table with intervals that resample images jointly over all cells.

Every cell is an array of counts per image, (G, 9) in the order of `FIELDS`, over the *same* list of images: a row of
zeros where the cell has no question about an image. One set of weights then serves all cells, so a draw takes an
image with all its questions in all splits, and sums or means over cells keep their correlation.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from benchmarks.statistics.clusters import Interval, score_interval
from benchmarks.statistics.exchange import exchange_test
from benchmarks.statistics.paired import Difference, difference
from benchmarks.statistics.scores import FIELDS, SCORES, Floats, score_counts, score_terms

__all__ = ["Interval", "mean_of_scores", "score_differences", "score_with_intervals"]

Key = TypeVar("Key", bound=Hashable)


def score_with_intervals(
    counts_by_cell: Mapping[Key, Floats], weights: Floats, level: float = 0.95
) -> dict[Key, dict[str, Interval]]:
    """Every score of every cell, with its interval.

    `counts_by_cell` holds (G, 9) per cell, `weights` is (draws, G) from `resampling_weights`; a thousand draws or
    more. Clusters of a score are the images with a non-zero denominator of it. Values and limits lie in [0, 1], or
    are NaN where the score is undefined (see `score_counts`, `score_interval`). Raises ValueError where shapes differ
    or `level` is outside (0, 1).
    """
    if not counts_by_cell:
        return {}
    stacked = _stack(list(counts_by_cell.values()), weights)
    estimates, draws, clusters = _scores(stacked, weights)
    return {
        key: {
            score: score_interval(
                float(estimates[score][cell]), draws[score][:, cell], int(clusters[score][cell]), level
            )
            for score in SCORES
        }
        for cell, key in enumerate(counts_by_cell)
    }


def mean_of_scores(cells: Sequence[Floats], weights: Floats, level: float = 0.95) -> dict[str, Interval]:
    """The unweighted mean of each score over cells (the mean F1 of the three splits) with its joint interval.

    `cells` are counts (G, 9), `weights` (draws, G). NaN where the score of any cell is; draws in which any cell has
    none are left out. G of an interval is that of the cell with the fewest images in its denominator. Raises
    ValueError where there is no cell, shapes differ or `level` is outside (0, 1).
    """
    if not cells:
        raise ValueError("need at least one cell")
    estimates, draws, clusters = _scores(_stack(cells, weights), weights)
    return {
        s: score_interval(float(estimates[s].mean()), draws[s].mean(axis=1), int(clusters[s].min()), level)
        for s in SCORES
    }


def score_differences(
    first: Mapping[Key, Floats], second: Mapping[Key, Floats], weights: Floats, *, seed: int = 0, level: float = 0.95
) -> tuple[dict[Key, dict[str, Difference]], dict[str, Difference]]:
    """Every score of the first model less that of the second, cell by cell; and the means over cells, likewise.

    `first` and `second` hold (G, 9) for the same cells, of answers to the same questions; `weights` is (draws, G). Both
    models are resampled by the same draws, so that what an image's difficulty does to both falls out. `seed` is that of
    the exchanges behind the p values. Raises ValueError where there is no cell, cells or shapes differ.
    """
    if not first or first.keys() != second.keys():
        raise ValueError("both models need the same cells, at least one")
    stacks = [_stack([cells[key] for key in first], weights) for cells in (first, second)]
    (values_a, draws_a, clusters_a), (values_b, draws_b, clusters_b) = (_scores(one, weights) for one in stacks)

    def by_score(sums_a: Floats, sums_b: Floats) -> Floats:
        a, b = score_counts(sums_a), score_counts(sums_b)
        gains = np.stack([a[s] - b[s] for s in SCORES], axis=-1)
        return np.concatenate([gains, gains.mean(axis=-2, keepdims=True)], axis=-2).reshape(len(gains), -1)

    _, flat = exchange_test(stacks[0], stacks[1], by_score, seed=seed)
    p = flat.reshape(len(first) + 1, len(SCORES))
    clusters = {s: np.minimum(clusters_a[s], clusters_b[s]).astype(int) for s in SCORES}
    by_cell = {
        key: {
            s: difference(
                float(values_a[s][i]),
                float(values_b[s][i]),
                draws_a[s][:, i] - draws_b[s][:, i],
                int(clusters[s][i]),
                float(p[i, k]),
                level,
            )
            for k, s in enumerate(SCORES)
        }
        for i, key in enumerate(first)
    }
    means = {
        s: difference(
            float(values_a[s].mean()),
            float(values_b[s].mean()),
            (draws_a[s] - draws_b[s]).mean(axis=1),
            int(clusters[s].min()),
            float(p[-1, k]),
            level,
        )
        for k, s in enumerate(SCORES)
    }
    return by_cell, means


def _stack(cells: Sequence[Floats], weights: Floats) -> Floats:
    """Cells side by side, (G, cells, 9)."""
    expected = (weights.shape[-1], len(FIELDS))
    for counts in cells:
        if weights.ndim != 2 or np.shape(counts) != expected:
            raise ValueError(
                f"weights of shape {weights.shape} need counts of shape {expected}, got {np.shape(counts)}"
            )
    return np.stack([np.asarray(counts, dtype=np.float64) for counts in cells], axis=1)


def _scores(stacked: Floats, weights: Floats) -> tuple[dict[str, Floats], dict[str, Floats], dict[str, Floats]]:
    """Per score: estimates (cells,), draws (draws, cells) and numbers of clusters (cells,)."""
    clusters, cells, fields = stacked.shape
    resampled = (weights @ stacked.reshape(clusters, cells * fields)).reshape(-1, cells, fields)
    contributing = {
        score: np.count_nonzero(denominator, axis=0).astype(np.float64)
        for score, (_, denominator) in score_terms(stacked).items()
    }
    return score_counts(stacked.sum(axis=0)), score_counts(resampled), contributing
