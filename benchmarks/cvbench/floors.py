"""What no image at all is worth: answers that a CV-Bench score must beat before it means anything.

Beside them every number has its chance level, and `--control blind` asks the model itself without the image.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from benchmarks.cvbench.questions import Question

FOLDS = 5
FLOORS = ("majority-letter", "option-text")


def floor_options(name: str, questions: Sequence[Question], seed: int = 0) -> list[int]:
    """Each question's answer (place of an option) under a floor, learnt from the other four of five folds by image.

    majority-letter: of the letters offered, the one that is most often right in the question's task. option-text: the
    option whose text is most often right where it is offered in the task, (right + 1) / (offered + 2), so that a text
    that was never seen counts as 1/2. Ties go to the earlier option. Raises ValueError for an unknown floor.
    """
    if name == "majority-letter":
        return _by_experience(questions, lambda _, place: str(place), seed, smoothed=False)
    if name == "option-text":
        return _by_experience(questions, lambda q, place: q.options[place], seed, smoothed=True)
    raise ValueError(f"unknown floor {name!r}; known: {', '.join(FLOORS)}")


def _by_experience(
    questions: Sequence[Question], key: Callable[[Question, int], str], seed: int, *, smoothed: bool
) -> list[int]:
    clusters = sorted({q.cluster for q in questions})
    random.Random(seed).shuffle(clusters)
    fold = {cluster: number % FOLDS for number, cluster in enumerate(clusters)}
    # (fold, task, key) -> how often an option of this key was right, and offered; fold -1 is all of them
    right: Counter[tuple[int, str, str]] = Counter()
    offered: Counter[tuple[int, str, str]] = Counter()
    for q in questions:
        for where in (-1, fold[q.cluster]):
            right[where, q.task, key(q, q.gold)] += 1
            offered.update((where, q.task, key(q, place)) for place in range(len(q.options)))

    def worth(q: Question, place: int) -> float:
        own, every = (fold[q.cluster], q.task, key(q, place)), (-1, q.task, key(q, place))
        hits, seen = right[every] - right[own], offered[every] - offered[own]
        return (hits + 1) / (seen + 2) if smoothed else hits

    return [max(range(len(q.options)), key=lambda place: (worth(q, place), -place)) for q in questions]
