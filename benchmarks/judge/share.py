"""The judge's share of a score: what it read, and what is right or wrong by it alone. The same for all benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape

from benchmarks.judge.agreement import kappa
from benchmarks.judge.cases import BY_JUDGE, NAMED_NONE, PROMPT_VERSION
from benchmarks.judge.judging import Judged, Outcome
from benchmarks.tables import empty_table

_WITHOUT_VERDICT = {"undecided": "judge-undecided", "over the cap": "judge-over-cap", "not judged": "judge-failed"}


def rule_of(outcome: Outcome) -> str:
    """The rule's name that a reading by the judge carries."""
    if outcome.state != "verdict":
        return _WITHOUT_VERDICT[outcome.state]
    return BY_JUDGE if outcome.option is not None else NAMED_NONE


@dataclass(frozen=True)
class Read:
    """An answer as the judged reading and the rules see it; options by place, None where none is found."""

    rule: str
    """Of the judged reading."""
    decided: bool
    option: int | None
    by_rules: int | None
    gold: int

    @property
    def right(self) -> bool:
        """Whether the judged reading is right."""
        return self.option == self.gold

    @property
    def right_by_rules(self) -> bool:
        """Whether the rules' reading is right."""
        return self.by_rules == self.gold


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
    both: int
    """Answers that the judge read, in which the rules find an option as it does."""
    alike: int
    """Of these, the same one."""
    kappa: float | None
    """Cohen's kappa of these options; None where it is not defined."""


def share_of(condition: str, answers: Iterable[Read]) -> Share:
    """Counts over the answers that are there."""
    there = list(answers)
    rules = [one.rule for one in there]
    read = [(one.by_rules, one.option) for one in there if one.rule == BY_JUDGE]
    both = [(mine, theirs) for mine, theirs in read if mine is not None and theirs is not None]
    return Share(
        condition=condition,
        answers=len(there),
        to_judge=sum(rule.startswith(BY_JUDGE) for rule in rules),
        named=rules.count(BY_JUDGE),
        none=rules.count(NAMED_NONE),
        undecided=rules.count(_WITHOUT_VERDICT["undecided"]),
        over_cap=rules.count(_WITHOUT_VERDICT["over the cap"]),
        failed=rules.count(_WITHOUT_VERDICT["not judged"]),
        right=sum(one.right for one in there),
        right_by_judge_alone=sum(one.right and not one.right_by_rules for one in there),
        wrong_by_judge_alone=sum(one.right_by_rules and one.decided and not one.right for one in there),
        both=len(both),
        alike=sum(mine == theirs for mine, theirs in both),
        kappa=kappa(both),
    )


def to_json(judged: Judged, which: str, reading: str, found: Sequence[Share]) -> dict[str, Any]:
    """Plain values, for scores.json. The judge goes by its fingerprint; `judge.jsonl` has every call."""
    return {
        "judge": judged.judge,
        "fingerprint": judged.fingerprint,
        "prompt_version": PROMPT_VERSION,
        "which": which,
        "reading": reading,
        "shares": [asdict(one) for one in found],
    }


def print_share(
    judged: Judged, which: str, reading: str, rules: str, found: Sequence[Share], console: Console, note: str = ""
) -> None:
    """What the judge read, condition by condition.

    Args:
        judged: its verdicts.
        which: answers it was to read, unread or all.
        reading: the name of the reading that they make.
        rules: the name of the reading without a judge.
        found: the shares.
        console: of tables.
        note: what else the title says.
    """
    read = "every answer, as the paper's Qwen judge does" if which == "all" else f"what {rules} cannot read"
    title = escape(f"The judge's share · {reading}: {judged.judge} reads {read} · prompt {PROMPT_VERSION}{note}")
    table = empty_table(title, "answers", *(one.condition for one in found))
    table.min_width = len(title)
    lines: dict[str, list[str]] = {
        "all": [str(one.answers) for one in found],
        "for the judge": [_part(one.to_judge, one.answers) for one in found],
        "  read as an option": [str(one.named) for one in found],
        "  read as none": [str(one.none) for one in found],
        "  undecided": [str(one.undecided) for one in found],
        "  over the cap on calls": [str(one.over_cap) for one in found],
        "  not judged, the judge failed": [str(one.failed) for one in found],
        "right": [_part(one.right, one.answers) for one in found],
        f"  right by the judge alone, not by {rules}": [_part(one.right_by_judge_alone, one.right) for one in found],
        f"wrong by the judge alone, right by {rules}": [str(one.wrong_by_judge_alone) for one in found],
    }
    if any(one.both for one in found):
        lines |= {
            f"read as an option by {rules} too": [_part(one.both, one.answers) for one in found],
            "  the same one": [_part(one.alike, one.both) for one in found],
            "  Cohen's kappa": ["not defined" if one.kappa is None else f"{one.kappa:.3f}" for one in found],
        }
    for name, cells in lines.items():
        table.add_row(name, *cells)
    table.caption = "without verdict (undecided, over the cap, not judged): neither right nor wrong, see the bounds"
    console.print(table)


def _part(count: int, of: int) -> str:
    return f"{count} ({100 * count / of:.1f}%)" if of else str(count)
