"""What finds regions: any producer turns images with phrases into boxes and masks with scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agevlm.data.masks import Mask, encode_mask, rle_area, rle_box, rle_mask
from train.data.samples import BadSample

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the upright image."""


THINNEST = 25
"""Of images that detectors take: of longer ones Grounding DINO makes fewer proposals than it has queries, which ends in
an error at 900 queries and a shorter side of 22 of 1,000 pixels."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image with the phrases to look for."""

    key: str
    """What annotations call it: its file name, or the sample's id where there is no file."""
    image: Any
    """PIL image in RGB, upright."""
    phrases: tuple[str, ...]
    """Each once; without blanks around them."""


@dataclass(frozen=True)
class Found:
    """One region of a phrase. It is kept as run lengths: the bitmaps of all boxes of some photos would fill memory."""

    box: Box
    counts: bytes
    """COCO's compressed run lengths."""
    size: tuple[int, int]
    """Height and width of the image."""
    score: float = 1.0
    """That the phrase is there: the detector's, from 0 to 1."""
    predicted_iou: float = 1.0
    """The segmenter's own guess of its mask's quality, about 0 to 1."""
    stability: float = 1.0
    """IoU of the masks at logits above +1 and above -1 (segment-anything's stability score)."""

    @classmethod
    def of(cls, mask: Mask, box: Box | None = None, **scores: float) -> Found:
        """The region of a (height, width) mask; its box is around the mask unless one is given."""
        counts, size = encode_mask(mask), (mask.shape[0], mask.shape[1])
        return cls(rle_box(counts, size) if box is None else box, counts, size, **scores)

    @property
    def mask(self) -> Mask:
        """(height, width): where it is."""
        return rle_mask(self.counts, self.size)

    @property
    def mask_box(self) -> Box:
        """Around the mask; zeros for an empty one."""
        return rle_box(self.counts, self.size)

    @property
    def share(self) -> float:
        """Of the image."""
        return rle_area(self.counts, self.size) / (self.size[0] * self.size[1])


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
        """Regions of each phrase of each picture, the likeliest first; an empty list where it finds none.

        Raises:
            BadSample: one of the pictures cannot be used, which says nothing of the others.
        """
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
        for one in pictures:
            sides = one.image.size
            if max(sides) > THINNEST * min(sides):
                raise BadSample(
                    f"image {one.key}: {sides[0]} x {sides[1]} pixels is too thin for a detector, give at most "
                    f"{THINNEST} times as long as wide",
                    "image",
                )
        boxes = self.detector.detect(pictures)
        flat = [[box for phrase in picture for box in phrase] for picture in boxes]
        found = self.segmenter.segment([picture.image for picture in pictures], flat)
        made = []
        for regions, picture in zip(found, boxes, strict=True):
            left = iter(regions)
            made.append([[next(left) for _ in phrase] for phrase in picture])
        return made
