"""Questions that one run has right and the other wrong. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reports.compare.pairing import Pair
from reports.runs.showing import Shown


@dataclass(frozen=True)
class Flip:
    """A question on which two runs part."""

    base: Shown
    other: Shown
    margins: tuple[float | None, float | None]
    """A's and the other's: log-probability of the official answer less that of the best other one, in nats."""

    @property
    def gained(self) -> bool:
        """Whether the other run has it right, and A wrong."""
        return self.other.read.verdict == "right"

    @property
    def sure(self) -> float | None:
        """How sure both were, in nats: the smaller of the right answer's margin and the wrong one's; below 0 where a
        model's log-probabilities speak against its own answer; None where either has none."""
        right, wrong = reversed(self.margins) if self.gained else self.margins
        return None if right is None or wrong is None else min(right, -wrong)


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
    """How much likelier the official answer was than the best other one, in nats; None without log-probabilities."""
    official = getattr(one.question, "gold", None)
    if official is None:
        return _over("yes" if one.official == "yes" else "no", ("yes", "no"), one)
    from benchmarks.cvbench.types import LETTERS

    letters = LETTERS[: len(getattr(one.question, "options", ()))]
    for form in ("({})", "{}"):
        found = _over(form.format(letters[official]), [form.format(letter) for letter in letters], one)
        if found is not None:
            return found
    return None


def _over(right: str, texts: Sequence[str], one: Shown) -> float | None:
    values = {text: one.logprobs.get(text) for text in texts}
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values.values()):
        return None
    best = max((value for text, value in values.items() if text != right and value is not None), default=None)
    given = values[right]
    return None if best is None or given is None else given - best
