"""CV-Bench answers read by a judge: which are put to it, the reading that its verdicts make, and its share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console

from benchmarks.controls import IMAGE
from benchmarks.cvbench.questions import Question
from benchmarks.cvbench.readers import MAIN, READERS, Reader
from benchmarks.cvbench.results import Answered, Results
from benchmarks.cvbench.types import NO_ANSWER, Reading
from benchmarks.judge.cases import JUDGED, Case, stem
from benchmarks.judge.judging import Judged
from benchmarks.judge.share import Read, Share, print_share, rule_of, share_of
from benchmarks.records import Answer


def case_of(question: Question, text: str) -> Case:
    """An answer as a judge is asked about it: without the right option, the image and the question's identity."""
    return Case(stem(question.prompt, question.options), question.options, text)


def goes_to_judge(question: Question, answer: Answer, which: str) -> bool:
    """Whether a judge reads the answer: all that are not blank, or (which "unread") those that the rules cannot."""
    if answer.text is None or not answer.text.strip():
        return False
    return which == "all" or _rules(question, answer).option is None


def cases_of(answered: Answered, which: str) -> Iterator[Case]:
    """What a judge is to read of a run, in the order of conditions and questions."""
    for answers in answered.answers.values():
        for question in answered.questions.questions:
            answer = answers.get(question.idx, Answer(None))
            if answer.text is not None and goes_to_judge(question, answer, which):
                yield case_of(question, answer.text)


def rules_of(answered: Answered) -> dict[Case, int | None]:
    """The distinct answers about the own image, blank ones aside, with the option that the rules find in each."""
    found: dict[Case, int | None] = {}
    for question in answered.questions.questions:
        answer = answered.answers.get(IMAGE, {}).get(question.idx, Answer(None))
        if answer.text is not None and goes_to_judge(question, answer, "all"):
            found[case_of(question, answer.text)] = _rules(question, answer).option
    return found


def judged_reader(judged: Judged, which: str) -> Reader:
    """The reading that the verdicts make; with which "unread" it is the rules' own where these find an option."""

    def read(question: Question, answer: Answer) -> Reading:
        if answer.text is None:
            return NO_ANSWER
        if not goes_to_judge(question, answer, which):
            return _rules(question, answer) if answer.text.strip() else Reading(None, "empty")
        outcome = judged.outcomes[case_of(question, answer.text)]
        return Reading(outcome.option, rule_of(outcome), decided=outcome.state == "verdict")

    return Reader(JUDGED[which], (), None, read)


def _rules(question: Question, answer: Answer) -> Reading:
    reading = READERS[MAIN].read(question, answer)
    assert reading is not None  # the rules read text, which every answer has
    return reading


def shares(answered: Answered, found: Results, which: str) -> list[Share]:
    """The judge's share under every condition."""
    questions = answered.questions.questions
    rows = []
    for condition, answers in answered.answers.items():
        texts = [answers.get(q.idx, Answer(None)) for q in questions]
        readings = found.read[condition, JUDGED[which]]
        there = (
            Read(mine.rule, mine.decided, mine.option, _rules(q, answer).option, q.gold)
            for q, answer, mine in zip(questions, texts, readings, strict=True)
            if answer.text is not None
        )
        rows.append(share_of(condition, there))
    return rows


def print_judged(judged: Judged, which: str, found: Sequence[Share], console: Console) -> None:
    """The judge's share as a table."""
    print_share(judged, which, JUDGED[which], MAIN, found, console)
