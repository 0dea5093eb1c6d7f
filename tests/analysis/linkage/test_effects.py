"""Means over questions with intervals over images."""

import math

import numpy as np
import pytest

from analysis.linkage.effects import mean_over_images
from benchmarks.statistics.clusters import resampling_weights

WEIGHTS = resampling_weights(40, 2000, 0)


def test_the_interval_is_that_of_the_images_means() -> None:
    generator = np.random.default_rng(0)
    own = generator.normal(3, 2, 40)
    values = np.repeat(own, 4)
    found = mean_over_images(values, np.repeat(np.arange(40), 4), WEIGHTS)
    assert (found.n, found.images) == (160, 40)
    assert found.interval.value == pytest.approx(own.mean())
    # Four copies of each image are no more than one: the t interval of 40 values.
    half = 2.023 * own.std(ddof=1) / math.sqrt(40)
    assert found.interval.high - found.interval.low == pytest.approx(2 * half, rel=0.1)


def test_what_is_missing_is_left_out_and_counted() -> None:
    values = np.arange(40.0)
    values[:5] = np.nan
    found = mean_over_images(values, np.arange(40), WEIGHTS)
    assert (found.n, found.images, found.interval.value) == (35, 35, 22)


@pytest.mark.parametrize("lowest", [None, -1.0])
def test_few_images_have_a_mean_and_no_limits(lowest: float | None) -> None:
    values = np.linspace(-1, 1, 18)
    found = mean_over_images(values, np.repeat(np.arange(9), 2), WEIGHTS, lowest)
    assert found.interval.value == pytest.approx(0)
    assert math.isnan(found.interval.low)
    ten = mean_over_images(np.linspace(-1, 1, 20), np.repeat(np.arange(10), 2), WEIGHTS, lowest)
    assert ten.interval.low < 0 < ten.interval.high


def test_no_width_of_zero() -> None:
    same = mean_over_images(np.full(40, 2.5), np.arange(40), WEIGHTS)
    assert same.interval.value == 2.5
    assert math.isnan(same.interval.low)
    nothing = mean_over_images(np.full(3, np.nan), np.arange(3), WEIGHTS)
    assert (nothing.n, nothing.images) == (0, 0)
    assert math.isnan(nothing.interval.value)
    never = mean_over_images(np.zeros(40), np.arange(40), WEIGHTS, lowest=0.0)
    assert never.interval.low == 0 < never.interval.high, "a share is never below 0"
    tie = mean_over_images(np.zeros(40), np.arange(40), WEIGHTS, lowest=-1.0)
    assert tie.interval.low < 0 < tie.interval.high
