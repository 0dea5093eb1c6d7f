"""What finds regions: any producer turns images with phrases into boxes and masks with scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agevlm.data.masks import Mask

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the upright image."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image with the phrases to look for."""

    key: str
    """What annotations call it: its file name, or the sample's id where there is no file."""
    image: Any
    """PIL image in RGB, upright."""
    phrases: tuple[str, ...]
    """Each once; without blanks around them."""


@dataclass(frozen=True, eq=False)
class Found:
    """One region of a phrase."""

    box: Box
    mask: Mask
    """(height, width) of the image."""
    score: float = 1.0
    """That the phrase is there: the detector's, from 0 to 1."""
    predicted_iou: float = 1.0
    """The segmenter's own guess of its mask's quality, about 0 to 1."""
    stability: float = 1.0
    """IoU of the masks at logits above +1 and above -1 (segment-anything's stability score)."""


@dataclass(frozen=True)
class Detected:
    """One box of a phrase."""

    box: Box
    score: float


class Detector(Protocol):
    """Finds boxes."""

    @property
    def version(self) -> str:
        """Which model with which settings; changes when its boxes may."""
        ...

    def detect(self, pictures: Sequence[Picture]) -> list[list[list[Detected]]]:
        """Boxes of each phrase of each picture, the likeliest first."""
        ...


class Segmenter(Protocol):
    """Turns boxes into masks; each image is encoded once."""

    @property
    def version(self) -> str:
        """Which model with which settings; changes when its masks may."""
        ...

    def segment(self, images: Sequence[Any], boxes: Sequence[Sequence[Detected]]) -> list[list[Found]]:
        """A region for every box of every image, in their order."""
        ...


class MaskProducer(Protocol):
    """Finds the regions of phrases."""

    @property
    def version(self) -> str:
        """Which models with which settings; changes when its regions may."""
        ...

    def produce(self, pictures: Sequence[Picture]) -> list[list[list[Found]]]:
        """Regions of each phrase of each picture, the likeliest first; an empty list where it finds none."""
        ...


@dataclass(frozen=True)
class Grounded:
    """A detector's boxes, and a segmenter's masks for them (Grounded-SAM, if the two are Grounding DINO and SAM)."""

    detector: Detector
    segmenter: Segmenter

    @property
    def version(self) -> str:
        return f"{self.detector.version} + {self.segmenter.version}"

    def produce(self, pictures: Sequence[Picture]) -> list[list[list[Found]]]:
        boxes = self.detector.detect(pictures)
        flat = [[box for phrase in picture for box in phrase] for picture in boxes]
        found = self.segmenter.segment([picture.image for picture in pictures], flat)
        made = []
        for regions, picture in zip(found, boxes, strict=True):
            left = iter(regions)
            made.append([[next(left) for _ in phrase] for phrase in picture])
        return made
