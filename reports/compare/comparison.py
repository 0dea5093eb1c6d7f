"""One run against A: everything that tables, JSON and the exit code say. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.cvbench.score import OFFICIAL, ROW_MEAN
from benchmarks.pope.rows import POOLED
from benchmarks.statistics.exchange import holm
from benchmarks.statistics.paired import Difference
from reports.compare.flips import Flip, flips
from reports.compare.numbers import (
    MEAN_OF_SPLITS,
    Answers,
    Group,
    Number,
    cvbench_numbers,
    family,
    in_order,
    pope_numbers,
    verdict,
)
from reports.compare.pairing import Pairing, pair
from reports.compare.sides import Side, Unlike, require_alike
from reports.verdicts import LOWER

Metric = Literal["accuracy", "f1"]
DRAWS = 2000
_ROUNDING = 1e-12
"""1 of 100 questions is a hundredth, whatever floating point makes of it."""


@dataclass(frozen=True)
class Comparison:
    """What one run's difference from A is."""

    base: Side
    other: Side
    unlike: Sequence[Unlike]
    """What was allowed to differ."""
    pairing: Pairing
    images: int
    numbers: Sequence[Number]
    groups: Sequence[Group]
    """POPE's splits, and all shared questions."""
    categories: Sequence[Group]
    """Objects of POPE; tasks and sources of CV-Bench. Adjusted for one another."""
    flips: Sequence[Flip]

    @property
    def headline(self) -> Number:
        """Mean of the splits, or the only split; official, or the row mean where there is no official number."""
        by_name = {one.name: one for one in self.numbers}
        for name in (MEAN_OF_SPLITS, OFFICIAL, ROW_MEAN):
            if name in by_name:
                return by_name[name]
        return self.numbers[0]

    @property
    def same_model(self) -> bool:
        """Whether both runs are of one model, to the last byte."""
        prints = [one.opened.manifest.get("model", {}).get("fingerprint") for one in (self.base, self.other)]
        return prints[0] is not None and prints[0] == prints[1]


def compare(base: Side, other: Side, allowed: Collection[str] = (), *, draws: int = DRAWS, seed: int = 0) -> Comparison:
    """Compare a run with A on the questions that both answered.

    Args:
        base: A.
        other: the run whose difference from A is asked for.
        allowed: aspects in which they may differ: see `reports.compare.sides.ASPECTS`.
        draws: bootstrap draws over images.
        seed: of the draws and of the exchanges.

    Raises:
        DataError: they differ in what is not allowed, or share no question.
    """
    found = require_alike(base, other, allowed)
    pairing = pair(base, other, "data" in allowed)
    pairs = pairing.pairs
    answers = Answers(pairs, draws, seed)
    everything = answers.group(POOLED if base.benchmark == "pope" else ROW_MEAN, answers.images >= 0)
    if base.benchmark == "pope":
        several = len(set(pairing.sets)) > 1
        cells = [f"{name} {a.split}" if several else a.split for name, (a, _) in zip(pairing.sets, pairs, strict=True)]
        numbers = pope_numbers(pairs, cells, answers, seed)
        by_cell = {one.name: one for one in answers.groups(cells)}
        groups = [by_cell[name] for name in in_order(cells)]
        groups += [everything] if len(groups) > 1 else []
        categories = answers.groups([a.category for a, _ in pairs])
    else:
        numbers = cvbench_numbers(pairs, draws, seed)
        groups = [everything]
        sources = [f"source {getattr(a.question, 'source', '')}" for a, _ in pairs]
        # One source is all there is: its row would be that of all questions.
        categories = answers.groups([f"task {a.category}" for a, _ in pairs])
        categories += answers.groups(sources) if len(set(sources)) > 1 else []
        categories = _rounded_alike(categories, numbers)
    return Comparison(
        base,
        other,
        found,
        pairing,
        answers.weights.shape[1],
        _exact(numbers, [*groups, *categories]),
        _rounded_alike(groups, numbers),
        family(categories),
        flips(pairs),
    )


def _rounded_alike(groups: Sequence[Group], numbers: Sequence[Number]) -> list[Group]:
    """Groups whose differences are those of the numbers of their names to the last bit, which both print."""
    gains = {one.name: one.scores["accuracy"].gain for one in numbers}
    return [replace(one, gain=gains[one.name]) for one in groups]


def _exact(numbers: Sequence[Number], groups: Sequence[Group]) -> list[Number]:
    """Numbers with the exact p of the groups of their names: of a share of the same questions it needs no draws."""
    exact = {one.name: one.p for one in groups}
    return [
        replace(one, scores={**one.scores, "accuracy": replace(one.scores["accuracy"], p=exact[one.name])})
        if one.name in exact
        else one
        for one in numbers
    ]


@dataclass(frozen=True)
class Lead:
    """The headline's difference of one run from A, among all that are compared with it."""

    comparison: Comparison
    metric: Metric
    difference: Difference
    p: float
    """Adjusted for the number of runs that are compared with A."""

    @property
    def verdict(self) -> str:
        """By the adjusted p: see `reports.compare.numbers.verdict`."""
        return verdict(self.difference.gain, self.p)


def leads(found: Sequence[Comparison], metric: Metric) -> list[Lead]:
    """The headline's difference of each run, with p values adjusted for one another."""
    own = [one.headline.scores[metric] for one in found]
    adjusted = holm([one.p for one in own])
    return [Lead(one, metric, d, p) for one, d, p in zip(found, own, adjusted, strict=True)]


def below(lead: Lead, limit: float, established: bool) -> str | None:
    """Why a difference fails a limit, or None where it holds.

    Args:
        lead: the difference.
        limit: the least that it may be, as a fraction.
        established: whether it fails only where its whole interval lies below the limit, and where the limit is 0 or
            less, so that the run is worse, only where that is established.
    """
    gain = lead.difference.gain
    name = f"{lead.comparison.other.named}: {lead.metric}, {lead.comparison.headline.name}"
    said = f"{100 * gain.value:+.2f} points"
    if not math.isnan(gain.low):
        said += f" [{100 * gain.low:+.2f}, {100 * gain.high:+.2f}]"
    if math.isnan(gain.value):
        return f"{name}: the difference is undefined"
    if established:
        if math.isnan(gain.high):
            return f"{name}: the difference has no interval"
        sure = gain.high < limit - _ROUNDING and (limit > 0 or lead.verdict == LOWER)
        return f"{name}: {said}, all of it below {100 * limit:+.2f}" if sure else None
    return f"{name}: {said}, below {100 * limit:+.2f}" if gain.value < limit - _ROUNDING else None
