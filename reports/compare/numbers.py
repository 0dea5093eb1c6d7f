"""How much two runs differ on the questions that both answered, and whether that is more than chance. Pure.

Everywhere the difference is that of the other run less A's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.pope.rows import POOLED
from benchmarks.pope.types import SPLITS
from benchmarks.statistics.bootstrap import score_differences
from benchmarks.statistics.clusters import Interval, design_effect, resampling_weights, sum_by_cluster
from benchmarks.statistics.exchange import exchange_exact, holm, mcnemar_exact
from benchmarks.statistics.paired import Difference, paired_gain
from benchmarks.statistics.scores import FIELDS, Floats
from reports import verdicts
from reports.compare.pairing import Pair
from reports.verdicts import HIGHER, LOWER, TIE

LEVEL = 0.95
ALPHA = 0.05
MEAN_OF_SPLITS = "mean of splits"


@dataclass(frozen=True)
class Number:
    """Scores of one row of a benchmark's table."""

    name: str
    """A split, mean of splits, pooled; official, 2D, 3D, row mean, "task Count" and the like."""
    scores: Mapping[str, Difference]
    """accuracy; of POPE f1 and yes_ratio too. The other run comes first, A second."""


@dataclass(frozen=True)
class Group:
    """Some of the shared questions, as right and wrong answers."""

    name: str
    n: int
    images: int
    base: float
    """Accuracy of A."""
    other: float
    gain: Interval
    only_base: int
    """Questions that A alone has right."""
    only_other: int
    mcnemar: float
    """Exact p, as if questions were independent."""
    design_effect: float
    """How many times the difference varies more than it would if they were; NaN where all questions agree."""
    p: float
    """Exact p of exchanging the runs image by image."""
    holm: float | None = None
    """The same adjusted for all categories of the pair of runs; None for groups that are not part of that family."""

    @property
    def verdict(self) -> str:
        """By the p after Holm, where the group is of a family."""
        return verdict(self.gain, self.p if self.holm is None else self.holm)


def verdict(gain: Interval, p: float) -> str:
    """A difference in words: established where its interval leaves 0 out and its p by image is at most 0.05.

    Both, so that a verdict never contradicts the p beside it: the interval of four images lost and none won leaves 0
    out, at an exact p of 0.125. Where few images part the runs this is the more careful of the two.
    """
    found = verdicts.verdict(gain.value, gain.low, gain.high)
    return TIE if found in (HIGHER, LOWER) and not p <= ALPHA else found


class Answers:
    """Shared questions as arrays: who is right, and about which image each one is."""

    def __init__(self, pairs: Sequence[Pair], draws: int, seed: int) -> None:
        self.pairs = pairs
        clusters = sorted({a.question.cluster for a, _ in pairs})
        places = {name: place for place, name in enumerate(clusters)}
        self.images = np.array([places[a.question.cluster] for a, _ in pairs], dtype=np.int64)
        self.base, self.other = (
            np.array([pair[which].read.verdict == "right" for pair in pairs], dtype=np.float64) for which in (0, 1)
        )
        self.weights = resampling_weights(len(clusters), draws, seed)

    def group(self, name: str, mask: NDArray[np.bool_]) -> Group:
        """The questions of a mask (n,), which has any."""
        base, other, images = self.base[mask], self.other[mask], self.images[mask]
        gains = other - base
        only_base, only_other = int((gains < 0).sum()), int((gains > 0).sum())
        return Group(
            name=name,
            n=len(gains),
            images=len(np.unique(images)),
            base=float(base.mean()),
            other=float(other.mean()),
            gain=paired_gain(other, base, images, self.weights, LEVEL),
            only_base=only_base,
            only_other=only_other,
            mcnemar=mcnemar_exact(only_base, only_other),
            design_effect=design_effect(gains, images),
            p=exchange_exact(sum_by_cluster(gains, images, self.weights.shape[1])),
        )

    def groups(self, names: Sequence[str]) -> list[Group]:
        """The questions by name, (n,)."""
        array = np.array(names, dtype=object)
        return [self.group(name, array == name) for name in sorted(set(names))]


def family(groups: Sequence[Group]) -> list[Group]:
    """Groups with their p values adjusted for one another, the largest difference first."""
    adjusted = [replace(one, holm=p) for one, p in zip(groups, holm([g.p for g in groups]), strict=True)]
    return sorted(adjusted, key=lambda one: (-one.gain.value, one.name))


def pope_numbers(pairs: Sequence[Pair], cells: Sequence[str], answers: Answers, seed: int) -> list[Number]:
    """POPE's scores by cell (a split, or a split of a data set), their mean, and pooled; one cell is all there is."""
    effects = [
        np.array([[getattr(pair[which].effect, field) for field in FIELDS] for pair in pairs], dtype=np.float64)
        for which in (0, 1)
    ]
    names = in_order(cells)
    array = np.array(cells, dtype=object)

    def counts(effect: Floats, name: str) -> Floats:
        mask = array == name
        found = np.zeros((answers.weights.shape[1], len(FIELDS)))
        np.add.at(found, answers.images[mask], effect[mask])
        return found

    base, other = ({name: counts(effect, name) for name in names} for effect in effects)
    by_cell, mean = score_differences(other, base, answers.weights, seed=seed, level=LEVEL)
    found = [Number(name, by_cell[name]) for name in names]
    if len(names) == 1:
        return found
    whole = [{POOLED: np.sum(list(one.values()), axis=0)} for one in (other, base)]
    pooled, _ = score_differences(whole[0], whole[1], answers.weights, seed=seed, level=LEVEL)
    return [*found, Number(MEAN_OF_SPLITS, mean), Number(POOLED, pooled[POOLED])]


def in_order(cells: Sequence[str]) -> list[str]:
    """Each once, POPE's own splits first and in its order."""
    return sorted(set(cells), key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name))


def cvbench_numbers(pairs: Sequence[Pair], draws: int, seed: int) -> list[Number]:
    """CV-Bench's numbers: official, 2D, 3D, row mean, by source and task, as far as the shared questions have them."""
    from benchmarks.cvbench.questions import Question
    from benchmarks.cvbench.score import Row, differences
    from benchmarks.cvbench.types import Reading

    def row(pair: Pair, which: int) -> Row:
        question, read = pair[0].question, pair[which].read
        assert isinstance(question, Question)
        reading = Reading(read.option, read.rule)
        options = len(question.options)
        return Row(question.cluster, question.source, question.type, question.task, options, question.gold, reading)

    base, other = ([row(pair, which) for pair in pairs] for which in (0, 1))
    found = differences(other, base, draws=draws, seed=seed, level=LEVEL)
    return [Number(name, {"accuracy": one}) for name, one in found.items()]
