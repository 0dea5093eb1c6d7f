"""Orders of a gallery's questions."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from reports.document import Item

_WRONG = ("false yes", "missed", "wrong answer", "unparsed")


def is_wrong(item: Item) -> bool:
    """Wrong, or not to be read."""
    return item.kind in _WRONG


def worst_first(items: Sequence[Item]) -> list[int]:
    """Places of the items: wrong and unparsed ones, then those without an answer that counts, then right ones.

    Within each the largest margin comes first, and those without a margin last.
    """

    def key(place: int) -> tuple[int, bool, float, int]:
        margin = items[place].margin
        none = margin is None or math.isnan(margin)
        rank = 0 if is_wrong(items[place]) else 2 if items[place].kind == "right" else 1
        return rank, none, 0.0 if none or margin is None else -margin, place

    return sorted(range(len(items)), key=key)


def shuffled(count: int, seed: int) -> list[int]:
    """Places in an order that the seed decides."""
    places = list(range(count))
    random.Random(seed).shuffle(places)
    return places
