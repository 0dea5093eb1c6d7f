"""POPE-Scenes: POPE's questions, by POPE's own sampling, about rendered scenes. Never to be called POPE."""

from __future__ import annotations

import io
import re
from pathlib import Path

from agevlm.data.annotations import InstanceImage, Instances
from agevlm.errors import DataError
from agevlm.scenes.categories import CATEGORIES
from agevlm.scenes.coco import file_name
from agevlm.scenes.types import Scene, split_seeds
from agevlm.scenes.world import CANONICAL, render
from benchmarks.pope.build import build_pope
from benchmarks.pope.types import Question

SCENES = "scenes"
IMAGES = 500
"""As many images as POPE has of each data set."""
MOST_IMAGES, MOST_PIXELS = 100_000, 4096
PER_IMAGE = 3

_SELECTOR = re.compile(r"scenes(?::(\d+))?(?:@(\d+))?")


def is_selector(source: str) -> bool:
    """Whether a source of questions names POPE-Scenes: "scenes", "scenes:200" (images), "scenes:200@384" (pixels)."""
    return _SELECTOR.fullmatch(source) is not None


def pope_scenes(selector: str = SCENES) -> tuple[tuple[Question, ...], dict[str, bytes]]:
    """Render held-out test scenes and build their questions.

    Scenes are taken in order until so many have the three different objects that POPE asks for.

    Returns:
        The questions, and the images as PNG files by name.

    Raises:
        DataError: no such selector, or images too small or too few to build questions about.
    """
    match = _SELECTOR.fullmatch(selector)
    if match is None:
        raise DataError(f"questions {selector!r}: give scenes, scenes:IMAGES or scenes:IMAGES@PIXELS")
    count, size = int(match[1] or IMAGES), int(match[2] or CANONICAL)
    if not (2 <= count <= MOST_IMAGES and CANONICAL <= size <= MOST_PIXELS):
        raise DataError(
            f"questions {selector!r}: 2 to {MOST_IMAGES:,} images of {CANONICAL} to {MOST_PIXELS} pixels, no others"
        )
    images, encoded = [], {}
    for seed in split_seeds("test", 100 * count):
        scene = render(seed, size)
        seen = tuple(dict.fromkeys(thing.category for thing in scene.instances))
        if len(seen) < PER_IMAGE:
            continue
        name = file_name(seed)
        height, width = scene.ids.shape
        images.append(InstanceImage(seed, name, width, height, seen))
        encoded[name] = _png(scene)
        if len(images) == count:
            break
    instances = Instances(Path(selector), "", tuple(images), (), dict(enumerate(CATEGORIES, start=1)))
    built = build_pope(instances, per_image=PER_IMAGE)
    return built.questions, encoded


def _png(scene: Scene) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(scene.image).save(buffer, "PNG")
    return buffer.getvalue()
