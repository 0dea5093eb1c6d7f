"""POPE answers read by a judge, as a protocol of its own: counted as by `default`, without published numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from benchmarks.judge.cases import Case
from benchmarks.judge.judging import Judged
from benchmarks.pope.protocols import PROTOCOLS, Protocol
from benchmarks.pope.rows import Answered, Scores
from benchmarks.pope.types import Question
from benchmarks.reading import Label, Reading, read_yes_no

NAMES = {"unread": "judged", "all": "judged-all"}
"""Which answers a judge reads (`--judge-which`) -> the protocol's name."""
OPTIONS = ("yes", "no")
BY_JUDGE = "judge"
"""What the rule's name begins with where a judge read the answer, or was to."""
_LABELS = (Label.YES, Label.NO)


def case_of(question: Question, text: str) -> Case:
    """An answer as a judge is asked about it: without its label, the image and the question's identity."""
    return Case(question.text, OPTIONS, text)


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
            return Reading(Label.UNDECIDED, f"{BY_JUDGE}: {outcome.state}")
        if outcome.option is None:
            return Reading(Label.UNPARSED, f"{BY_JUDGE}: none")
        return Reading(_LABELS[outcome.option], BY_JUDGE)

    return Protocol(
        name=NAMES[which],
        summary="a language model reads the answer as yes, no or neither; undecided ones are in no count",
        source="this suite, benchmarks/judge",
        prompt=None,
        aggregate="per split",
        data=default.data,
        read=default.read,
        count=default.count,
        read_question=read,
    )


def share_lines(scores: Scores, judged: Judged, which: str) -> Iterator[str]:
    """What the judge read, in a line per data set and condition."""
    mine = [rule for rule in scores.rules if rule.protocol == NAMES[which]]
    for version, condition in dict.fromkeys((rule.data_version, rule.condition) for rule in mine):
        here = [rule for rule in mine if (rule.data_version, rule.condition) == (version, condition)]
        read: Counter[str] = Counter()
        for rule in here:
            if rule.rule.startswith(BY_JUDGE):
                read[rule.label] += rule.count
        labels = ", ".join(f"{read[one]} {one}" for one in ("yes", "no", "unparsed", "undecided"))
        of = f"{sum(rule.count for rule in here)} answers ({version}, {condition})"
        yield f"{NAMES[which]}: {judged.judge} read {read.total()} of {of}: {labels}"
