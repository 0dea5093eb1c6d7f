"""Pictures of coloured squares, and a producer that finds them by their colour."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from train.data.samples import BadSample, Message, Sample, Words
from train.teacher.producer import Found, Picture

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
TEXT = "Is the red thing above the blue square?"
PLACES = {"red thing": (7, 16), "blue square": (27, 38)}


def painted(number: int) -> Image.Image:
    """A picture whose squares depend on its number; every third one lacks the blue one."""
    draw = np.random.default_rng(number)
    height, width = (int(v) for v in draw.integers(40, 60, 2))
    pixels = np.full((height, width, 3), 128, np.uint8)
    for name in ("red", "green", "blue"):
        y, x = int(draw.integers(height - 12)), int(draw.integers(width - 12))
        if name != "blue" or number % 3:
            pixels[y : y + 10, x : x + 8] = COLOURS[name]
    return Image.fromarray(pixels)


@dataclass
class Painted:
    """Two samples a picture; each names two phrases."""

    size: int = 20
    broken: Sequence[int] = ()
    name: str = "painted"
    fingerprint: str = "painted-1"
    guided: Sequence[int] = ()

    def __len__(self) -> int:
        return self.size

    def read(self, index: int, epoch: int) -> Sample:
        if index in self.broken:
            raise BadSample(f"painted {index}: broken", "image", f"p{index}")
        number = index // 2
        image = painted(number)
        words = tuple(Words(0, *span) for span in PLACES.values())
        said = (Message("user", TEXT), Message("assistant", "Yes"))
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        return Sample(f"p{index}", said, image, words=words, image_name=f"{number}.png", image_sha256=digest)


@dataclass
class ByColour:
    """Regions are the pixels of the colour that the phrase names, in two halves; it remembers what it was asked."""

    version: str = "by colour 1"
    asked: list[tuple[str, str]] = field(default_factory=list)
    score: float = 0.9
    stop_after: int | None = None

    def produce(self, pictures: Sequence[Picture]) -> list[list[list[Found]]]:
        made = []
        for picture in pictures:
            if self.stop_after is not None and len(self.asked) >= self.stop_after:
                raise KeyboardInterrupt
            pixels = np.asarray(picture.image)
            regions = []
            for phrase in picture.phrases:
                self.asked.append((picture.key, phrase))
                mask = (pixels == COLOURS[phrase.split()[0]]).all(-1)
                halves = [mask & (np.arange(mask.shape[0]) % 2 == odd)[:, None] for odd in (0, 1)]
                regions.append([Found.of(h, score=self.score) for h in halves if h.any()])
            made.append(regions)
        return made
