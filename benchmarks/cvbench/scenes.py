"""CV-Scenes: questions after CV-Bench's tasks about rendered scenes. Never to be called CV-Bench."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agevlm.scenes.coco import file_name
from agevlm.scenes.language import Facts
from agevlm.scenes.questions import cv_scenes
from agevlm.scenes.selection import SCENES, png, selected
from agevlm.scenes.types import split_seeds
from agevlm.scenes.world import render

IMAGES = 500


def scene_rows(selector: str = SCENES) -> tuple[list[Mapping[str, Any]], dict[str, bytes]]:
    """Render the first held-out test scenes and ask up to one question of each kind about every one of them.

    Returns:
        The questions as rows of CV-Bench's fields, and the images as PNG files by name.

    Raises:
        DataError: no such selector, or no such size.
    """
    count, size = selected(selector, IMAGES)
    facts, images = [], {}
    for seed in split_seeds("test", count):
        scene = render(seed, size)
        images[file_name(seed)] = png(scene)
        facts.append(Facts.of(scene))
    names = list(images)
    return [q.row(number, names[q.image]) for number, q in enumerate(cv_scenes(facts))], images
