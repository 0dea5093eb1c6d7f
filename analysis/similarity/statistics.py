"""How far two groups of cosines lie apart, with intervals over images. Pure numpy.

Rows are texts; the images they belong to are the clusters. All measures of one table share the bootstrap's draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.statistics.clusters import Interval, score_interval, sum_by_cluster
from benchmarks.statistics.ranking import auroc_draws, concordant_blocks
from benchmarks.statistics.scores import Floats, divide

MEASURES = ("auroc", "paired", "overlap", "d")
"""auroc: chance that a matching pair is more alike than a non-matching one, of all images (ties count half). paired:
chance that a text that matches is more alike to its image than the text that stands beside it. overlap: of the two
densities. d: Cohen's d."""
RANGES = {"auroc": (0.0, 1.0), "paired": (0.0, 1.0), "overlap": (0.0, 1.0), "d": (-np.inf, np.inf)}
GRID = 128
"""Places at which densities are compared."""
REACH = 4.0
"""Bandwidths that the grid goes beyond the outermost values."""
SWAPS = 200
"""Random exchanges of the labels within images that say what overlap is to be expected of no difference."""


@dataclass(frozen=True, eq=False)
class Sides:
    """Cosines of pairs that match and pairs that do not, of the same images."""

    match: Floats
    """(n,)."""
    match_image: NDArray[np.int64]
    """(n,): indices of images."""
    other: Floats
    """(m,)."""
    other_image: NDArray[np.int64]
    beside: NDArray[np.int64]
    """(m,): which of `match` each of `other` stands beside."""


@dataclass(frozen=True, eq=False)
class Measured:
    """One measure with its draws, so that two models can be compared draw by draw."""

    interval: Interval
    draws: Floats


def measure(sides: Sides, weights: Floats) -> dict[str, Measured]:
    """Every measure of `MEASURES` with its interval.

    Args:
        sides: the cosines, all finite.
        weights: (draws, images), how often each draw takes each image.

    Returns:
        By measure; NaN where it is undefined (a side without rows, densities and d of values that do not vary).
    """
    estimates = {"paired": _paired, "overlap": _overlap, "d": _effect}
    found = {"auroc": measure_auroc(sides, weights)}
    return found | {name: _measured(name, sides, *estimate(sides, weights)) for name, estimate in estimates.items()}


def measure_auroc(sides: Sides, weights: Floats) -> Measured:
    """The AUROC alone."""
    return _measured("auroc", sides, *_auroc(sides, weights))


def _measured(name: str, sides: Sides, value: float, draws: Floats) -> Measured:
    images = len(np.intersect1d(sides.match_image, sides.other_image))
    return Measured(score_interval(value, draws, images, 0.95, *RANGES[name]), draws)


def difference(first: Measured, second: Measured, name: str, images: int) -> Interval:
    """First less second, draw by draw over the same images."""
    low, high = RANGES[name]
    value = first.interval.value - second.interval.value
    return score_interval(value, first.draws - second.draws, images, 0.95, low - high, high - low)


def _auroc(sides: Sides, weights: Floats) -> tuple[float, Floats]:
    scores = np.concatenate([sides.match, sides.other])
    labels = np.arange(scores.size) < sides.match.size
    clusters = np.concatenate([sides.match_image, sides.other_image])
    blocks, positives, negatives = concordant_blocks(scores, labels, clusters, weights.shape[1])
    pairs, draws = auroc_draws(blocks, positives, negatives, weights)
    return float(divide(np.asarray(pairs), positives.sum() * negatives.sum())), draws


def _paired(sides: Sides, weights: Floats) -> tuple[float, Floats]:
    ahead = sides.match[sides.beside] - sides.other
    won = (np.sign(ahead) + 1) / 2
    images = weights.shape[1]
    sums = sum_by_cluster(won, sides.other_image, images)
    rows = sum_by_cluster(np.ones(won.size), sides.other_image, images)
    return float(divide(sums.sum(), rows.sum())), divide(weights @ sums, weights @ rows)


def _effect(sides: Sides, weights: Floats) -> tuple[float, Floats]:
    whole = np.vstack([np.ones(weights.shape[1]), weights])
    counts, means, squares = [], [], []
    for values, image in ((sides.match, sides.match_image), (sides.other, sides.other_image)):
        # About the mean of all: sums of squares of large numbers would lose the small differences.
        centred = values - values.mean() if values.size else values
        sums = [sum_by_cluster(part, image, weights.shape[1]) for part in (np.ones(values.size), centred, centred**2)]
        n, total, square = (whole @ part for part in sums)
        mean = divide(total, n)
        counts.append(n)
        means.append(mean + (values.mean() if values.size else np.nan))
        squares.append(np.maximum(square - n * mean**2, 0.0))
    spread = np.sqrt(divide(squares[0] + squares[1], counts[0] + counts[1] - 2))
    spread = np.where(spread > 1e-9, spread, 0.0)
    found = divide(means[0] - means[1], spread)
    return float(found[0]), found[1:]


def _overlap(sides: Sides, weights: Floats) -> tuple[float, Floats]:
    grid, kernels = _kernels(sides)
    if grid is None:
        return float("nan"), np.full(len(weights), np.nan)
    whole = np.vstack([np.ones(weights.shape[1]), weights])
    lowest: Floats | None = None
    for kernel, image in zip(kernels, (sides.match_image, sides.other_image), strict=True):
        summed = np.zeros((weights.shape[1], GRID))
        np.add.at(summed, image, kernel)
        rows = whole @ sum_by_cluster(np.ones(len(kernel)), image, weights.shape[1])
        density = divide(whole @ summed, rows[:, None])
        lowest = density if lowest is None else np.minimum(lowest, density)
    assert lowest is not None
    found = np.minimum(np.trapezoid(lowest, grid, axis=1), 1.0)
    # Draws are rougher than the sample, as the sample is than what it was drawn from: their overlap is too small by as
    # much again. Mirrored at the estimate (the "basic" bootstrap) they make up for it.
    return float(found[0]), 2 * found[0] - found[1:]


def overlap_of_no_difference(sides: Sides, seed: int) -> float:
    """The mean overlap after random exchanges of what matches with what stands beside it; NaN where undefined.

    Two finite samples of one distribution overlap by less than 1. Only for one text beside each that matches.
    """
    grid, _ = _kernels(sides)
    if grid is None or sides.match.size != sides.other.size:
        return float("nan")
    draw = np.random.default_rng(seed)
    beside = sides.match[sides.beside]
    found = []
    for _ in range(SWAPS):
        swap = draw.random(beside.size) < 0.5
        first, second = np.where(swap, sides.other, beside), np.where(swap, beside, sides.other)
        _, kernels = _kernels(Sides(first, sides.other_image, second, sides.other_image, sides.beside), grid)
        densities = [kernel.mean(0) for kernel in kernels]
        found.append(np.trapezoid(np.minimum(*densities), grid))
    return float(np.mean(found))


def _kernels(sides: Sides, grid: Floats | None = None) -> tuple[Floats | None, list[Floats]]:
    """A grid of values and for each side (rows, grid) the Gaussian that stands for each of its rows.

    The bandwidth is Scott's, n^(-1/5) standard deviations of the side, as `scipy.stats.gaussian_kde` has it; draws keep
    it. None where a side has fewer than two values or none that differ.
    """
    widths = []
    for values in (sides.match, sides.other):
        spread = float(values.std(ddof=1)) if values.size > 1 else 0.0
        if not spread > 1e-9:
            return None, []
        widths.append(spread * values.size**-0.2)
    if grid is None:
        margin = REACH * max(widths)
        both = np.concatenate([sides.match, sides.other])
        grid = np.linspace(both.min() - margin, both.max() + margin, GRID)
    kernels = []
    for values, width in zip((sides.match, sides.other), widths, strict=True):
        kernels.append(np.exp(-0.5 * ((grid - values[:, None]) / width) ** 2) / (width * np.sqrt(2 * np.pi)))
    return grid, kernels
