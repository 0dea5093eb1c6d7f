"""What will be asked: unique (image as shown, prompt) pairs, grouped by image, in a seeded order.

The plan is a pure function of the questions, the images' content, the prompt, the decoding, the model's fingerprint and
the seed; never of labels, ids, or what was answered before. Groups are the unit of work, of commits and of
division over processes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.records import answer_key

BLIND_GROUP = 64
"""Most prompts without an image in one group."""


@dataclass(frozen=True)
class Shown:
    """An image as it is shown to a model."""

    identity: str
    """Content identity: SHA-256 of the file, or a control's recipe over it."""
    name: str
    """The image file it comes from."""
    control: str | None = None
    """The control that changes its pixels (blank, shuffled), if any."""


@dataclass(frozen=True)
class PlannedAsk:
    """A prompt of a group and the key of its answer."""

    key: str
    prompt: str


@dataclass(frozen=True)
class Group:
    """All prompts about one image as shown; without an image, some of the blind prompts."""

    shown: Shown | None
    asks: tuple[PlannedAsk, ...]


@dataclass
class Planner:
    """Collects asks, each distinct one once."""

    decoding: Mapping[str, Any]
    fingerprint: str
    _asks: dict[str | None, dict[str, PlannedAsk]] = field(default_factory=dict)
    _shown: dict[str, Shown] = field(default_factory=dict)

    def add(self, shown: Shown | None, prompt: str) -> str:
        """Plan one ask; the key of its answer record."""
        identity = None if shown is None else shown.identity
        if shown is not None:
            self._shown.setdefault(shown.identity, shown)
        prompts = self._asks.setdefault(identity, {})
        if prompt not in prompts:
            prompts[prompt] = PlannedAsk(answer_key(identity, prompt, self.decoding, self.fingerprint), prompt)
        return prompts[prompt].key

    def groups(self, seed: int) -> list[Group]:
        """The groups in seeded order, the prompts of each in seeded order."""
        rng = random.Random(seed)
        groups = []
        for identity in sorted(self._asks, key=lambda i: (i is None, i or "")):
            asks = sorted(self._asks[identity].values(), key=lambda a: a.key)
            rng.shuffle(asks)
            if identity is not None:
                groups.append(Group(self._shown[identity], tuple(asks)))
                continue
            groups += [Group(None, tuple(asks[i : i + BLIND_GROUP])) for i in range(0, len(asks), BLIND_GROUP)]
        rng.shuffle(groups)
        return groups


def remaining(groups: Iterable[Group], done: Iterable[str]) -> list[Group]:
    """The groups with what is not yet answered; finished groups are left out."""
    answered = set(done)
    left = []
    for group in groups:
        asks = tuple(a for a in group.asks if a.key not in answered)
        if asks:
            left.append(Group(group.shown, asks))
    return left


def share(groups: Sequence[Group], rank: int, world: int) -> list[Group]:
    """The groups of one of `world` processes."""
    return list(groups[rank::world])
