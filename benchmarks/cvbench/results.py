"""From answered questions to all numbers of a run. Pure: the same answers give the same rows, to the last bit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.controls import IMAGE
from benchmarks.cvbench.floors import FLOORS, floor_options
from benchmarks.cvbench.questions import Question, QuestionSet
from benchmarks.cvbench.readers import MAIN, READERS, Reader
from benchmarks.cvbench.score import (
    DRAWS,
    Disagreement,
    Row,
    Score,
    agreement,
    disagreements,
    gains,
    rule_counts,
    score,
)
from benchmarks.cvbench.types import NO_ANSWER, Reading
from benchmarks.records import Answer
from benchmarks.statistics.clusters import Interval

FLOOR = "floor:"
"""What the condition of a floor begins with."""


@dataclass(frozen=True)
class Answered:
    """Questions with the answers to them, under each condition."""

    questions: QuestionSet
    answers: Mapping[str, Mapping[str, Answer]]
    """Condition ("image", "blind", ...) -> idx -> answer; questions without an entry are missing."""
    prompt: str
    """Name of the prompt that was answered, or "not stated"."""


@dataclass(frozen=True)
class ResultRow:
    """One number under one condition and reading."""

    condition: str
    reading: str
    score: Score
    gain: Interval | None
    """The number with the image minus this one, paired by question; of controls alone."""

    @property
    def is_floor(self) -> bool:
        """Whether this is a floor's row and no model's."""
        return self.condition.startswith(FLOOR)

    def to_json(self) -> dict[str, Any]:
        """Plain values, numbers as fractions with `_low` and `_high`; null where undefined."""
        one = self.score
        flat: dict[str, Any] = {"condition": self.condition, "reading": self.reading, "score": one.name}
        flat |= {"n": one.n, "missing": one.missing, "images": one.images, "unparsed": one.unparsed}
        flat |= _flat("accuracy", one.accuracy)
        flat |= {"chance": _finite(one.chance), "below_chance": one.below_chance}
        flat["accuracy_if_unparsed_right"] = _finite(one.if_unparsed_right)
        flat["undecided"] = one.undecided
        flat["accuracy_if_undecided_wrong"] = _finite(one.if_undecided_wrong)
        flat["accuracy_if_undecided_right"] = _finite(one.if_undecided_right)
        return flat if self.gain is None else flat | _flat("gain_accuracy", self.gain)


def _flat(name: str, interval: Interval) -> dict[str, float | None]:
    values = {"": interval.value, "_low": interval.low, "_high": interval.high}
    return {name + ending: _finite(value) for ending, value in values.items()}


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value


@dataclass(frozen=True)
class ReadingCount:
    """What a reading made of all answers of a condition."""

    condition: str
    reading: str
    answers: int
    unparsed: int
    undecided: int
    differs: int
    """Answers in which it finds another option than `rules`, or finds one where `rules` finds none, or none."""
    rules: Mapping[tuple[str, bool], int]
    """(rule, whether it found an option) -> how often it fired."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for scores.json."""
        fired = [{"rule": rule, "option": found, "count": count} for (rule, found), count in self.rules.items()]
        return {
            "condition": self.condition,
            "reading": self.reading,
            "answers": self.answers,
            "unparsed": self.unparsed,
            "undecided": self.undecided,
            f"differs_from_{MAIN}": self.differs,
            "rules": fired,
        }


@dataclass(frozen=True)
class Results:
    """All numbers of a set of answers, which rules read them, and where the readings part."""

    name: str
    """CV-Bench or CV-Scenes."""
    data_version: str
    prompt: str
    rows: list[ResultRow]
    readings: list[ReadingCount]
    absent: dict[tuple[str, str], int]
    """(condition, reading) -> answers whose records lack what the reading needs: it has no rows there."""
    missing: dict[str, int]
    """Condition -> questions without an answer, whatever can be read in the others."""
    errors: dict[str, int]
    """Condition -> error records that stand in an answer's place."""
    agreement: dict[tuple[str, str], int]
    """Answers about the own image that two readings read alike."""
    disagreements: list[Disagreement]
    read: Mapping[tuple[str, str], Sequence[Reading]]
    """(condition, reading) -> the reading of every question's answer, in the questions' order."""

    def json_rows(self) -> list[dict[str, Any]]:
        """The rows as flat dictionaries of plain values."""
        head = {"benchmark": "cvbench", "dataset": self.name, "data_version": self.data_version}
        return [{**head, "prompt": "none" if r.is_floor else self.prompt, **r.to_json()} for r in self.rows]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for scores.json."""
        return {
            "rows": self.json_rows(),
            "readings": [r.to_json() for r in self.readings],
            "without": [{"condition": c, "reading": r, "answers": n} for (c, r), n in self.absent.items()],
            "missing": self.missing,
            "errors": self.errors,
            "agreement": [{"readings": list(pair), "alike": n} for pair, n in self.agreement.items()],
            "disagreements": [_disagreement(d) for d in self.disagreements],
        }


def _disagreement(one: Disagreement) -> dict[str, Any]:
    read = {name: {"option": r.option, "rule": r.rule} for name, r in one.readings.items()}
    return {"answer": one.answer, "options": list(one.options), "count": one.count, "readings": read}


def results(answered: Answered, readers: Sequence[Reader], *, draws: int = DRAWS, seed: int = 0) -> Results:
    """Every number under every condition and reading, with intervals over images.

    Args:
        answered: the questions and answers.
        readers: which readings to apply; the first leads.
        draws: bootstrap draws over images.
        seed: of the draws and of the floors' folds.
    """
    questions = answered.questions.questions
    rows: list[ResultRow] = []
    counts: list[ReadingCount] = []
    absent: dict[tuple[str, str], int] = {}
    found: dict[tuple[str, str], list[Reading]] = {}
    missing: dict[str, int] = {}
    for condition, answers in answered.answers.items():
        given = [answers.get(q.idx, Answer(None)) for q in questions]
        missing[condition] = sum(answer.text is None for answer in given)
        main = _read(READERS[MAIN], questions, given)
        for reader in readers:
            readings = _read(reader, questions, given)
            if lacking := sum(reading is None for reading in readings):
                absent[condition, reader.name] = lacking
                continue
            read = [reading for reading in readings if reading is not None]
            found[condition, reader.name] = read
            counts.append(_count(condition, reader.name, read, main))
            made = _rows(questions, read)
            gained: Mapping[str, Interval] = {}
            if condition != IMAGE and (IMAGE, reader.name) in found:
                gained = gains(_rows(questions, found[IMAGE, reader.name]), made, draws=draws, seed=seed)
            for one in score(made, draws=draws, seed=seed):
                rows.append(ResultRow(condition, reader.name, one, gained.get(one.name)))
    for floor in FLOORS:
        made = _floor_rows(answered, floor, seed)
        rows += [ResultRow(FLOOR + floor, floor, one, None) for one in score(made, draws=draws, seed=seed)]
    texts = [answered.answers.get(IMAGE, {}).get(q.idx, Answer(None)).text for q in questions]
    asked = [(text, q.options) for text, q in zip(texts, questions, strict=True)]
    own = {reading: read for (condition, reading), read in found.items() if condition == IMAGE}
    return Results(
        name=answered.questions.name,
        data_version=answered.questions.data_version,
        prompt=answered.prompt,
        rows=rows,
        readings=counts,
        absent=absent,
        missing=missing,
        errors={c: sum(a.text is None for a in answers.values()) for c, answers in answered.answers.items()},
        agreement=agreement(own),
        disagreements=disagreements(asked, own),
        read=found,
    )


def reading_rows(answered: Answered, found: Results) -> Iterator[dict[str, Any]]:
    """Each answer with what every reading made of it, and by which rule: the rows of readings.jsonl."""
    for condition, answers in answered.answers.items():
        read = {name: of for (where, name), of in found.read.items() if where == condition}
        for place, question in enumerate(answered.questions.questions):
            answer = answers.get(question.idx, Answer(None))
            if answer.text is not None:
                readings = {name: {"option": of[place].option, "rule": of[place].rule} for name, of in read.items()}
                yield {
                    "idx": question.idx,
                    "condition": condition,
                    "answer": answer.text,
                    "options": list(question.options),
                    "gold": question.gold,
                    "readings": readings,
                }


def _read(reader: Reader, questions: Sequence[Question], given: Sequence[Answer]) -> list[Reading | None]:
    return [reader.read(question, answer) for question, answer in zip(questions, given, strict=True)]


def _count(condition: str, reading: str, read: Sequence[Reading], main: Sequence[Reading | None]) -> ReadingCount:
    pairs = [(one, other) for one, other in zip(read, main, strict=True) if one != NO_ANSWER]
    return ReadingCount(
        condition=condition,
        reading=reading,
        answers=len(pairs),
        unparsed=sum(one.option is None and one.decided for one, _ in pairs),
        undecided=sum(not one.decided for one, _ in pairs),
        differs=sum(other is not None and one.option != other.option for one, other in pairs),
        rules=rule_counts(one for one, _ in pairs),
    )


def _rows(questions: Sequence[Question], read: Sequence[Reading]) -> list[Row]:
    return [
        Row(q.cluster, q.source, q.type, q.task, len(q.options), q.gold, reading)
        for q, reading in zip(questions, read, strict=True)
    ]


def _floor_rows(answered: Answered, floor: str, seed: int) -> list[Row]:
    """A floor's answers to the questions that the model answered too (to all where nothing was answered)."""
    found = answered.answers.get(IMAGE, {})
    questions = answered.questions.questions
    kept = [q for q in questions if found.get(q.idx, Answer(None)).text is not None] or list(questions)
    return _rows(kept, [Reading(place, floor) for place in floor_options(floor, kept, seed)])
