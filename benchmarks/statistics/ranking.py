"""How well scores rank positives above negatives, with intervals over images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.statistics.clusters import Interval, cluster_index, score_interval, sum_by_cluster
from benchmarks.statistics.scores import Floats, divide

# entries of a table of positives by clusters that is held at one time (8 bytes each)
_BLOCK_ENTRIES = 1 << 21


def clustered_auroc(
    scores: ArrayLike, labels: ArrayLike, clusters: ArrayLike, weights: Floats, level: float = 0.95
) -> Interval:
    """Area under the ROC curve, ties counted 1/2, with an interval that resamples images.

    `scores` (n,) finite or infinite, `labels` (n,) bool, `clusters` (n,) indices into the columns of `weights`
    (draws, G). Value and limits lie in [0, 1]; all NaN where a class is absent. Draws without one of the classes are
    left out. G of the interval is the number of images with a positive or with a negative, whichever is smaller. See
    `auroc_draws` for the method. Raises ValueError where shapes differ, a score is NaN, an index is out of range or
    `level` is outside (0, 1).
    """
    blocks, positives, negatives = concordant_blocks(scores, labels, clusters, weights.shape[1])
    pairs, draws = auroc_draws(blocks, positives, negatives, weights)
    estimate = float(divide(np.asarray(pairs), positives.sum() * negatives.sum()))
    n_clusters = int(min(np.count_nonzero(positives), np.count_nonzero(negatives)))
    return score_interval(estimate, draws, n_clusters, level)


Block = tuple[int, NDArray[np.int64], Floats]
"""First row of M, columns that are not all 0, and the rows' entries there."""


def auroc_draws(blocks: Iterable[Block], positives: Floats, negatives: Floats, weights: Floats) -> tuple[float, Floats]:
    """The sum of M, and the AUROC of every draw, (draws,): w M w / ((w p) (w n)) of `concordant_blocks`.

    An image that a draw takes k times has its rows k times, pairs within and between its copies included, as if its
    rows had been repeated. NaN where a draw lacks a class. Entries of M and weights are multiples of 1/2: the size of
    the blocks changes nothing, to the last bit.
    """
    total, pairs = 0.0, np.zeros(len(weights))
    for first, columns, block in blocks:
        total += float(block.sum())
        weighted = block @ (weights if len(columns) == weights.shape[1] else weights[:, columns]).T
        pairs += np.einsum("gd,dg->d", weighted, weights[:, first : first + len(block)])
    return total, divide(pairs, (weights @ positives) * (weights @ negatives))


def concordant_blocks(
    scores: ArrayLike, labels: ArrayLike, clusters: ArrayLike, n_clusters: int
) -> tuple[Iterator[Block], Floats, Floats]:
    """M (G, G) in blocks of rows, positives per cluster (G,) and negatives per cluster (G,).

    M[g, h] is the number of pairs of a positive in g and a negative in h in which the positive scores higher, plus
    half the number that tie (the Mann-Whitney statistic by clusters). Exact: all entries are multiples of 1/2. It has
    images x images entries, and is never held whole. Arguments and errors as in `clustered_auroc`.
    """
    score, label = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    index = cluster_index(clusters, n_clusters)
    if not score.shape == label.shape == index.shape:
        raise ValueError(f"scores, labels and clusters differ in shape: {score.shape}, {label.shape}, {index.shape}")
    if np.isnan(score).any():
        raise ValueError("scores must not be NaN")
    order = np.argsort(index, kind="stable")
    score, label, index = score[order], label[order], index[order]

    def blocks() -> Iterator[Block]:
        columns = np.unique(index[~label])
        size = max(1, _BLOCK_ENTRIES // max(1, score.size))
        for first in range(0, n_clusters, size):
            inside = label & (index >= first) & (index < first + size)
            width = min(size, n_clusters - first)
            block = _pairs_of_block(score[inside], index[inside] - first, width, score[~label], index[~label])
            yield first, columns, block

    return blocks(), sum_by_cluster(label, index, n_clusters), sum_by_cluster(~label, index, n_clusters)


def _pairs_of_block(
    positive: Floats, own: NDArray[np.int64], width: int, negative: Floats, other: NDArray[np.int64]
) -> Floats:
    """Rows of M for `width` clusters: (width, clusters that hold a negative); `other` is sorted.

    Each negative looks up, in a table of how many positives of each cluster score at least as much, where it would
    stand before and after its ties; the mean of the two rows counts ties one half.
    """
    if not negative.size:
        return np.zeros((width, 0))
    order = np.argsort(positive)
    ranked = positive[order]
    at_least = np.zeros((positive.size + 1, width))
    at_least[np.arange(positive.size), own[order]] = 1
    at_least = np.cumsum(at_least[::-1], axis=0)[::-1]
    with_ties, without = np.searchsorted(ranked, negative, "left"), np.searchsorted(ranked, negative, "right")
    per_negative = (at_least[with_ties] + at_least[without]) / 2
    starts = np.flatnonzero(np.diff(other, prepend=-1))
    return np.asarray(np.add.reduceat(per_negative, starts, axis=0).T, dtype=np.float64)
