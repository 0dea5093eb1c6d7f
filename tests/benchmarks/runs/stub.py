"""A model that is a hash, and a small data set: enough to run the real command without torch."""

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from agevlm.vlm.contract import Ask, EncodedImages, Fingerprint, Reply, Vlm

OBJECTS = ("person", "dog", "cat", "car", "chair", "dining table", "umbrella", "bottle", "cup", "book", "bus", "clock")
FORMS = ("Yes", "No", "yes, there is", "No.", "Yes, it is.", "I cannot tell", "")
SPLITS = ("random", "popular", "adversarial")


@dataclass
class Pictures(EncodedImages):
    digests: list[str]

    def __len__(self) -> int:
        return len(self.digests)


def digest(image: Image.Image) -> str:
    return hashlib.sha256(np.asarray(image).tobytes() + repr(image.size).encode()).hexdigest()[:16]


class StubVlm(Vlm):
    """Answers by the hash of pixels and prompt; writes down what it is asked before it answers.

    Args:
        log: file that takes one JSON line (process, picture or null, prompt) for each ask.
        delay: seconds that each group takes.
        trouble: called with each ask's (picture, prompt); may raise.
    """

    fingerprint = Fingerprint("stub", {"weights": "stub"})
    capabilities = frozenset({"logprobs", "rank", "blind"})

    def __init__(
        self,
        log: Path | None = None,
        delay: float = 0.0,
        trouble: Callable[[str | None, str], None] = lambda *_: None,
    ) -> None:
        self.log, self.delay, self.trouble = log, delay, trouble
        self.asked: list[tuple[str | None, str]] = []
        self.shown = 0

    def encode(self, images: Sequence[Image.Image]) -> Pictures:
        self.shown += len(images)
        return Pictures([digest(i) for i in images])

    def answer(self, encoded: EncodedImages, asks: Sequence[Ask]) -> list[Reply]:
        assert isinstance(encoded, Pictures)
        pairs = [(None if a.image is None else encoded.digests[a.image], a.prompt) for a in asks]
        self.asked += pairs
        if self.log is not None:
            lines = "".join(json.dumps([os.getpid(), *p]) + "\n" for p in pairs)
            fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(fd, lines.encode())
            os.close(fd)
        time.sleep(self.delay)
        return [self._reply(*p) for p in pairs]

    def _reply(self, picture: str | None, prompt: str) -> Reply:
        self.trouble(picture, prompt)
        draw = random.Random(f"{picture} {prompt}")
        logprobs = {"yes": -draw.random(), "no": -draw.random()}
        return Reply(draw.choice(FORMS), "eos", logprobs, tuple(range(draw.randrange(1, 5))))

    def rank(self, encoded: EncodedImages, asks: Sequence[Ask], options: Sequence[Sequence[str]]) -> list[list[float]]:
        raise NotImplementedError


def picture(number: int, size: tuple[int, int] = (20, 16)) -> Image.Image:
    noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


@dataclass(frozen=True)
class Data:
    """Question files of three splits and their images."""

    questions: Path
    images: Path

    @property
    def options(self) -> list[str]:
        return ["--questions", str(self.questions), "--images", str(self.images)]

    def image(self, number: int) -> Path:
        return self.images / f"{number:012d}.png"


def make_data(folder: Path, images: int, per_image: int = 2, size: tuple[int, int] = (20, 16)) -> Data:
    """Each image has its positives in all three splits, as in POPE, and negatives of each split's own."""
    data = Data(folder / "questions", folder / "images")
    data.questions.mkdir(parents=True)
    data.images.mkdir()
    rows: dict[str, list[dict[str, object]]] = {s: [] for s in SPLITS}
    for number in range(images):
        picture(number, size).save(data.image(number))
        objects = random.Random(number).sample(OBJECTS, per_image * 4)
        for i in range(per_image):
            for s, split in enumerate(SPLITS):
                for label, name in (("yes", objects[i]), ("no", objects[per_image * (s + 1) + i])):
                    rows[split].append(
                        {
                            "question_id": len(rows[split]) + 1,
                            "image": data.image(number).name,
                            "text": f"Is there a {name} in the image?",
                            "label": label,
                        }
                    )
    for split, content in rows.items():
        path = data.questions / f"coco_pope_{split}.json"
        path.write_text("".join(json.dumps(r) + "\n" for r in content))
    return data
