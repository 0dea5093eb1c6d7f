"""Rendered scenes as a source of questions: "scenes", "scenes:200" (images), "scenes:200@384" (pixels)."""

from __future__ import annotations

import io
import re

from agevlm.errors import DataError
from agevlm.scenes.types import Scene
from agevlm.scenes.world import CANONICAL

SCENES = "scenes"
MOST_IMAGES, MOST_PIXELS = 100_000, 4096

_SELECTOR = re.compile(r"scenes(?::(\d+))?(?:@(\d+))?")


def is_selector(source: str) -> bool:
    """Whether a source of questions names rendered scenes."""
    return _SELECTOR.fullmatch(source) is not None


def selected(selector: str, images: int) -> tuple[int, int]:
    """Number of images (`images` where the selector names none) and the long side of each in pixels.

    Raises:
        DataError: no such selector, or images too small or too few to build questions about.
    """
    match = _SELECTOR.fullmatch(selector)
    if match is None:
        raise DataError(f"questions {selector!r}: give scenes, scenes:IMAGES or scenes:IMAGES@PIXELS")
    count, size = int(match[1] or images), int(match[2] or CANONICAL)
    if not (2 <= count <= MOST_IMAGES and CANONICAL <= size <= MOST_PIXELS):
        raise DataError(
            f"questions {selector!r}: 2 to {MOST_IMAGES:,} images of {CANONICAL} to {MOST_PIXELS} pixels, no others"
        )
    return count, size


def png(scene: Scene) -> bytes:
    """A scene's picture as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(scene.image).save(buffer, "PNG")
    return buffer.getvalue()
