"""Questions that one run has right and the other wrong. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reports.compare.pairing import Pair
from reports.gallery.entries import margin_of
from reports.runs.showing import Shown


@dataclass(frozen=True)
class Flip:
    """A question on which two runs part."""

    base: Shown
    other: Shown
    margins: tuple[float | None, float | None]
    """A's and the other's: see `margin`."""

    @property
    def gained(self) -> bool:
        """Whether the other run has it right, and A wrong."""
        return self.other.read.verdict == "right"

    @property
    def sure(self) -> float | None:
        """How sure both were, in nats: the smaller of the two margins, that of the right answer turned round.

        Below 0 where a model's log-probabilities speak against its own answer; None where either has none.
        """
        right, wrong = reversed(self.margins) if self.gained else self.margins
        return None if right is None or wrong is None else min(-right, wrong)


def flips(pairs: Sequence[Pair]) -> list[Flip]:
    """All of them: first those that the other run alone has right; of each kind the surest first."""
    found = [Flip(a, b, (margin(a), margin(b))) for a, b in pairs if a.read.verdict != b.read.verdict]
    return sorted(
        found,
        key=lambda one: (
            not one.gained,
            math.inf if one.sure is None else -one.sure,
            one.base.split,
            # Numbers in the order of their values, whatever else an id may be.
            len(one.base.number),
            one.base.number,
        ),
    )


def margin(one: Shown) -> float | None:
    """How much likelier a wrong answer was than the official one, in nats, as galleries have it: see `margin_of`."""
    return margin_of(one.options, one.right, one.read.label)
