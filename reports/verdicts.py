"""Where an interval lies, in words: the one place that says what is established and what is a tie."""

from __future__ import annotations

import math

TIE, UNDEFINED, NO_INTERVAL = "a tie", "undefined", "no interval"
HIGHER, LOWER = "higher, established", "lower, established"


def side(
    value: float | None,
    low: float | None,
    high: float | None,
    above: str,
    below: str,
    neither: str,
    *,
    at: float = 0.0,
) -> str:
    """Which side of a value the whole 95 % interval lies on; touching it is holding it.

    Args:
        value: the number; None or NaN where it is undefined.
        low: the interval's ends; None or NaN where there is none.
        high: likewise.
        above: what is said where the interval lies above `at`.
        below: where it lies below.
        neither: where it holds it.
        at: what the interval is held against.
    """
    if value is None or math.isnan(value):
        return UNDEFINED
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return NO_INTERVAL
    return above if low > at else below if high < at else neither


def verdict(value: float | None, low: float | None, high: float | None) -> str:
    """A paired difference: established where its interval leaves 0 out, else a tie."""
    return side(value, low, high, HIGHER, LOWER, TIE)
