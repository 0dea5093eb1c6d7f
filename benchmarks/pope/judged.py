"""POPE answers read by a judge, as a protocol of its own: counted as by `default`, without published numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.judge.cases import JUDGED, Case
from benchmarks.judge.judging import Judged
from benchmarks.judge.share import Read, Share, rule_of, share_of
from benchmarks.pope.protocols import PROTOCOLS, Protocol
from benchmarks.pope.rows import IMAGE, Answered
from benchmarks.pope.types import Question
from benchmarks.reading import Label, Reading, read_yes_no

OPTIONS = ("yes", "no")
_LABELS = (Label.YES, Label.NO)


def case_of(question: Question, text: str) -> Case:
    """An answer as a judge is asked about it: without its label, the image and the question's identity."""
    return Case(question.text, OPTIONS, text)


def _option(label: Label) -> int | None:
    return _LABELS.index(label) if label in _LABELS else None


def _goes_to_judge(text: str, which: str) -> bool:
    label = read_yes_no(text).label
    return label is not Label.EMPTY and (which == "all" or label not in _LABELS)


def cases_of(answered: Sequence[Answered], which: str) -> Iterator[Case]:
    """What a judge is to read: all answers but empty ones, or (which "unread") those that `default` cannot read."""
    for one in answered:
        for answers in one.answers.values():
            for question in one.questions.questions:
                answer = answers.get((question.split, question.question_id))
                if answer is not None and answer.text is not None and _goes_to_judge(answer.text, which):
                    yield case_of(question, answer.text)


def judged_protocol(judged: Judged, which: str) -> Protocol:
    """The protocol that the verdicts make; with which "unread" `default` reads what it can."""
    default = PROTOCOLS["default"]

    def read(question: Question, text: str) -> Reading:
        if not _goes_to_judge(text, which):
            return read_yes_no(text)
        outcome = judged.outcomes[case_of(question, text)]
        if outcome.state != "verdict":
            return Reading(Label.UNDECIDED, rule_of(outcome))
        return Reading(Label.UNPARSED if outcome.option is None else _LABELS[outcome.option], rule_of(outcome))

    return Protocol(
        name=JUDGED[which],
        summary="a language model reads the answer as yes, no or neither; undecided ones are in no count",
        source="this suite, benchmarks/judge",
        prompt=None,
        aggregate="per split",
        data=default.data,
        read=default.read,
        count=default.count,
        read_question=read,
    )


def rules_of(answered: Sequence[Answered]) -> dict[Case, int | None]:
    """The distinct answers about the own image, empty ones aside, with the option that `default` finds in each."""
    found: dict[Case, int | None] = {}
    for one in answered:
        answers = one.answers.get(IMAGE, {})
        for question in one.questions.questions:
            answer = answers.get((question.split, question.question_id))
            if answer is not None and answer.text is not None and _goes_to_judge(answer.text, "all"):
                found[case_of(question, answer.text)] = _option(read_yes_no(answer.text).label)
    return found


def shares(answered: Sequence[Answered], judged: Judged, which: str) -> dict[str, list[Share]]:
    """Data version -> the judge's share under every condition."""
    read = judged_protocol(judged, which).read_question
    assert read is not None

    def one_read(question: Question, text: str) -> Read:
        mine, gold = read(question, text), 0 if question.label else 1
        decided = mine.label is not Label.UNDECIDED
        return Read(mine.rule, decided, _option(mine.label), _option(read_yes_no(text).label), gold)

    found: dict[str, list[Share]] = {}
    for one in answered:
        rows = found.setdefault(one.questions.data_version, [])
        for condition, answers in one.answers.items():
            pairs = ((q, answers.get((q.split, q.question_id))) for q in one.questions.questions)
            there = (one_read(q, answer.text) for q, answer in pairs if answer is not None and answer.text is not None)
            rows.append(share_of(condition, there))
    return found
