"""Intervals over images, and over seeds and images at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.statistics.clusters import Interval, resampling_weights, score_interval, sum_by_cluster
from benchmarks.statistics.scores import Floats, divide

DRAWS = 2000


def share(values: ArrayLike, images: ArrayLike, weights: Floats) -> Interval:
    """Mean of values in [0, 1] with its interval over images; `weights` (draws, images)."""
    return over_seeds([(values, images)], weights)


def over_seeds(
    seeds: Sequence[tuple[ArrayLike, ArrayLike]],
    weights: Floats,
    seed_weights: Floats | None = None,
    lowest: float = 0.0,
    highest: float = 1.0,
) -> Interval:
    """Mean over seeds of the mean of values, with an interval over seeds and over the images that all seeds share.

    See `joint_draws`.

    Args:
        seeds: of each seed its values and their images.
        weights: (draws, images).
        seed_weights: (draws, seeds); drawn by `seed_draws` where not given.
        lowest: no value is lower.
        highest: no value is higher.
    """
    images = weights.shape[1]
    totals = [sum_by_cluster(v, i, images) for v, i in seeds]
    counts = [sum_by_cluster(np.ones(np.size(i)), i, images) for _, i in seeds]
    value = float(np.mean([divide(t.sum(), c.sum()) for t, c in zip(totals, counts, strict=True)]))
    each = np.stack([divide(weights @ t, weights @ c) for t, c in zip(totals, counts, strict=True)], axis=1)
    filled = int(np.count_nonzero(np.sum(counts, axis=0)))
    return score_interval(value, joint_draws(each, seed_weights), filled, lowest=lowest, highest=highest)


def joint_draws(each: Floats, seed_weights: Floats | None = None) -> Floats:
    """Draws of the mean over seeds, from the draws of each seed's score on the same images.

    Each draw takes seeds with replacement, and independently images, the same ones for all seeds. With S seeds a
    plain bootstrap of them is too narrow by sqrt((S - 1) / S); what seeds deviate by is stretched by as much. The
    intervals of two or three seeds are nonetheless too short: so few say little of how much seeds differ. One seed:
    images alone.

    Args:
        each: (draws, seeds).
        seed_weights: (draws, seeds); drawn by `seed_draws` where not given.

    Returns:
        (draws,).
    """
    draws, seeds = each.mean(1), each.shape[1]
    if seeds == 1:
        return np.asarray(draws, dtype=np.float64)
    chosen = seed_draws(seeds, len(each)) if seed_weights is None else seed_weights
    taken = (chosen * each).sum(1) / chosen.sum(1)
    return np.asarray(draws + (taken - draws) * (seeds / (seeds - 1)) ** 0.5, dtype=np.float64)


def seed_draws(seeds: int, draws: int) -> Floats:
    """How often each draw takes each seed."""
    return resampling_weights(seeds, draws, 1)


def image_draws(images: int, draws: int = DRAWS) -> Floats:
    """How often each draw takes each image; the same for every model."""
    return resampling_weights(images, draws, 0)
