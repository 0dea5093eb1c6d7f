"""Pauses between tries."""

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agevlm.vlm.served.retry import Patience, passes, retry_after

NOW = datetime(2025, 3, 1, 12, 0, 0, tzinfo=UTC).timestamp()


def test_pauses_double_up_to_the_longest_and_half_of_each_is_drawn():
    patience = Patience(base=0.5, longest=10)
    assert [patience.pause(n, None, 1.0) for n in range(1, 8)] == [0.5, 1, 2, 4, 8, 10, 10]
    assert [patience.pause(n, None, 0.0) for n in range(1, 8)] == [0.25, 0.5, 1, 2, 4, 5, 5]


@given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 1e9))
def test_no_pause_is_shorter_than_asked_or_longer_than_both_limits_allow(failed, draw, asked):
    patience = Patience()
    pause = patience.pause(failed, asked, draw)
    assert pause > 0 or asked == 0
    if asked is not None:
        assert pause >= min(asked, patience.longest_asked)
    assert pause <= patience.longest + (0 if asked is None else patience.longest_asked)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("0.25", 0.25),
        ("0", 0),
        (format_datetime(datetime.fromtimestamp(NOW + 42, UTC), usegmt=True), 42),
        ("Sat, 01 Mar 2025 12:00:05 +0000", 5),
        ("Sat, 01 Mar 2025 11:00:00 GMT", 0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-3", None),
        ("1e9", None),
        ("²", None),
        ("Sat, 99 Mar 2025 11:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header, seconds):
    assert retry_after(header, NOW) == seconds


@given(st.text(max_size=40))
def test_no_header_breaks_it(header):
    got = retry_after(header, NOW)
    assert got is None or got >= 0


def test_only_troubles_that_pass_are_worth_another_try():
    assert all(passes(status) for status in (408, 409, 425, 429, 500, 502, 503, 504, 529))
    assert not any(passes(status) for status in (200, 301, 400, 401, 403, 404, 413, 422, 501, 505))
