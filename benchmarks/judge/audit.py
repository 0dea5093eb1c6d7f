"""How far a judge can be trusted: beside the rules, with options in other orders, asked again, and on a gold set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, permutations
from random import Random
from typing import Any

from benchmarks.judge.agreement import Agreement, agreement
from benchmarks.judge.backends import JudgeChoice
from benchmarks.judge.cases import LETTERS, NONE, PROMPT_VERSION, Case
from benchmarks.judge.gold import GOLD
from benchmarks.judge.judging import Judged, Outcome, judge_cases
from benchmarks.judge.log import JudgeLog

MANY = 5
"""Options above which orders are shuffled, not drawn from a list of all."""


@dataclass(frozen=True)
class Stability:
    """The same answers put to the judge in another way."""

    cases: int
    """Answers with a verdict every time."""
    differ: int
    """Of these, with not always the same."""
    without_verdict: int


@dataclass(frozen=True)
class GoldScore:
    """The judge on answers whose reading was settled by hand."""

    rows: int
    right: int
    wrong: Sequence[Mapping[str, str]]
    """Answer, the verdict that is right, and the judge's."""
    without_verdict: int


@dataclass(frozen=True)
class Audit:
    """All of it."""

    judge: str
    fingerprint: str
    prompt_version: str
    answers: int
    """Distinct answers of the run that were drawn."""
    agreement: Agreement
    order: Stability
    repeats: Stability
    gold: GoldScore

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def audit(
    rules: Mapping[Case, int | None],
    choice: JudgeChoice,
    log: JudgeLog,
    *,
    sample: int,
    orders: int = 1,
    repeats: int = 1,
    seed: int = 0,
    max_calls: int | None = None,
    say: Callable[[str], None] = lambda _: None,
    advance: Callable[[int, int], None] = lambda _, __: None,
) -> tuple[Audit, Judged]:
    """Put a seeded sample of answers, and the gold set, to a judge.

    Args:
        rules: answers, with the option that the rules find in each.
        choice: the judge.
        log: of its calls; a killed audit goes on where it was.
        sample: how many distinct answers; all where there are fewer.
        orders: how many other orders of the options each is asked with (as many as there are, at most).
        repeats: how often each is asked again as it was.
        seed: of the sample and the orders.
        max_calls: see `judge_cases`.
        say: likewise.
        advance: likewise.

    Raises:
        RunFolderError, CheckpointError: as `judge_cases`.
    """
    drawn = _drawn(rules, sample, seed)
    ordered = {case: [replace(case, order=one) for one in other_orders(case, orders, seed)] for case in drawn}
    repeated = {case: [replace(case, repeat=n + 1) for n in range(repeats)] for case in drawn}
    asked = [*drawn, *GOLD]
    for more in (ordered, repeated):
        asked += [one for cases in more.values() for one in cases]
    judged = judge_cases(asked, choice, log, max_calls=max_calls, say=say, advance=advance)
    found = judged.outcomes
    made = Audit(
        judge=choice.name,
        fingerprint=judged.fingerprint,
        prompt_version=PROMPT_VERSION,
        answers=len(drawn),
        agreement=agreement((rules[case], found[case]) for case in drawn),
        order=stability([found[one] for one in (case, *others)] for case, others in ordered.items() if others),
        repeats=stability([found[one] for one in (case, *others)] for case, others in repeated.items() if others),
        gold=on_gold(found),
    )
    return made, judged


def _drawn(rules: Mapping[Case, int | None], sample: int, seed: int) -> list[Case]:
    """So many cases, by a hash of their content: the order they come in does not matter, and more takes the same."""
    return sorted(rules, key=lambda case: case.key(f"sample {seed}"))[:sample]


def other_orders(case: Case, count: int, seed: int) -> list[tuple[int, ...]]:
    """So many different orders of the options, none of them the usual one; all others where there are no more."""
    places = range(len(case.options))
    draw = Random(case.key(f"order {seed}"))
    if len(places) <= MANY:
        every = list(islice(permutations(places), 1, None))
        return draw.sample(every, min(count, len(every)))
    found: dict[tuple[int, ...], None] = {}
    while len(found) < count:
        one = tuple(draw.sample(places, len(places)))
        if one != tuple(places):
            found[one] = None
    return list(found)


def stability(groups: Iterable[Sequence[Outcome]]) -> Stability:
    """How many answers have not the same verdict every time they are asked about."""
    given = list(groups)
    whole = [group for group in given if all(outcome.state == "verdict" for outcome in group)]
    differ = sum(len(set(group)) > 1 for group in whole)
    return Stability(len(whole), differ, len(given) - len(whole))


def on_gold(found: Mapping[Case, Outcome]) -> GoldScore:
    """The judge's verdicts on the gold set."""
    right, without, wrong = 0, 0, []
    for case, verdict in GOLD.items():
        outcome = found[case]
        if outcome.state != "verdict":
            without += 1
            continue
        said = NONE if outcome.option is None else LETTERS[outcome.option]
        right += said == verdict
        if said != verdict:
            wrong.append({"answer": case.answer, "verdict": verdict, "judge": said})
    return GoldScore(len(GOLD), right, wrong, without)
