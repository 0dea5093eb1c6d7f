"""Verdicts in words, against an interval's definition."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.verdicts import side, verdict


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.sampled_from([-0.5, 0.0, 0.5]))
def test_the_whole_interval_lies_on_one_side_or_holds_the_value(points, at):
    low, value, high = sorted(points)
    found = side(value, low, high, "above", "below", "neither", at=at)
    assert found == ("neither" if low <= at <= high else "above" if all(p > at for p in points) else "below")


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_without_a_number_or_an_interval_there_is_no_verdict(nothing):
    assert verdict(nothing, nothing, nothing) == "undefined"
    assert verdict(0.5, nothing, nothing) == "no interval", "one image says nothing of others; that is no tie"
    assert verdict(0.5, 0.1, 0.9) == "higher, established"
