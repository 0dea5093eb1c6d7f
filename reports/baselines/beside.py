"""Which published figures stand beside which measured numbers. Pure.

Every group is of one metric of one benchmark. A figure whose metric, or its formula, nobody states is in a group of its
own that nothing measured enters.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from agevlm.errors import DataError
from reports.baselines.measured import Measured
from reports.published import METRICS, UNDEFINED, Published, comparable

_RANGE = re.compile(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)B")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([MB])(?:x(\d+))?(?: LLM)?")


@dataclass(frozen=True)
class Beside:
    """What stands in one table."""

    benchmark: str
    metric: str
    split: str
    data_version: str | None
    """Of the measured numbers; None where there are none."""
    measured: tuple[Measured, ...]
    published: tuple[Published, ...]
    """The highest first; of equal ones by the model's name."""
    unavailable: tuple[Published, ...] = ()
    """Rows of the benchmark whose figures are not available to us."""
    elsewhere: bool = False
    """The metric was measured, but on other data than these figures are of."""


@dataclass(frozen=True)
class Chosen:
    """Which of all are wanted."""

    benchmarks: Collection[str] = ()
    """All if empty; so are metrics."""
    metrics: Collection[str] = ()
    sizes: tuple[float, float] | None = None
    """Billions of parameters, from and to, of published models; those that do not state theirs are left out."""

    def published(self, rows: Sequence[Published]) -> list[Published]:
        """The rows that are wanted; one without a figure whenever its benchmark is."""
        return [
            row
            for row in rows
            if self._benchmark(row.benchmark)
            and (row.value is None or (self._metric(row.metric) and self._size(row.size)))
        ]

    def measured(self, found: Sequence[Measured]) -> list[Measured]:
        """The same of measured numbers, whatever the model's size."""
        return [one for one in found if self._benchmark(one.benchmark) and self._metric(one.metric)]

    def _benchmark(self, name: str) -> bool:
        return not self.benchmarks or name in self.benchmarks

    def _metric(self, name: str) -> bool:
        return not self.metrics or name in self.metrics

    def _size(self, text: str) -> bool:
        if self.sizes is None:
            return True
        size = billions(text)
        return size is not None and self.sizes[0] <= size <= self.sizes[1]


def arrange(found: Sequence[Measured], rows: Sequence[Published]) -> list[Beside]:
    """Groups in the order of benchmarks and metrics; those whose metric is not stated come last.

    Where a metric was measured on several versions of the questions, each has a group, and a figure whose source does
    not say which it used is in each. Figures that may stand beside nothing measured have a group without.
    """
    groups: list[Beside] = []
    for benchmark in METRICS:
        mine = [row for row in rows if row.benchmark == benchmark]
        unavailable = tuple(row for row in mine if row.value is None)
        own = (*_defined(benchmark, found, mine), *_undefined(benchmark, mine))
        groups += [replace(group, unavailable=unavailable) for group in own]
    return sorted(groups, key=lambda group: group.metric in UNDEFINED)


def _defined(benchmark: str, found: Sequence[Measured], rows: Sequence[Published]) -> Iterator[Beside]:
    for metric, split in METRICS[benchmark].items():
        own = [one for one in found if (one.benchmark, one.metric) == (benchmark, metric)]
        left = [row for row in rows if row.metric == metric and row.value is not None]
        waiting = list(left)
        for version in dict.fromkeys(one.data_version for one in own):
            beside = [row for row in left if comparable(metric, version, row)]
            waiting = [row for row in waiting if row not in beside]
            of_version = tuple(one for one in own if one.data_version == version)
            yield Beside(benchmark, metric, split, version, of_version, _ordered(beside))
        if waiting:
            yield Beside(benchmark, metric, split, None, (), _ordered(waiting), elsewhere=bool(own))


def _undefined(benchmark: str, rows: Sequence[Published]) -> Iterator[Beside]:
    valued = [row for row in rows if row.metric in UNDEFINED and row.value is not None]
    for metric, split in sorted({(row.metric, row.split) for row in valued}):
        own = [row for row in valued if (row.metric, row.split) == (metric, split)]
        yield Beside(benchmark, metric, split, None, (), _ordered(own))


def _ordered(rows: Sequence[Published]) -> tuple[Published, ...]:
    return tuple(sorted(rows, key=lambda row: (-(row.value or Decimal(0)), row.model, row.source)))


def billions(size: str) -> float | None:
    """Billions of parameters that a size states; None where it states none.

    "1.8Bx4" counts as 7.2, all of its experts; "1.1B LLM" as 1.1, though the whole model is larger.
    """
    match = _SIZE.fullmatch(size)
    if match is None:
        return None
    return float(match[1]) * (0.001 if match[2] == "M" else 1) * int(match[3] or 1)


def size_range(text: str) -> tuple[float, float]:
    """The two ends of "0-3B". Raises DataError for any other text, or ends that hold nothing between them."""
    match = _RANGE.fullmatch(text)
    if match is None or float(match[1]) > float(match[2]):
        raise DataError(f"--size {text}: give billions of parameters from and to, as 0-3B")
    return float(match[1]), float(match[2])
