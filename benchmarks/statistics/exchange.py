"""Tests of whether two models differ on the same questions: by question, by image, and over many at once.

Under the null hypothesis the names of the two models mean nothing, so that exchanging them changes no distribution.
McNemar's test exchanges them question by question and is right where questions are independent. Questions about one
image are not, so the tests by image exchange all answers to an image together: a randomisation test over whole
exchangeability blocks (Winkler et al. 2014, NeuroImage 92, 381-397), the exact relative of the clustered McNemar
tests of Obuchowski (1998, Statistics in Medicine 17, 1495-1507) and Durkalski et al. (2003, Statistics in Medicine
22, 2417-2428).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.statistics.scores import Floats

EXCHANGES = 9999
"""Random exchanges of a test: its least p value is 1 / 10,000."""
_AT_ONCE = 1000
_SAME = 1e-12

Statistic = Callable[[Floats, Floats], Floats]
"""From sums of the first and of the second model, (draws, ...) each, to their difference in K numbers, (draws, K)."""


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test (1947, Psychometrika 12, 153-157), from its two discordant counts.

    The sign test on the questions that one model alone has right: twice the smaller tail of Binomial(n, 1/2), at most
    1; 1 where there is none. It takes questions as independent. Raises ValueError for a negative count.
    """
    from scipy.special import bdtr

    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts must not be negative, got {only_first} and {only_second}")
    fewer = min(only_first, only_second)
    return min(1.0, 2 * float(bdtr(fewer, only_first + only_second, 0.5)))


def exchange_exact(gains: ArrayLike) -> float:
    """Two-sided exact p that the sum of `gains` is 0, where each image's gain might as well have the other sign.

    `gains` (G,), whole numbers: right answers of the first model less those of the second, by image. p is the share
    of all 2^G choices of signs whose sum is at least as far from 0, counted by convolution. With one question for
    each image it is `mcnemar_exact`. 1 where all gains are 0. Raises ValueError where gains are not whole.
    """
    given = np.asarray(gains, dtype=np.float64)
    sizes = np.abs(np.rint(given)).astype(np.int64)
    if given.ndim != 1 or not np.array_equal(np.rint(given), given):
        raise ValueError("gains must be a row of whole numbers")
    counts = np.bincount(sizes)
    chances = np.ones(1)
    for size in np.flatnonzero(counts[1:]) + 1:
        chances = np.convolve(chances, _of_equal(int(size), int(counts[size])))
    total = int(sizes.sum())
    # The sum with signs is twice the sum of those that keep theirs, less the total.
    sums = np.abs(2 * np.arange(total + 1) - total)
    return min(1.0, float(chances[sums >= abs(int(given.sum()))].sum()))


def _of_equal(size: int, count: int) -> Floats:
    """Chances of each sum of `count` summands that are `size` or 0, as likely: (size * count + 1,)."""
    from scipy.special import gammaln

    ways = gammaln(count + 1) - gammaln(np.arange(count + 1) + 1) - gammaln(count - np.arange(count + 1) + 1)
    chances = np.zeros(size * count + 1)
    chances[::size] = np.exp(ways - count * np.log(2))
    return chances


def exchange_test(
    first: Floats, second: Floats, statistic: Statistic, draws: int = EXCHANGES, seed: int = 0
) -> tuple[Floats, Floats]:
    """The same for any numbers made from sums over images: F1, a mean over splits, CV-Bench's official number.

    `first` and `second` (G, ...) hold each model's sums by image. Every draw exchanges the models on a random half of
    the images. Gives the differences and their two-sided p, (K,) each: (1 + draws at least as far from 0) / (1 +
    draws), which is never 0 (Phipson and Smyth 2010, Statistical Applications in Genetics 9, 39). A draw in which a
    number is undefined counts as far; p is NaN where the difference itself is. Raises ValueError where shapes differ
    or `draws` is below 1.
    """
    if first.shape != second.shape or draws < 1:
        raise ValueError(f"need sums of one shape and a draw, got {first.shape}, {second.shape} and {draws} draws")
    totals = first.sum(axis=0)[None], second.sum(axis=0)[None]
    found = statistic(*totals)[0]
    moves = (second - first).reshape(len(first), -1)
    far = np.zeros(found.shape)
    generator = np.random.default_rng(seed)
    for start in range(0, draws, _AT_ONCE):
        exchanged = generator.integers(0, 2, (min(_AT_ONCE, draws - start), len(first))).astype(np.float64)
        moved = (exchanged @ moves).reshape(-1, *first.shape[1:])
        far += np.count_nonzero(
            ~(np.abs(statistic(totals[0] + moved, totals[1] - moved)) < np.abs(found) - _SAME), axis=0
        )
    return found, np.where(np.isnan(found), np.nan, (1 + far) / (1 + draws))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number (Holm 1979, Scandinavian Journal of Statistics 6, 65-70), in the given order.

    The k-th smallest of m is multiplied by m - k + 1 and is no smaller than those before it, at most 1. What is at or
    below alpha may be called established with a chance of at most alpha for even one mistake among them, however they
    depend on each other. NaN stays NaN and is not counted. Raises ValueError for a p outside [0, 1].
    """
    values = np.asarray(p_values, dtype=np.float64)
    defined = np.flatnonzero(~np.isnan(values))
    if not ((values[defined] >= 0) & (values[defined] <= 1)).all():
        raise ValueError("p values must lie in [0, 1]")
    order = defined[np.argsort(values[defined], kind="stable")]
    adjusted = np.full(values.shape, np.nan)
    steps = values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return [float(one) for one in adjusted]
