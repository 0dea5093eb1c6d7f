"""What no image at all is worth: answers that a POPE score must beat before it means anything."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from benchmarks.pope.types import Question

FOLDS = 5
FLOORS = ("always-yes", "always-no", "object-prior")


def floor_answers(name: str, questions: Sequence[Question], seed: int = 0) -> list[bool]:
    """Each question's answer (True: yes) under a floor.

    always-yes and always-no are constant. object-prior answers with the majority label of the object's name in the
    other folds (five folds by image, seeded): what a reader of the questions could learn without ever seeing an image.
    """
    if name == "always-yes":
        return [True] * len(questions)
    if name == "always-no":
        return [False] * len(questions)
    if name == "object-prior":
        return object_prior(questions, seed)
    raise ValueError(f"unknown floor {name!r}; known: {', '.join(FLOORS)}")


def object_prior(questions: Sequence[Question], seed: int = 0) -> list[bool]:
    """Majority label of the object's name over the other four folds; a tie or an unseen name gets the folds' own
    majority, and yes where that is a tie too."""
    clusters = sorted({q.cluster for q in questions})
    random.Random(seed).shuffle(clusters)
    fold: Mapping[str, int] = {c: i % FOLDS for i, c in enumerate(clusters)}
    balance: list[Counter[str]] = [Counter() for _ in range(FOLDS)]
    for q in questions:
        balance[fold[q.cluster]][q.object_name] += 1 if q.label else -1
    total: Counter[str] = Counter()
    for part in balance:
        for name, difference in part.items():
            total[name] += difference
    overall = sum(total.values())
    answers = []
    for q in questions:
        own = balance[fold[q.cluster]]
        lead = total[q.object_name] - own[q.object_name]
        answers.append((lead or overall - sum(own.values())) >= 0)
    return answers
