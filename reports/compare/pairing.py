"""Which questions two runs share. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agevlm.errors import DataError
from benchmarks.controls import IMAGE
from reports.compare.sides import Side
from reports.runs.files import printable
from reports.runs.showing import Opened, Shown

Key = tuple[str, str, str]
"""Data set, split, id; of CV-Bench the id alone."""
Pair = tuple[Shown, Shown]
"""The same question in A and in the other run."""
COUNTED = ("right", "wrong")


@dataclass(frozen=True)
class Pairing:
    """The questions that count in both runs, in the order of their names, and what became of the rest."""

    pairs: Sequence[Pair]
    sets: Sequence[str]
    """The data set of each."""
    only_base: int
    """Answers that count in A, to questions that the other has no counted answer to."""
    only_other: int
    changed: int
    """Questions with one id and another text, image (name or file) or official answer: they are not the same, so in
    neither of the above."""
    not_counted: tuple[int, int]
    """Answers of A and of the other that the protocol or reading does not count."""
    unanswered: tuple[int, int]
    """Questions of each without an answer: not asked yet, or the model failed."""


def pair(base: Side, other: Side, allow_changed: bool) -> Pairing:
    """Pair two runs' questions.

    Raises:
        DataError: a run names a question twice; a question has the same id and is another, and `allow_changed` is
            false; nothing is shared.
    """
    first, second = by_key(base), by_key(other)
    whole = base.opened.condition == other.opened.condition == IMAGE
    changed = {key for key in first.keys() & second.keys() if _changed(first[key], second[key], whole)}
    if changed and not allow_changed:
        key = min(changed)
        texts = " / ".join(printable(repr((*_content(one[key]), one[key].shown))) for one in (first, second))
        raise DataError(
            f"question {' '.join(filter(None, key))} is not the same in {base.folder} and {other.folder}: {texts} "
            f"({len(changed)} such questions): another data version. --allow data leaves them out and compares the rest"
        )
    shared = sorted(first.keys() & second.keys() - changed)
    both = [key for key in shared if all(one[key].read.verdict in COUNTED for one in (first, second))]
    if not both:
        raise DataError(
            f"{base.folder} and {other.folder} share no question that both answered ({len(first)} and {len(second)} "
            f"questions, {len(shared)} of them the same)"
        )
    counted = [
        sum(q.read.verdict in COUNTED for key, q in one.items() if key not in changed) for one in (first, second)
    ]
    return Pairing(
        [(first[key], second[key]) for key in both],
        [key[0] for key in both],
        counted[0] - len(both),
        counted[1] - len(both),
        len(changed),
        _count(base.opened, other.opened, "not counted"),
        _count(base.opened, other.opened, "error", "missing"),
    )


def _count(base: Opened, other: Opened, *verdicts: str) -> tuple[int, int]:
    first, second = (sum(q.read.verdict in verdicts for q in one.questions) for one in (base, other))
    return first, second


def by_key(side: Side) -> Mapping[Key, Shown]:
    """A run's questions by data set, split and id. Raises DataError where one appears twice."""
    found: dict[Key, Shown] = {}
    names = _set_names(side)
    for one in side.opened.questions:
        # CV-Bench's ids are unique by themselves.
        key = (_named(names, one.part), one.split, one.number) if side.benchmark == "pope" else ("", "", one.number)
        if key in found:
            raise DataError(f"{side.folder / 'questions.jsonl'}: question {' '.join(filter(None, key))} is there twice")
        found[key] = one
    return found


def _named(names: Sequence[str], part: int) -> str:
    return names[part] if 0 <= part < len(names) else str(part)


def _set_names(side: Side) -> list[str]:
    """Names of a run's data sets; their versions where two have one name."""
    data = side.opened.manifest.get("data", ())
    names = [str(one.get("name")) for one in data]
    if len(set(names)) == len(names):
        return names
    return [str(one.get("data_version")) for one in data]


def _changed(one: Shown, other: Shown, whole: bool) -> bool:
    """Whether two questions of one id differ; where the `whole` image was shown, in the content of its file too."""
    shown = (one.shown, other.shown)
    return _content(one) != _content(other) or (whole and None not in shown and shown[0] != shown[1])


def _content(one: Shown) -> tuple[object, ...]:
    """What makes it the question that it is."""
    return one.text, one.official, one.image, *getattr(one.question, "options", ())
