"""What will be asked: unique (image as shown, prompt) pairs, grouped by image, in a seeded order.

The plan is a pure function of the questions, the images' content, the prompt, the decoding, the model's fingerprint and
the seed; never of labels, ids, the order of rows, or what was answered before. Groups are the unit of work, of commits
and of division over processes. The order is by lots that each image and prompt draws for itself, so that a change to
one image leaves all other groups as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.records import AnswerRecord, answer_key

BLIND_GROUP = 64
"""Most prompts without an image in one group."""


@dataclass(frozen=True, slots=True)
class Shown:
    """An image as it is shown to a model."""

    identity: str
    """Content identity: SHA-256 of the file, or a control's recipe over it."""
    name: str
    """The image file it comes from."""
    control: str | None = None
    """The control that changes its pixels (blank, shuffled), if any."""


@dataclass(frozen=True, slots=True)
class PlannedAsk:
    """A prompt of a group and the key of its answer."""

    key: str
    prompt: str
    max_new_tokens: int
    options: tuple[str, ...] = ()
    """Texts whose log-probability as the answer is wanted too, of models that can rank; part of the key if there are
    any."""


@dataclass(frozen=True, slots=True)
class Group:
    """All prompts about one image as shown; without an image, some of the blind prompts."""

    shown: Shown | None
    asks: tuple[PlannedAsk, ...]
    failed_before: bool = False
    """Whether an earlier launch asked some of it and got no answer."""


@dataclass(frozen=True)
class Plan:
    """What a run will ask, and which answer each question waits for."""

    groups: list[Group]
    rows: list[dict[str, Any]]
    """The rows of questions.jsonl: each question with its answer key by condition."""

    @property
    def images(self) -> int:
        """Distinct images as shown, controls included."""
        return sum(g.shown is not None for g in self.groups)

    @property
    def pairs(self) -> int:
        """Distinct (image as shown, prompt) pairs."""
        return sum(len(g.asks) for g in self.groups)

    @property
    def questions(self) -> int:
        return len(self.rows)


def lot(seed: int, *content: str | None) -> str:
    """A seeded draw that depends on the content alone: things sorted by their lots are shuffled."""
    return hashlib.sha256(json.dumps([seed, *content]).encode()).hexdigest()


@dataclass
class Planner:
    """Collects asks, each distinct one once."""

    decoding: Mapping[str, Any]
    """Settings that can change an answer, `max_new_tokens` among them unless each ask has its own."""
    fingerprint: str
    options_name: str = "ranked"
    """What an ask's options are called in its key."""
    _asks: dict[str | None, dict[tuple[int | str, ...], PlannedAsk]] = field(default_factory=dict)
    _shown: dict[str, Shown] = field(default_factory=dict)

    def add(
        self, shown: Shown | None, prompt: str, options: Sequence[str] = (), max_new_tokens: int | None = None
    ) -> str:
        """Plan one ask; the key of its answer record. Its token budget is that of `decoding` unless it has its own."""
        identity = None if shown is None else shown.identity
        if shown is not None:
            # Of files with the same content the first by name stands for all, whichever question came first.
            known = self._shown.get(shown.identity, shown)
            self._shown[shown.identity] = min(known, shown, key=lambda s: s.name)
        tokens: int = self.decoding["max_new_tokens"] if max_new_tokens is None else max_new_tokens
        asks = self._asks.setdefault(identity, {})
        content: tuple[int | str, ...] = (tokens, prompt, *options)
        if content not in asks:
            decoding = {**self.decoding, "max_new_tokens": tokens}
            if options:
                decoding[self.options_name] = list(options)
            key = answer_key(identity, prompt, decoding, self.fingerprint)
            asks[content] = PlannedAsk(key, prompt, tokens, tuple(options))
        return asks[content].key

    def groups(self, seed: int) -> list[Group]:
        """The groups in seeded order, the prompts of each in seeded order."""
        groups = []
        for identity, planned in self._asks.items():
            asks = sorted(planned.values(), key=lambda a: (lot(seed, identity, a.prompt, *a.options), a.max_new_tokens))
            size = BLIND_GROUP if identity is None else len(asks)
            shown = None if identity is None else self._shown[identity]
            for start in range(0, len(asks), size):
                group = Group(shown, tuple(asks[start : start + size]))
                groups.append((lot(seed, identity, str(start)), group))
        return [group for _, group in sorted(groups, key=lambda g: g[0])]


def drawn(names: Iterable[str], count: int, seed: int) -> set[str]:
    """`count` seeded names; a larger count takes the same ones and more."""
    return set(sorted(set(names), key=lambda name: lot(seed, name))[:count])


def remaining(groups: Iterable[Group], records: Mapping[str, AnswerRecord]) -> list[Group]:
    """What has no answer yet: groups never tried in the plan's order, then those in which some ask failed before.

    Args:
        groups: of the plan.
        records: what earlier launches wrote, by key; an error record is no answer.
    """
    fresh, failed = [], []
    for group in groups:
        found = {a.key: records[a.key] for a in group.asks if a.key in records}
        asks = tuple(a for a in group.asks if a.key not in found or found[a.key].error is not None)
        if any(a.key in found for a in asks):
            failed.append(Group(group.shown, asks, failed_before=True))
        elif asks:
            fresh.append(Group(group.shown, asks))
    return fresh + failed


def share(groups: Sequence[Group], rank: int, world: int) -> list[Group]:
    """The groups of one of `world` processes."""
    return list(groups[rank::world])
