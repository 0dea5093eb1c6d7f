"""Which samples make up which step: a pure function of the step, whatever the number of processes.

Nothing is remembered from step to step, so a run goes on anywhere by its step number alone.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PERIOD = 4096
"""Slots after which the order of sources repeats; weights are kept to one part in this many."""
ROUNDS = 4
CHUNK = 256
"""Samples looked at together for the next that keeps its regions."""


@dataclass(frozen=True)
class Pool:
    """What the order needs to know of one source."""

    name: str
    size: int
    """Samples."""
    weight: float
    """Share among the sources, relative to the others."""
    guided: Sequence[int] = ()
    """Indices of samples whose regions are known, ascending."""


@dataclass(frozen=True)
class Drawn:
    """One sample of a batch."""

    source: int
    index: int
    epoch: int
    """How often all samples of the source were drawn before."""
    guided: bool
    """Whether its regions are used."""


def permute(positions: NDArray[np.int64], size: int, key: int, inverse: bool = False) -> NDArray[np.int64]:
    """A pseudorandom permutation of range(size), evaluated at `positions`, without memory (a Feistel network).

    Values that fall outside the range walk on until they are inside (Black and Rogaway 2002).

    Args:
        positions: from 0 to size - 1.
        size: of the range.
        key: which permutation.
        inverse: its inverse instead.
    """
    half = max(1, math.ceil(max(1, (size - 1).bit_length()) / 2))
    low = np.uint64((1 << half) - 1)
    keys = [np.uint64(seed_of(key, turn)) for turn in range(ROUNDS)]
    values = positions.astype(np.uint64)
    outside = np.ones(len(values), bool)
    while outside.any():
        left, right = values[outside] >> np.uint64(half), values[outside] & low
        for turn in keys[::-1] if inverse else keys:
            if inverse:
                left, right = right ^ (_mix(left ^ turn) & low), left
            else:
                left, right = right, left ^ (_mix(right ^ turn) & low)
        values[outside] = left << np.uint64(half) | right
        outside = values >= np.uint64(size)
    return values.astype(np.int64)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al. 2014); wraps around."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


def seed_of(*parts: object) -> int:
    """64 bits that depend on all parts and on nothing else."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


class _Stream:
    """An endless, seeded sequence of draws from several ranges, by weight."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self.sizes, self.seed = sizes, seed
        total = sum(w for w, size in zip(weights, sizes, strict=True) if size)
        shares = np.array([w / total * PERIOD if size else 0.0 for w, size in zip(weights, sizes, strict=True)])
        counts = np.where(shares > 0, np.floor(shares).clip(min=1), 0).astype(np.int64)
        for source in np.argsort(-(shares - counts), kind="stable")[: max(0, PERIOD - int(counts.sum()))]:
            counts[source] += 1
        self.period = int(counts.sum())
        # Each source's slots at even distances from each other: every batch has nearly the same mix.
        at = [(np.arange(count) + 0.5) / count for count in counts if count]
        owners = [np.full(count, source) for source, count in enumerate(counts) if count]
        self.order = np.concatenate(owners)[np.argsort(np.concatenate(at), kind="stable")]
        self.counts = counts
        self.before = np.zeros((len(sizes), self.period + 1), np.int64)
        for source in range(len(sizes)):
            self.before[source, 1:] = np.cumsum(self.order == source)

    def draw(self, first: int, count: int) -> list[tuple[int, int, int]]:
        """(source, position in its range, epoch) of the draws number `first` and on."""
        numbers = np.arange(first, first + count)
        slots = numbers % self.period
        sources = self.order[slots]
        drawn = numbers // self.period * self.counts[sources] + self.before[sources, slots]
        sizes = np.asarray(self.sizes)[sources]
        epochs, places = drawn // sizes, drawn % sizes
        positions = np.zeros(count, np.int64)
        for source, epoch in {*zip(sources.tolist(), epochs.tolist(), strict=True)}:
            here = (sources == source) & (epochs == epoch)
            positions[here] = permute(places[here], self.sizes[source], seed_of(self.seed, source, epoch))
        return list(zip(sources.tolist(), positions.tolist(), epochs.tolist(), strict=True))


class Order:
    """Which samples make up which step.

    Each epoch of a source is a permutation of all its samples. Sources alternate by weight.

    Args:
        pools: the sources.
        batch_size: samples of one step, over all processes.
        seed: of everything drawn.
        share: share of each source's guided samples that keep their regions; 0 for none.
        batch_share: share of guided samples in every step, drawn from those that keep their regions; the other
            samples come without regions. None: as they come.

    Raises:
        ValueError: no sample at all.
    """

    def __init__(
        self, pools: Sequence[Pool], batch_size: int, seed: int, share: float = 0.0, batch_share: float | None = None
    ) -> None:
        self.pools, self.batch_size, self.seed = pools, batch_size, seed
        if not any(pool.size and pool.weight > 0 for pool in pools):
            raise ValueError("no source has any sample")
        self.kept = [_kept(len(pool.guided), share) for pool in pools]
        """How many samples of each source keep their regions."""
        weights = [pool.weight for pool in pools]
        self._all = _Stream([p.size if p.weight > 0 else 0 for p in pools], weights, seed_of(seed, "all"))
        self.batch_share = batch_share if self.guided_samples else None
        if self.batch_share is not None:
            sizes = [kept if pool.weight > 0 else 0 for kept, pool in zip(self.kept, pools, strict=True)]
            self._guided = _Stream(sizes, weights, seed_of(seed, "guided"))

    @property
    def guided_samples(self) -> int:
        """How many samples keep their regions."""
        return sum(kept for kept, pool in zip(self.kept, self.pools, strict=True) if pool.weight > 0)

    def step(self, number: int) -> list[Drawn]:
        """The samples of step `number`, from 0 on."""
        if self.batch_share is None:
            drawn = self._all.draw(number * self.batch_size, self.batch_size)
            batch = [Drawn(s, i, epoch, self.keeps(s, i)) for s, i, epoch in drawn]
        else:
            before, after = self._quota(number), self._quota(number + 1)
            count = after - before
            free = self._all.draw(number * self.batch_size - before, self.batch_size - count)
            batch = [Drawn(s, i, epoch, False) for s, i, epoch in free]
            for s, place, epoch in self._guided.draw(before, count):
                batch.append(Drawn(s, self._guided_index(s, place), epoch, True))
        # Processes take consecutive slots: the guided ones must not all come to the last.
        order = permute(np.arange(self.batch_size), self.batch_size, seed_of(self.seed, "slots", number))
        return [batch[slot] for slot in order]

    def keeps(self, source: int, index: int) -> bool:
        """Whether a sample keeps its regions."""
        guided = self.pools[source].guided
        place = bisect_left(guided, index)
        if not self.kept[source] or place == len(guided) or guided[place] != index:
            return False
        rank = permute(np.array([place]), len(guided), self._choice(source), inverse=True)
        return int(rank[0]) < self.kept[source]

    def following(self, source: int, index: int, guided: bool) -> Iterator[int]:
        """An index and all after it, each once, round the source's end.

        Args:
            source: which.
            index: the first.
            guided: only those that keep their regions, as the first must.
        """
        pool = self.pools[source]
        if not guided:
            yield from (place % pool.size for place in range(index, index + pool.size))
            return
        size = len(pool.guided)
        first = bisect_left(pool.guided, index)
        for begin in range(first, first + size, CHUNK):
            places = np.arange(begin, min(begin + CHUNK, first + size)) % size
            ranks = permute(places, size, self._choice(source), inverse=True)
            for place in places[ranks < self.kept[source]]:
                yield int(pool.guided[int(place)])

    def other(self, source: int, index: int, epoch: int) -> int:
        """Another sample of the source that keeps its regions; the same one only if there is no other."""
        place = seed_of(self.seed, "other", source, index, epoch) % self.kept[source]
        found = self._guided_index(source, place)
        return found if found != index else self._guided_index(source, (place + 1) % self.kept[source])

    def _quota(self, steps: int) -> int:
        """Guided samples in so many steps."""
        return math.floor(steps * self.batch_size * (self.batch_share or 0.0) + 0.5)

    def _guided_index(self, source: int, place: int) -> int:
        guided = self.pools[source].guided
        return int(guided[int(permute(np.array([place]), len(guided), self._choice(source))[0])])

    def _choice(self, source: int) -> int:
        return seed_of(self.seed, "keep", self.pools[source].name)


def _kept(known: int, share: float) -> int:
    return min(known, max(1, math.floor(known * share + 0.5))) if known and share > 0 else 0
