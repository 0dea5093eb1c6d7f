"""What goes into scoring and what comes out: answered questions, rows, rules, disagreements."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.controls import IMAGE as IMAGE
from benchmarks.pope.types import QuestionSet
from benchmarks.records import Answer as Answer
from benchmarks.statistics.clusters import Interval

FLOOR = "floor:"
"""What the condition of a floor begins with."""
POOLED, MEAN = "pooled", "mean"

QuestionKey = tuple[str, str]
"""(split, question id)."""


@dataclass(frozen=True)
class Answered:
    """A question set with the answers to it, under each condition."""

    questions: QuestionSet
    answers: Mapping[str, Mapping[QuestionKey, Answer]]
    """Condition ("image", "blind", ...) -> answers; questions without an entry are missing."""
    prompt: str
    """Name of the prompt the answers were given to, or "not stated"."""


@dataclass(frozen=True)
class Row:
    """One line of a result table."""

    dataset: str
    split: str
    condition: str
    protocol: str
    data_version: str
    prompt: str
    images: int
    """Images (pairs in POPEv2) with an answer: the sampling units of the intervals."""
    n: int
    """Questions with an answer."""
    missing: int
    """Questions without: never asked, or an error stands in the answer's place."""
    errors: int
    counts: Mapping[str, int]
    """tp, fp, tn, fn, unparsed, and counted: the denominator of accuracy."""
    refused: int
    empty: int
    differs: int
    """Answers that this protocol reads differently from `default`."""
    scores: Mapping[str, Interval]

    @property
    def is_floor(self) -> bool:
        """Whether this is a floor's row and no model's."""
        return self.condition.startswith(FLOOR)

    def to_json(self) -> dict[str, Any]:
        """A flat dictionary of plain values: scores as fractions with `_low` and `_high`; undefined ones are null."""
        flat: dict[str, Any] = {
            "benchmark": "pope",
            "dataset": self.dataset,
            "split": self.split,
            "condition": self.condition,
            "protocol": self.protocol,
            "data_version": self.data_version,
            "prompt": self.prompt,
            "images": self.images,
            "n": self.n,
            "missing": self.missing,
            "errors": self.errors,
            **self.counts,
            "refused": self.refused,
            "empty": self.empty,
            "differs_from_default": self.differs,
        }
        for name, interval in self.scores.items():
            for suffix, value in (("", interval.value), ("_low", interval.low), ("_high", interval.high)):
                flat[name + suffix] = None if math.isnan(value) else value
        return flat


@dataclass(frozen=True)
class Disagreement:
    """An answer text that not all protocols read alike, with how often it was given and each one's label."""

    data_version: str
    answer: str
    gold: bool
    count: int
    readings: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for scores.json."""
        return {
            "data_version": self.data_version,
            "answer": self.answer,
            "label": "yes" if self.gold else "no",
            "count": self.count,
            "readings": dict(self.readings),
        }


@dataclass(frozen=True)
class RuleCount:
    """How many answers of a condition one rule of a protocol read as one label."""

    data_version: str
    condition: str
    protocol: str
    label: str
    rule: str
    count: int


@dataclass(frozen=True)
class Scores:
    """All rows, which rules read the answers, and where the protocols part."""

    rows: list[Row]
    rules: list[RuleCount]
    disagreements: list[Disagreement]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for scores.json."""
        return {
            "rows": [r.to_json() for r in self.rows],
            "rules": [asdict(r) for r in self.rules],
            "disagreements": [d.to_json() for d in self.disagreements],
        }
