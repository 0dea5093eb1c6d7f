"""From read answers to CV-Bench's numbers. Pure: the same rows give the same numbers, to the last bit.

Every number is a function of right answers and questions per source, type and task, so its interval comes from the
same function of the same counts over resampled images (`benchmarks.statistics.clusters`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import fsum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agevlm.errors import DataError
from benchmarks.cvbench.types import NO_ANSWER, Reading
from benchmarks.cvbench.types import SOURCES as SOURCES
from benchmarks.statistics.clusters import Interval, resampling_weights, score_interval, sum_by_cluster
from benchmarks.statistics.exchange import exchange_test
from benchmarks.statistics.paired import Difference, difference
from benchmarks.statistics.scores import Floats, divide

TYPES = ("2D", "3D")
TASKS = ("Count", "Relation", "Depth", "Distance")
OFFICIAL, ROW_MEAN = "official", "row mean"
DRAWS = 2000

Mask = NDArray[np.bool_]
Formula = Callable[[Mapping[str, Floats]], Floats]
"""From shares by group to a number; linear."""


@dataclass(frozen=True)
class Row:
    """One question with what was read in its answer."""

    image: str
    """The image that it is about: the sampling unit of the intervals."""
    source: str
    type: str
    """2D or 3D."""
    task: str
    n_options: int
    gold: int
    """Place of the right option, from 0."""
    reading: Reading

    @property
    def correct(self) -> bool:
        """Whether the answer was read as the right option; an answer that names none is wrong."""
        return self.reading.option == self.gold


@dataclass(frozen=True)
class Score:
    """One number of a table."""

    name: str
    """official, 2D, 3D (by source), row mean, or "source ADE20K", "task Count" and the like."""
    accuracy: Interval
    chance: float
    """What guessing among each question's options gives by the same formula."""
    n: int
    """Questions with an answer that was read, if only as none."""
    images: int
    """Images with an answered question."""
    unparsed: int
    """Answers that name no option; they are wrong."""
    if_unparsed_right: float
    """The number if every answer that names no option had been right; `accuracy` takes them all as wrong."""
    missing: int
    """Questions without an answer, because the model failed; they enter no other number."""
    undecided: int
    """Answers on which a judge came to no verdict; they enter no other number but the next two."""
    if_undecided_wrong: float
    """The number if these answers had all been wrong."""
    if_undecided_right: float
    """The number if they had all been right."""

    @property
    def below_chance(self) -> bool:
        """Whether the whole interval lies below chance: the answers are worse than guesses, or were not understood."""
        return self.accuracy.high < self.chance


# --- the official number ----------------------------------------------------------------------------------------------


def official_mean(rows: Iterable[tuple[str, bool]]) -> float | None:
    """CV-Bench's official number, 1/2 ((ADE20K + COCO) / 2 + Omni3D), from rows of (source, whether it is right).

    Each term is a source's share of right answers, in [0, 1]. None unless all three sources have rows: a part of the
    benchmark has no official number. Raises DataError for a source that CV-Bench does not have.
    """
    right, total = dict.fromkeys(SOURCES, 0), dict.fromkeys(SOURCES, 0)
    for number, (source, correct) in enumerate(rows):
        if source not in total:
            raise DataError(f"row {number}: source {source!r} is none of CV-Bench's ({', '.join(SOURCES)})")
        total[source] += 1
        right[source] += bool(correct)
    if not all(total.values()):
        return None
    return float(_official({s: np.asarray(right[s] / total[s], dtype=np.float64) for s in SOURCES}))


def _two_d(shares: Mapping[str, Floats]) -> Floats:
    return (shares["ADE20K"] + shares["COCO"]) / 2


def _official(shares: Mapping[str, Floats]) -> Floats:
    return 1 / 2 * (_two_d(shares) + shares["Omni3D"])


# --- a table ----------------------------------------------------------------------------------------------------------


def score(rows: Sequence[Row], *, draws: int = DRAWS, seed: int = 0, level: float = 0.95) -> list[Score]:
    """CV-Bench's numbers of one set of answers, in [0, 1], each with its interval over images.

    In this order: official (only where all three sources are there), 2D = (ADE20K + COCO) / 2 (where both are), 3D =
    Omni3D, row mean, then every source, type and task. Where the rows are not CV-Bench's sources (CV-Scenes), 2D and
    3D are the row means of their types. All numbers are resampled jointly: one draw takes an image with all its
    questions. No rows, no scores. Raises ValueError where `level` is outside (0, 1), DataError where a row's right
    option is none of its options.
    """
    if not rows:
        return []
    for number, row in enumerate(rows):
        if not 0 <= row.gold < row.n_options:
            raise DataError(f"row {number} (image {row.image}): right option {row.gold} of {row.n_options} options")
    return _Table(rows, draws, seed, level).scores()


def gains(
    first: Sequence[Row], second: Sequence[Row], *, draws: int = DRAWS, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Every number of the first answers minus the same of the second, in [-1, 1], paired by question.

    The rows are of the same questions in the same order; those that either lacks an answer to are left out. No rows,
    no numbers. Raises ValueError where the questions differ.
    """
    _require_same(first, second)
    return _Table(first, draws, seed, level).gains(second) if first else {}


def differences(
    first: Sequence[Row], second: Sequence[Row], *, draws: int = DRAWS, seed: int = 0, level: float = 0.95
) -> dict[str, Difference]:
    """The same with the number of either, and with what tells whether they differ. Arguments and errors as `gains`."""
    _require_same(first, second)
    return _Table(first, draws, seed, level).differences(second, seed) if first else {}


def _require_same(first: Sequence[Row], second: Sequence[Row]) -> None:
    if [replace(row, reading=NO_ANSWER) for row in first] != [replace(row, reading=NO_ANSWER) for row in second]:
        raise ValueError("a gain is between answers to the same questions in the same order")


@lru_cache(maxsize=2)
def _weights(images: int, draws: int, seed: int) -> Floats:
    """The same for all conditions and readings of a set, so made once."""
    return resampling_weights(images, draws, seed)


def _one(name: str, mask: Mask) -> tuple[str, dict[str, Mask], Formula]:
    return name, {name: mask}, lambda shares: shares[name]


def _counts(row: Row) -> bool:
    """Whether a row's answer is there and is right or wrong."""
    return row.reading != NO_ANSWER and row.reading.decided


class _Table:
    """Sums of each group per image, and the same sums in every draw."""

    def __init__(self, rows: Sequence[Row], draws: int, seed: int, level: float) -> None:
        self.rows, self.level = rows, level
        places = {image: i for i, image in enumerate(sorted({row.image for row in rows}))}
        self.images = np.array([places[row.image] for row in rows], dtype=np.int64)
        self.correct = np.array([row.correct for row in rows], dtype=np.float64)
        self.guess = np.array([1 / row.n_options for row in rows], dtype=np.float64)
        self.answered = np.array([_counts(row) for row in rows])
        self.undecided = np.array([not row.reading.decided for row in rows])
        self.unparsed = np.array([row.reading.option is None for row in rows]) & self.answered
        self.weights = _weights(len(places), draws, seed)

    def scores(self) -> list[Score]:
        return [self._score(*number) for number in self._drawn(self._numbers())]

    def gains(self, other: Sequence[Row]) -> dict[str, Interval]:
        """Every number minus the same number of other answers to the same questions."""
        self.answered &= np.array([_counts(row) for row in other])
        # All formulas are linear in the shares: the formula of the differences is the difference.
        self.correct -= np.array([row.correct for row in other])
        numbers = self._drawn(self._numbers())
        return {name: self._interval(masks, formula, draws, lowest=-1.0) for name, masks, formula, draws in numbers}

    def differences(self, other: Sequence[Row], seed: int) -> dict[str, Difference]:
        """Gains, with both numbers, standard errors and p values."""
        own, others = self.correct, np.array([row.correct for row in other], dtype=np.float64)
        self.answered &= np.array([_counts(row) for row in other])
        self.correct = own - others
        numbers = self._drawn(self._numbers())
        groups = [mask & self.answered for _, masks, _, _ in numbers for mask in masks.values()]
        asked = np.array([mask.sum() for mask in groups], dtype=np.float64)

        def by_number(sums_a: Floats, sums_b: Floats) -> Floats:
            shares = iter(divide(sums_a - sums_b, asked).T)
            return np.stack([formula({g: next(shares) for g in masks}) for _, masks, formula, _ in numbers], axis=-1)

        sums_a, sums_b = (np.stack([self._by_image(v, mask) for mask in groups], axis=1) for v in (own, others))
        _, p = exchange_test(sums_a, sums_b, by_number, seed=seed)
        found = {}
        for place, (name, masks, formula, draws) in enumerate(numbers):
            first, second = (self._value(v, masks, formula) for v in (own, others))
            found[name] = difference(first, second, draws, self._fewest(masks), float(p[place]), self.level)
        return found

    def _numbers(self) -> list[tuple[str, dict[str, Mask], Formula]]:
        """Each number's name, the groups of questions that it is made from, and how."""
        sources, types = self._groups("source", SOURCES), self._groups("type", TYPES)
        found: list[tuple[str, dict[str, Mask], Formula]] = []
        if set(sources) == set(SOURCES):
            found.append((OFFICIAL, sources, _official))
        if set(sources) <= set(SOURCES):
            if {"ADE20K", "COCO"} <= set(sources):
                found.append(("2D", {s: sources[s] for s in SOURCES[:2]}, _two_d))
            if "Omni3D" in sources:
                found.append(_one("3D", sources["Omni3D"]))
        else:
            found += [_one(name, mask) for name, mask in types.items()]
        found.append(_one(ROW_MEAN, np.ones(len(self.rows), dtype=bool)))
        found += [_one(f"source {name}", mask) for name, mask in sources.items()]
        return found + [_one(f"task {name}", mask) for name, mask in self._groups("task", TASKS).items()]

    def _groups(self, field: str, known: Sequence[str]) -> dict[str, Mask]:
        """Masks of the rows by a field's value, the known values first."""
        values = [getattr(row, field) for row in self.rows]
        present = set(values)
        names = [name for name in known if name in present] + sorted(present - set(known))
        return {name: np.array([value == name for value in values]) for name in names}

    def _drawn(
        self, numbers: Sequence[tuple[str, dict[str, Mask], Formula]]
    ) -> list[tuple[str, dict[str, Mask], Formula, Floats]]:
        """The numbers with their value in every draw: all sums of all draws are one matrix product."""
        groups = [mask & self.answered for _, masks, _ in numbers for mask in masks.values()]
        sums = [self._by_image(values, mask) for mask in groups for values in (self.correct, self.answered)]
        totals = self.weights @ np.stack(sums, axis=1)
        shares = iter(divide(totals[:, 0::2], totals[:, 1::2]).T)
        return [(name, masks, formula, formula({g: next(shares) for g in masks})) for name, masks, formula in numbers]

    def _score(self, name: str, masks: Mapping[str, Mask], formula: Formula, draws: Floats) -> Score:
        """A formula of the shares of right answers in some groups, with its interval."""
        asked = np.logical_or.reduce(list(masks.values()))
        union = asked & self.answered
        return Score(
            name=name,
            accuracy=self._interval(masks, formula, draws),
            chance=self._value(self.guess, masks, formula),
            n=int(union.sum()),
            images=len(np.unique(self.images[union])),
            unparsed=int(self.unparsed[union].sum()),
            if_unparsed_right=self._value(self.correct + self.unparsed, masks, formula),
            missing=int((asked & ~self.answered & ~self.undecided).sum()),
            undecided=int((asked & self.undecided).sum()),
            if_undecided_wrong=self._value(self.correct, masks, formula, self.answered | self.undecided),
            if_undecided_right=self._value(
                self.correct + self.undecided, masks, formula, self.answered | self.undecided
            ),
        )

    def _value(self, values: Floats, masks: Mapping[str, Mask], formula: Formula, counted: Mask | None = None) -> float:
        counted = self.answered if counted is None else counted
        answered = {group: mask & counted for group, mask in masks.items()}
        # fsum: the order of the rows never matters, not even in the last bit
        return float(formula({group: divide(fsum(values[m]), m.sum()) for group, m in answered.items()}))

    def _interval(self, masks: Mapping[str, Mask], formula: Formula, draws: Floats, *, lowest: float = 0.0) -> Interval:
        value = self._value(self.correct, masks, formula)
        return score_interval(value, draws, self._fewest(masks), self.level, lowest=lowest)

    def _fewest(self, masks: Mapping[str, Mask]) -> int:
        """Images of the group that has the fewest."""
        return min(len(np.unique(self.images[mask & self.answered])) for mask in masks.values())

    def _by_image(self, values: Any, mask: Mask) -> Floats:
        return sum_by_cluster(values[mask], self.images[mask], self.weights.shape[1])


# --- where readings differ --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disagreement:
    """An answer to a question with these options that not all protocols read alike."""

    answer: str
    options: tuple[str, ...]
    count: int
    readings: Mapping[str, Reading]
    """Protocol -> reading."""


def disagreements(
    asked: Sequence[tuple[str | None, Sequence[str]]], readings: Mapping[str, Sequence[Reading]], most: int = 20
) -> list[Disagreement]:
    """The most frequent pairs of answer and options that protocols read as different options, or as one and none.

    `asked` holds (answer, options) per question, `readings` each protocol's reading per question in the same order.
    Raises ValueError where the lengths differ.
    """
    if any(len(one) != len(asked) for one in readings.values()):
        raise ValueError(f"need one reading of each of the {len(asked)} answers under every protocol")
    counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
    found: dict[tuple[str, tuple[str, ...]], dict[str, Reading]] = {}
    for number, (answer, options) in enumerate(asked):
        read = {name: one[number] for name, one in readings.items()}
        if answer is not None and len({reading.option for reading in read.values()}) > 1:
            key = (answer, tuple(options))
            counts[key] += 1
            found[key] = read
    ordered = sorted(found, key=lambda key: (-counts[key], key))
    return [Disagreement(*key, counts[key], found[key]) for key in ordered[:most]]


def agreement(readings: Mapping[str, Sequence[Reading]]) -> dict[tuple[str, str], int]:
    """How many answers each pair of protocols reads as the same option (or both as none), over the same questions.

    Raises ValueError where protocols have read different numbers of answers.
    """
    names = list(readings)
    return {
        (a, b): sum(x.option == y.option for x, y in zip(readings[a], readings[b], strict=True))
        for i, a in enumerate(names)
        for b in names[i:]
    }


def rule_counts(readings: Iterable[Reading]) -> dict[tuple[str, bool], int]:
    """How often each rule fired, as (rule, whether it found an option), most frequent first."""
    counts = Counter((reading.rule, reading.option is not None) for reading in readings)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
