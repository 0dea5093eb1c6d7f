"""How patiently a request is repeated. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime

LASTING = (501, 505)
"""Server errors that no waiting mends."""


@dataclass(frozen=True)
class Patience:
    """Exponential backoff with jitter, and where it ends."""

    tries: int = 10
    """Most times a request is sent."""
    seconds: float = 600.0
    """Most time for a request, from its first try to its last pause."""
    base: float = 0.5
    """Seconds of the first pause; each further one is twice as long."""
    longest: float = 60.0
    """Most seconds of a pause of our own."""
    longest_asked: float = 120.0
    """Most seconds of a pause that the server asks for."""

    def pause(self, failed: int, asked: float | None, draw: float) -> float:
        """Seconds to wait before the next try.

        Args:
            failed: tries so far, at least 1.
            asked: what the server asks for (Retry-After), in seconds.
            draw: random, in [0, 1); half of each pause is drawn, so that clients that failed together part.
        """
        own = min(self.longest, self.base * 2.0 ** min(failed - 1, 60))
        if asked is None:
            return own * (0.5 + 0.5 * draw)
        return min(asked, self.longest_asked) + 0.5 * own * draw


AT_ONCE = Patience(tries=3)
"""For the first look at an endpoint: whether it is there should be known in about a second."""


def passes(status: int) -> bool:
    """Whether an HTTP status is of a trouble that may pass."""
    return status in (408, 409, 425, 429) or (status >= 500 and status not in LASTING)


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header asks for, at least 0; None where it is missing or says nothing.

    Args:
        value: seconds or an HTTP date (RFC 9110, 10.2.3).
        now: the time, in seconds since the epoch.
    """
    text = (value or "").strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
