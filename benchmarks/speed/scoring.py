"""How long it takes to score answers to all of POPE's questions."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from benchmarks.speed.questions import OBJECTS, SPLITS, question_rows

if TYPE_CHECKING:
    # the fresh processes time what `score` imports
    from benchmarks.pope.rows import Answered

SCORED_IMAGES = 500
SCORING_AIM_SECONDS = 2.0
_FORMS = {
    True: ("Yes", "yes", "Yes.", " Yes, there is.", "Yes, there is a {} in the image.", "There is a {} on the left."),
    False: ("No", "no", "No.", " No, there is not.", "No, there is no {} in the image.", "I don't see a {} here."),
}
_MESSES: tuple[str | None, ...] = (
    None, "", "I cannot see the image.", "Maybe, it is hard to tell.", "yes or no", "The image shows a {} and a {}.",
    "<think>A {}? Perhaps.</think> **Answer:** yes", "Actually, I would say that there is a {}, but it is not clear.",
)  # fmt: skip
_WORDS = ("small", "large", "red", "dark", "wooden", "distant", "blurred", "second", "folded", "bright", "plain", "old")


def _answer_text(kind: str, yes: bool, name: str, rng: Any, number: int) -> str | None:
    if kind == "yes/no":
        return "Yes" if yes else "No"
    if kind == "messy":
        if rng.random() < 0.1:
            text = rng.choice(_MESSES)
            return text if text is None else text.format(name, rng.choice(OBJECTS))
        return str(rng.choice(_FORMS[yes])).format(name)
    seen = ", ".join(f"a {rng.choice(_WORDS)} {rng.choice(OBJECTS)}" for _ in range(5))
    verdict = f"there is a {name} near it" if yes else f"there is no {name} anywhere in it"
    return f"Looking at picture number {number}, I can make out {seen}; as far as I can tell, {verdict}."


SCORING_KINDS = {
    "yes/no": "Yes and No alone",
    "messy": "Yes and No in many forms, sentences, refusals, failures",
    "distinct": "every answer its own sentence",
}


def synthetic_answers(kind: str) -> Answered:
    """Answers to 500 images x 18 questions in three splits, four of five right, with log-probabilities."""
    import random

    from benchmarks.pope.rows import IMAGE, Answer, Answered
    from benchmarks.pope.types import Question, QuestionSet

    rng = random.Random(0)
    questions: list[Question] = []
    answers: dict[tuple[str, str], Answer] = {}
    for image in range(SCORED_IMAGES):
        for place, text in enumerate(question_rows(image)):
            split, label = SPLITS[place // 6], place % 6 < 3
            number = len(questions)
            name = text.split(maxsplit=3)[3].removesuffix(" in the image?")
            file = f"{image:04}.jpg"
            questions.append(Question(split, str(number), file, text, label, name, file, f"row {number}"))
            yes = label if rng.random() < 0.8 else not label
            answers[split, str(number)] = Answer(
                _answer_text(kind, yes, name, rng, number),
                {"yes": -rng.random() * (1 if yes else 5), "no": -rng.random() * (5 if yes else 1)},
            )
    return Answered(QuestionSet("synthetic", "custom:speed", "", tuple(questions)), {IMAGE: answers}, "default")


def time_scoring(kind: str) -> dict[str, Any]:
    """Seconds to score the synthetic answers of one kind under all protocols, and how many texts are distinct."""
    from benchmarks.pope.protocols import PROTOCOLS
    from benchmarks.pope.rows import IMAGE
    from benchmarks.pope.score import DRAWS, score

    answered = synthetic_answers(kind)
    given = answered.answers[IMAGE]
    wall, cpu = time.perf_counter(), time.process_time()
    scores = score([answered], list(PROTOCOLS.values()))
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "answers": len(given),
        "distinct_texts": len({a.text for a in given.values()}),
        "rows": len(scores.rows),
        "protocols": len(PROTOCOLS),
        "draws": DRAWS,
    }


def scoring_in_fresh_process(kind: str, threads: int) -> dict[str, Any]:
    """`time_scoring` where no text was ever read before; lazy imports inside `score` are part of the time."""
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    code = "import json, sys; from benchmarks.speed.scoring import time_scoring as t; print(json.dumps(t(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", code, kind],
        env={**os.environ, **dict.fromkeys(variables, str(threads))},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"scoring failed: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure_scoring(repeats: int, threads: int, advance: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """The median of so many fresh processes for each kind of answers."""
    found = {}
    for kind in SCORING_KINDS:
        runs = []
        for repeat in range(repeats):
            advance(f"scoring {kind}: {repeat + 1} of {repeats}")
            runs.append(scoring_in_fresh_process(kind, threads))
        wall, cpu = ([r[clock] for r in runs] for clock in ("wall", "cpu"))
        found[kind] = {**runs[0], "wall": statistics.median(wall), "cpu": statistics.median(cpu), "runs": wall}
    return found
