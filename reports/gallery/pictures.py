"""Small copies of images that fit into so many bytes: as large as they can be, and of the first ones at least."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.document import Picture

if TYPE_CHECKING:
    from PIL.Image import Image

STEPS = ((320, 80), (320, 70), (256, 74), (192, 72), (144, 68), (96, 60))
"""Pixels of the longer side, and JPEG quality: the first at which all pictures fit is taken."""
LARGEST = STEPS[0][0]


@dataclass(frozen=True)
class Fitted:
    """What fits."""

    pictures: Mapping[str, Picture]
    """By identity."""
    step: int
    """Of `STEPS`."""
    left_out: bool
    """Whether images after the last of these were left out for want of room."""


def fit(identities: Iterable[str], opened: Callable[[str], Image | None], most: int) -> Fitted:
    """Make pictures of images.

    More bytes never give fewer pictures, and those of fewer bytes are among those of more.

    Args:
        identities: of distinct images, the most wanted first.
        opened: an image, its longer side at least `LARGEST` pixels if it was as large; None where there is none.
        most: bytes of all pictures.
    """
    steps: dict[int, dict[str, Picture]] = {step: {} for step in range(len(STEPS))}
    totals = dict.fromkeys(steps, 0)
    for identity in identities:
        image = opened(identity)
        if image is None:
            continue
        for step in list(steps):
            side, quality = STEPS[step]
            image = shrunk(image, side)
            picture = jpeg(image, f"{identity[:16]}.jpg", quality)
            if totals[step] + len(picture.data) <= most:
                totals[step] += len(picture.data)
                steps[step][identity] = picture
            elif len(steps) > 1:
                del steps[step]
            else:
                return Fitted(steps[step], step, True)
    step = min(steps)
    return Fitted(steps[step], step, False)


def shrunk(image: Image, side: int) -> Image:
    """A copy with this longer side, or the image itself where it is no larger."""
    from PIL.Image import Resampling

    if max(image.size) <= side:
        return image
    copy = image.copy()
    copy.thumbnail((side, side), Resampling.BICUBIC)
    return copy


def jpeg(image: Image, name: str, quality: int) -> Picture:
    """An image as a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Picture(name, buffer.getvalue(), "jpeg", image.width, image.height)
