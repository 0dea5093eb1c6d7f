"""POPE-Scenes: POPE's questions, by POPE's own sampling, about rendered scenes. Never to be called POPE."""

from __future__ import annotations

from pathlib import Path

from agevlm.data.annotations import InstanceImage, Instances
from agevlm.scenes.categories import CATEGORIES
from agevlm.scenes.coco import file_name
from agevlm.scenes.selection import SCENES, is_selector, png, selected
from agevlm.scenes.types import split_seeds
from agevlm.scenes.world import render
from benchmarks.pope.build import build_pope
from benchmarks.pope.types import Question

__all__ = ["SCENES", "is_selector", "pope_scenes"]

IMAGES = 500
"""As many images as POPE has of each data set."""
PER_IMAGE = 3


def pope_scenes(selector: str = SCENES) -> tuple[tuple[Question, ...], dict[str, bytes]]:
    """Render held-out test scenes and build their questions.

    Scenes are taken in order until so many have the three different objects that POPE asks for.

    Returns:
        The questions, and the images as PNG files by name.

    Raises:
        DataError: no such selector, or images too small or too few to build questions about.
    """
    count, size = selected(selector, IMAGES)
    images, encoded = [], {}
    for seed in split_seeds("test", 100 * count):
        scene = render(seed, size)
        seen = tuple(dict.fromkeys(thing.category for thing in scene.instances))
        if len(seen) < PER_IMAGE:
            continue
        name = file_name(seed)
        height, width = scene.ids.shape
        images.append(InstanceImage(seed, name, width, height, seen))
        encoded[name] = png(scene)
        if len(images) == count:
            break
    instances = Instances(Path(selector), "", tuple(images), (), dict(enumerate(CATEGORIES, start=1)))
    built = build_pope(instances, per_image=PER_IMAGE)
    return built.questions, encoded
