"""CV-Bench answers read by a judge: which are put to it, the reading that its verdicts make, and its share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.controls import IMAGE
from benchmarks.cvbench.questions import Question
from benchmarks.cvbench.readers import JUDGED, MAIN, READERS, Reader
from benchmarks.cvbench.results import Answered, Results
from benchmarks.cvbench.types import NO_ANSWER, Reading
from benchmarks.judge.cases import PROMPT_VERSION, Case, stem
from benchmarks.judge.judging import Judged
from benchmarks.records import Answer
from benchmarks.tables import empty_table

BY_JUDGE = "judge"
"""What the rule's name begins with where a judge read the answer, or was to."""
_WITHOUT_VERDICT = {"undecided": "judge-undecided", "over the cap": "judge-over-cap", "not judged": "judge-failed"}


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
        if outcome.state != "verdict":
            return Reading(None, _WITHOUT_VERDICT[outcome.state], decided=False)
        return Reading(outcome.option, BY_JUDGE if outcome.option is not None else f"{BY_JUDGE}-none")

    return Reader(JUDGED[which], (), None, read)


def _rules(question: Question, answer: Answer) -> Reading:
    reading = READERS[MAIN].read(question, answer)
    assert reading is not None  # the rules read text, which every answer has
    return reading


@dataclass(frozen=True)
class Share:
    """What the judge did under one condition, in numbers of answers."""

    condition: str
    answers: int
    to_judge: int
    """Answers that the judge was to read."""
    named: int
    """Of these, read as an option."""
    none: int
    """Read as naming no option."""
    undecided: int
    """No reply was a verdict, twice."""
    over_cap: int
    failed: int
    """Not judged because the judge could not be asked."""
    right: int
    """Answers that are right in the judged reading."""
    right_by_judge_alone: int
    """Right ones that the rules read otherwise, or not at all."""
    wrong_by_judge_alone: int
    """Wrong ones that are right by the rules."""


def shares(answered: Answered, found: Results, which: str) -> list[Share]:
    """The judge's share under every condition."""
    rows = []
    for condition, answers in answered.answers.items():
        questions = answered.questions.questions
        texts = [answers.get(q.idx, Answer(None)) for q in questions]
        there = [
            (q, reading, _rules(q, answer))
            for q, answer, reading in zip(questions, texts, found.read[condition, JUDGED[which]], strict=True)
            if answer.text is not None
        ]
        rules = [reading.rule for _, reading, _ in there]
        right = [(reading.option == q.gold, by_rules.option == q.gold) for q, reading, by_rules in there]
        rows.append(
            Share(
                condition=condition,
                answers=len(there),
                to_judge=sum(rule.startswith(BY_JUDGE) for rule in rules),
                named=rules.count(BY_JUDGE),
                none=rules.count(f"{BY_JUDGE}-none"),
                undecided=rules.count(_WITHOUT_VERDICT["undecided"]),
                over_cap=rules.count(_WITHOUT_VERDICT["over the cap"]),
                failed=rules.count(_WITHOUT_VERDICT["not judged"]),
                right=sum(mine for mine, _ in right),
                right_by_judge_alone=sum(mine and not theirs for mine, theirs in right),
                wrong_by_judge_alone=sum(
                    theirs and not mine and reading.decided
                    for (mine, theirs), (_, reading, _) in zip(right, there, strict=True)
                ),
            )
        )
    return rows


def to_json(judged: Judged, which: str, found: Sequence[Share]) -> dict[str, Any]:
    """Plain values, for scores.json. The judge goes by its fingerprint; `judge.jsonl` has every call."""
    return {
        "judge": judged.judge,
        "fingerprint": judged.fingerprint,
        "prompt_version": PROMPT_VERSION,
        "which": which,
        "reading": JUDGED[which],
        "shares": [asdict(one) for one in found],
    }


# --- a table ----------------------------------------------------------------------------------------------------------


def print_judged(judged: Judged, which: str, found: Sequence[Share], console: Console) -> None:
    """The judge's share as a table."""
    console.print(share_table(judged, which, found))


def share_table(judged: Judged, which: str, found: Sequence[Share]) -> Table:
    """What the judge read, condition by condition."""
    read = "all answers, as in the paper" if which == "all" else f"the answers that {MAIN} cannot read"
    title = f"The judge's share · {JUDGED[which]}: {escape(judged.judge)} reads {read} · prompt {PROMPT_VERSION}"
    table = empty_table(title, "answers", *(one.condition for one in found))
    table.min_width = len(title)
    rows: dict[str, list[str]] = {
        "all": [str(one.answers) for one in found],
        "for the judge": [_part(one.to_judge, one.answers) for one in found],
        "  read as an option": [str(one.named) for one in found],
        "  read as none": [str(one.none) for one in found],
        "  undecided": [str(one.undecided) for one in found],
        "  over the cap on calls": [str(one.over_cap) for one in found],
        "  not judged, the judge failed": [str(one.failed) for one in found],
        "right": [_part(one.right, one.answers) for one in found],
        f"  right by the judge alone, not by {MAIN}": [_part(one.right_by_judge_alone, one.right) for one in found],
        f"wrong by the judge alone, right by {MAIN}": [str(one.wrong_by_judge_alone) for one in found],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    table.caption = "without verdict (undecided, over the cap, not judged): neither right nor wrong, see the bounds"
    return table


def _part(count: int, of: int) -> str:
    return f"{count} ({100 * count / of:.1f}%)" if of else str(count)
