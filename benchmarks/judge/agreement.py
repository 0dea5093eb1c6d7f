"""The judge beside the rules: how often they are of one mind where both find an option."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.judge.judging import Outcome


@dataclass(frozen=True)
class Agreement:
    """The judge beside the rules, on the same answers."""

    both: int
    """Answers in which both find an option."""
    alike: int
    """Of these, the same one."""
    kappa: float | None
    """Cohen's kappa of the letters they find; None where it is not defined (no answers, or one letter throughout)."""
    rules_alone: int
    """Answers in which the rules find an option and the judge none."""
    judge_alone: int
    neither: int
    without_verdict: int


def agreement(pairs: Iterable[tuple[int | None, Outcome]]) -> Agreement:
    """Counts, and Cohen's kappa (scikit-learn's) of the options found where both find one."""
    given = list(pairs)
    decided = [(rules, outcome.option) for rules, outcome in given if outcome.state == "verdict"]
    both = [(rules, judge) for rules, judge in decided if rules is not None and judge is not None]
    return Agreement(
        both=len(both),
        alike=sum(rules == judge for rules, judge in both),
        kappa=kappa(both),
        rules_alone=sum(rules is not None and judge is None for rules, judge in decided),
        judge_alone=sum(rules is None and judge is not None for rules, judge in decided),
        neither=sum(rules is None and judge is None for rules, judge in decided),
        without_verdict=len(given) - len(decided),
    )


def kappa(pairs: Sequence[tuple[int, int]]) -> float | None:
    """Cohen's kappa of pairs of options (scikit-learn's); None where it is not defined."""
    if len({place for pair in pairs for place in pair}) < 2:
        return None
    from sklearn.metrics import cohen_kappa_score

    value = float(cohen_kappa_score([one for one, _ in pairs], [other for _, other in pairs]))
    return None if math.isnan(value) else value
