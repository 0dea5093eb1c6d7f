"""A model that is a hash and ranks options, and a small CV-Bench: enough to run the real command without torch."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agevlm.vlm.contract import Ask, EncodedImages, Reply
from tests.benchmarks.runs.stub import Pictures, StubVlm, picture

FORMS = ("(A)", "B", "( b )", "The answer is (A).", "above", "two", "I cannot tell.", "")


class CvStub(StubVlm):
    """Answers and ranks by the hash of pixels and prompt."""

    def _reply(self, picture: str | None, prompt: str) -> Reply:
        self.trouble(picture, prompt)
        draw = random.Random(f"{picture} {prompt}")
        return Reply(draw.choice(FORMS), "eos", {"yes": -draw.random(), "no": -draw.random()}, (1, 2))

    def rank(self, encoded: EncodedImages, asks: Sequence[Ask], options: Sequence[Sequence[str]]) -> list[list[float]]:
        assert isinstance(encoded, Pictures)
        shown = [None if a.image is None else encoded.digests[a.image] for a in asks]
        return [
            [-random.Random(f"{one} {ask.prompt} {option}").random() for option in texts]
            for one, ask, texts in zip(shown, asks, options, strict=True)
        ]


@dataclass(frozen=True)
class CvData:
    """A question file and the images that it names."""

    questions: Path
    images: Path

    @property
    def options(self) -> list[str]:
        return ["--questions", str(self.questions), "--images", str(self.images)]

    def rows(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.questions.read_text().splitlines()]


def make_cv_data(folder: Path, images: int, size: tuple[int, int] = (20, 16)) -> CvData:
    """Two questions about every image, all three sources and four tasks."""
    data = CvData(folder / "test.jsonl", folder / "pictures")
    (data.images / "img").mkdir(parents=True)
    rows = []
    for number in range(images):
        source = ("ADE20K", "COCO", "Omni3D")[number % 3]
        kind = "3D" if source == "Omni3D" else "2D"
        picture(number, size).save(data.images / "img" / f"{number}.png")
        for task in ("Depth", "Distance") if kind == "3D" else ("Count", "Relation"):
            options = {"Count": ["1", "2", "3", "4"], "Relation": ["above", "below"]}.get(task, ["lamp", "sofa"])
            draw = random.Random(f"{number} {task}")
            draw.shuffle(options)
            lettered = "\n".join(f"({letter}) {text}" for letter, text in zip("ABCD", options, strict=False))
            rows.append(
                {
                    "idx": len(rows),
                    "type": kind,
                    "task": task,
                    "source": source,
                    "filename": f"img/{number}.png",
                    "prompt": f"{task} of what? Select from the following choices.\n{lettered}",
                    "choices": options,
                    "answer": f"({draw.choice('ABCD'[: len(options)])})",
                }
            )
    data.questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data
