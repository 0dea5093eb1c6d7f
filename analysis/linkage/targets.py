"""What a signal is to tell of a question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.linkage.signals import SIGNALS, Signal

if TYPE_CHECKING:
    import pandas as pd

Truths = NDArray[np.bool_]
FEWEST = 10
"""Images on either side below which a figure would say nothing."""


@dataclass(frozen=True)
class Target:
    """Which questions, and what of them counts as the positive class."""

    name: str
    among: str
    said: str
    """In words, for tables."""
    margin_decides: bool = False
    """Whether a yes *is* a positive margin here, so that the margin tells the answer and not its truth."""

    def rows(self, table: pd.DataFrame) -> tuple[Truths, Truths]:
        """Which rows it is about, and which are positive (of all rows; False where the target says nothing)."""
        readable = table["correct"].notna().to_numpy(bool)
        label = table["label"].to_numpy(bool)
        wrong = ~table["correct"].fillna(True).to_numpy(bool) & readable
        yes = (label != wrong) & readable
        among = {"absent": ~label, "present": label, "all": np.ones_like(label), "yes": yes, "no": ~yes}[self.among]
        return among & readable, among & wrong

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Those that every question of the target can have: an absent object has no mask, and that it has none must
        not tell."""
        return tuple(s for s in SIGNALS if self.among == "present" or not s.present_only)


TARGETS = (
    Target("hallucinated", "absent", "yes, among absent objects", margin_decides=True),
    Target("missed", "present", "no, among present objects", margin_decides=True),
    Target("error", "all", "wrong, among all questions"),
    Target("false yes", "yes", "absent, among answers yes"),
    Target("false no", "no", "present, among answers no"),
)
