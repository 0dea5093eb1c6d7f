"""When a sign is there: by its interval and threshold, on either side."""

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agevlm.errors import DataError
from analysis.failure_signs.signs import MEASURES, THRESHOLDS, Measurement, Threshold, read, set_thresholds, verdict_of

NUMBERS = st.floats(-5, 5)
ABOVE = Threshold("m", "a sign", "what", 1.0, "above", -math.inf, math.inf, "why")


def measurement(points, **more):
    low, value, high = sorted(points)
    return Measurement(value, low, high, **more)


@given(st.lists(NUMBERS, min_size=3, max_size=3), NUMBERS, st.sampled_from(["above", "below"]))
def test_the_verdict_is_what_every_value_of_the_interval_would_have(points, at, side):
    found = measurement(points)
    threshold = replace(ABOVE, value=at, side=side)
    there = [(v > at if side == "above" else v < at) for v in points]
    gone = [(v < at if side == "above" else v > at) for v in points]
    expected = "present" if all(there) else "absent" if all(gone) else "undecided"
    assert verdict_of(found, threshold) == expected


@given(st.lists(NUMBERS, min_size=3, max_size=3), NUMBERS)
def test_turned_round_it_is_the_same(points, at):
    mirrored = measurement([-p for p in points])
    turned = replace(ABOVE, value=-at, side="below")
    assert verdict_of(measurement(points), replace(ABOVE, value=at)) == verdict_of(mirrored, turned)


@given(st.lists(NUMBERS, min_size=3, max_size=3), NUMBERS)
def test_a_doubt_takes_back_an_absent_and_nothing_else(points, at):
    threshold = replace(ABOVE, value=at)
    sure, doubted = (verdict_of(measurement(points, doubt=doubt), threshold) for doubt in (False, True))
    assert doubted == ("undecided" if sure == "absent" else sure)


@given(NUMBERS, NUMBERS)
def test_without_limits_nothing_is_decided(value, at):
    assume(value != at)
    for low, high in ((None, None), (math.nan, math.nan), (value, None), (None, value)):
        assert verdict_of(Measurement(value, low, high), replace(ABOVE, value=at)) == "undecided"


@pytest.mark.parametrize("value", [None, math.nan])
def test_no_value_is_no_verdict(value):
    assert verdict_of(Measurement(value, 2.0, 3.0), ABOVE) == "not measured"


def test_an_interval_that_touches_the_threshold_is_undecided():
    assert verdict_of(Measurement(1.5, 1.0, 2.0), ABOVE) == "undecided"
    assert verdict_of(Measurement(0.5, 0.0, 1.0), ABOVE) == "undecided"
    assert verdict_of(Measurement(1.0, 1.0, 1.0), ABOVE) == "undecided"


def test_a_model_has_a_reading_of_every_threshold_and_what_is_lacking_is_not_measured():
    readings = read("m", {"overlap": Measurement(0.95, 0.9, 0.99)}, THRESHOLDS)
    assert [one.threshold.measure for one in readings] == list(MEASURES)
    verdicts = {one.threshold.measure: one.verdict for one in readings}
    assert verdicts.pop("overlap") == "present"
    assert set(verdicts.values()) == {"not measured"}


def test_thresholds_can_be_set_within_what_they_can_be():
    found = {one.measure: one for one in set_thresholds(["auroc=0.7", "perplexity=2"])}
    known = {one.measure: one for one in THRESHOLDS}
    assert (found["auroc"].value, found["perplexity"].value) == (0.7, 2.0)
    assert found["overlap"] == known["overlap"]
    assert found["auroc"].side == known["auroc"].side


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ("auroc", "no number"),
        ("auroc=x", "no number"),
        ("nothing=1", "one of auroc"),
        ("auroc=1.5", "0.5 to 1"),
        ("overlap=-1", "0 to 1"),
        ("perplexity=nan", "1 to inf"),
    ],
)
def test_a_threshold_that_makes_no_sense_is_refused(given_, says):
    with pytest.raises(DataError, match=says):
        set_thresholds([given_])
