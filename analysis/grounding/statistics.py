"""Means over looks with intervals over images, and what is left of them beyond chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.statistics.clusters import (
    Interval,
    expanded_percentile_interval,
    resampling_weights,
    score_interval,
    sum_by_cluster,
)
from benchmarks.statistics.scores import divide

Floats = NDArray[np.floating]


class Images:
    """The images that everything is resampled by: the same draws for all models, so that differences are paired."""

    def __init__(self, names: Sequence[str], draws: int, seed: int) -> None:
        """`names` in an order that does not depend on the model."""
        self._place = {name: place for place, name in enumerate(dict.fromkeys(names))}
        self.weights = resampling_weights(len(self._place), draws, seed)

    def places(self, images: Iterable[str]) -> NDArray[np.int64]:
        """Columns of the weights."""
        return np.asarray([self._place[name] for name in images], np.int64)

    def mean(self, values: Floats, images: Iterable[str], lowest: float = 0.0, highest: float = 1.0) -> Interval:
        """Mean over looks; those that are NaN do not count. NaN where none counts.

        Args:
            values: (looks,).
            images: of each.
            lowest: no value is lower.
            highest: no value is higher.
        """
        total, count = self._sums(values, images)
        value = float(divide(total.sum(), count.sum()))
        draws = divide(self.weights @ total, self.weights @ count)
        if not np.isfinite([lowest, highest]).all():
            return _open_interval(value, draws, int(np.count_nonzero(count)))
        # Rounding may leave a mean of values at a limit just beyond it.
        value = float(np.clip(value, lowest, highest))
        return score_interval(value, draws, int(np.count_nonzero(count)), lowest=lowest, highest=highest)

    def corrected(self, values: Floats, null: Floats, ceiling: Floats, images: Iterable[str]) -> Interval:
        """(mean - mean null) / (mean ceiling - mean null) over looks for which all three are defined.

        A ratio of means and not a mean of ratios: where the ceiling is near the null, single ratios are wild.
        """
        return _open_interval(*self._corrected(values, null, ceiling, images))

    def behind(self, first: Sequence[Any], second: Sequence[Any]) -> Interval:
        """What `corrected` makes of some looks, less what it makes of others, draw by draw over the same images.

        Args:
            first: the arguments of `corrected` for some.
            second: for the others.
        """
        (ahead, drawn, images), (less, less_drawn, others) = self._corrected(*first), self._corrected(*second)
        return _open_interval(ahead - less, drawn - less_drawn, min(images, others))

    def _corrected(
        self, values: Floats, null: Floats, ceiling: Floats, images: Iterable[str]
    ) -> tuple[float, Floats, int]:
        """The value, its draws, and how many images are behind it."""
        images = list(images)
        defined = ~(np.isnan(values) | np.isnan(null) | np.isnan(ceiling))
        gain, _ = self._sums(np.where(defined, values - null, np.nan), images)
        room, count = self._sums(np.where(defined, ceiling - null, np.nan), images)
        value = float(divide(gain.sum(), room.sum()))
        return value, divide(self.weights @ gain, self.weights @ room), int(np.count_nonzero(count))

    def _sums(self, values: Floats, images: Iterable[str]) -> tuple[Floats, Floats]:
        places, counts = self.places(images), ~np.isnan(values)
        images_held = self.weights.shape[1]
        total = sum_by_cluster(np.where(counts, values, 0), places, images_held)
        return total, sum_by_cluster(counts, places, images_held)


def _open_interval(value: float, draws: Floats, images: int) -> Interval:
    """Of a value without natural limits: percentiles of its draws, widened for few images."""
    if np.isnan(value) or np.isnan(draws).all():
        return Interval(value, float("nan"), float("nan"))
    low, high = expanded_percentile_interval(draws, images)
    return Interval(value, float(low), float(high))


def halves(images: Sequence[str], seed: int) -> tuple[frozenset[str], frozenset[str]]:
    """Two seeded halves of the images: the first to choose on, the second, as large or larger by one, to report on."""
    from benchmarks.plan import drawn

    unique = set(images)
    first = frozenset(drawn(unique, len(unique) // 2, seed))
    return first, frozenset(unique - first)
