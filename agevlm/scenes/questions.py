"""CV-Scenes: count, colour, relation, depth and distance questions with options, after CV-Bench's tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from agevlm.scenes.language import QUESTIONS, Facts, SceneQuestion, draw_questions

CV_KINDS = tuple(kind for kind in QUESTIONS if kind != "exist")


@dataclass(frozen=True)
class CvQuestion:
    """A question about a picture."""

    image: int
    """Its place in the list of facts."""
    asked: SceneQuestion

    def row(self, number: int, file_name: str) -> dict[str, Any]:
        """In the fields of CV-Bench's files; `answer` is a letter, as there."""
        lettered = self.asked.lettered()
        return {
            "idx": number,
            "type": "3D" if self.asked.kind in ("depth", "distance") else "2D",
            "task": self.asked.kind.capitalize(),
            "filename": file_name,
            "question": self.asked.question.text,
            "choices": list(self.asked.options),
            "answer": lettered.answer,
            "prompt": lettered.question.text,
            "source": "CV-Scenes",
        }


def cv_scenes(
    facts: Sequence[Facts], seed: int = 0, per_kind: int = 1, numbers: Sequence[int] | None = None
) -> Iterator[CvQuestion]:
    """Up to `per_kind` questions of each kind about every picture; each picture draws from its own stream of the seed.

    Options are in random order, so that the first is right as often as any. `numbers` are those of the pictures'
    streams, if not their places in `facts`.
    """
    for number, one in enumerate(facts):
        stream = number if numbers is None else numbers[number]
        for kind in CV_KINDS:
            draw = Random(f"cv-scenes:{seed}:{stream}:{kind}")
            for question in draw_questions(one, draw, {kind: 1.0}, per_kind):
                yield CvQuestion(number, question)


def to_jsonl(questions: Sequence[CvQuestion], file_names: Sequence[str]) -> str:
    """One JSON object a line, numbered from 0."""
    rows = (q.row(i, file_names[q.image]) for i, q in enumerate(questions))
    return "".join(json.dumps(row) + "\n" for row in rows)
