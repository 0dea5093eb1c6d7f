"""Means over seeds with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from benchmarks.statistics.clusters import Interval


def over_seed_values(values: Sequence[float], low: float = -math.inf, high: float = math.inf) -> Interval:
    """Mean of one number a seed, with Student's t interval, mean ± t(0.975, n - 1) s / sqrt(n).

    It takes seeds as independent draws and their numbers as normal, and says nothing of the images that all seeds
    share. With two seeds t is 12.7. One seed has no limits (NaN).

    Args:
        values: finite, one at least.
        low: no value is lower; nor is the interval.
        high: no value is higher.
    """
    from scipy.special import stdtrit

    mean, count = float(np.mean(values)), len(values)
    if count == 1:
        return Interval(mean, math.nan, math.nan)
    reach = float(stdtrit(count - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(count))
    return Interval(mean, max(low, mean - reach), min(high, mean + reach))
