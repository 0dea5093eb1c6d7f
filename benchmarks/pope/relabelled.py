"""One run, two sets of labels: RePOPE's beside the original ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agevlm.errors import DataError
from benchmarks.pope.questions import relabel
from benchmarks.pope.rows import Answered
from benchmarks.pope.types import QuestionSet

FAMILY = "coco"


def with_repope_sets(sets: Sequence[QuestionSet], repope: Path) -> tuple[QuestionSet, ...]:
    """The sets, and POPE's COCO questions again with RePOPE's labels. Raises DataError if there are none."""
    coco = [s for s in sets if s.name == FAMILY]
    if not coco:
        raise DataError(f"--repope {repope}: RePOPE re-annotates POPE's COCO questions, and none are given")
    return (*sets, *(relabel(s, repope) for s in coco))


def with_repope(answered: Sequence[Answered], repope: Path) -> list[Answered]:
    """The answers, and those to POPE's COCO questions once more with RePOPE's labels. Raises DataError if none are."""
    sets = with_repope_sets([a.questions for a in answered], repope)
    coco = [a for a in answered if a.questions.name == FAMILY]
    return [*answered, *(replace(a, questions=s) for a, s in zip(coco, sets[len(answered) :], strict=True))]
