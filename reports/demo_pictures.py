"""Simple pictures with annotations, drawn on the spot, so that the demo needs no data: shapes on coloured grounds."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

SHAPES = ("circle", "square", "triangle", "star", "ring", "bar", "arch", "egg", "oval", "cross")
COLOURS = ("#c0392b", "#2471a3", "#1e8449", "#b7950b", "#6c3483", "#ba4a00", "#148f77", "#2e4053")
GROUNDS = ("#f5eee6", "#e8f1f5", "#eef5e8", "#f7f2df")
SIDE = 224


def draw_pictures(folder: Path, count: int, seed: int) -> Path:
    """Draw `count` pictures of three to five shapes each and write COCO-style annotations beside them.

    Shapes are drawn in companies (a star seldom comes without a ring), so that adversarial questions have something to
    build on.

    Returns:
        The annotation file.
    """
    from PIL import Image, ImageDraw

    rng = random.Random(seed)
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    listed: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        company = rng.choice([SHAPES[:4], SHAPES[3:7], SHAPES[6:]])
        shapes = rng.sample(company, 2) + rng.sample([s for s in SHAPES if s not in company], rng.randint(1, 3))
        image = Image.new("RGB", (SIDE, SIDE), rng.choice(GROUNDS))
        pen = ImageDraw.Draw(image)
        name = f"picture_{number:02d}.png"
        for place, shape in zip(rng.sample(range(9), len(shapes)), shapes, strict=True):
            size = rng.randint(24, 34)
            centre = (40 + place % 3 * 72 + rng.randint(-6, 6), 40 + place // 3 * 72 + rng.randint(-6, 6))
            _shape(pen, shape, centre, size, rng.choice(COLOURS))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": SHAPES.index(shape) + 1,
                    "bbox": [centre[0] - size, centre[1] - size, 2 * size, 2 * size],
                    "area": 4 * size * size,
                    "iscrowd": 0,
                }
            )
        image.save(images / name)
        listed.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
    categories = [{"id": i, "name": s} for i, s in enumerate(SHAPES, start=1)]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": listed, "annotations": annotations, "categories": categories}))
    return path


def _shape(pen: Any, shape: str, centre: tuple[int, int], size: int, colour: str) -> None:
    x, y = centre
    box = (x - size, y - size, x + size, y + size)
    thick = size // 3
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    elif shape == "triangle":
        pen.polygon([(x, y - size), (x - size, y + size), (x + size, y + size)], fill=colour)
    elif shape == "star":
        points = []
        for i in range(10):
            radius = size if i % 2 == 0 else size * 0.42
            angle = math.pi * (i / 5 - 0.5)
            points.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
        pen.polygon(points, fill=colour)
    elif shape == "ring":
        pen.ellipse(box, outline=colour, width=thick)
    elif shape == "bar":
        pen.rectangle((x - size, y - thick, x + size, y + thick), fill=colour)
    elif shape == "arch":
        pen.arc(box, 180, 360, fill=colour, width=thick)
    elif shape == "egg":
        pen.ellipse((x - size * 0.7, y - size, x + size * 0.7, y + size), fill=colour)
    elif shape == "oval":
        pen.ellipse((x - size, y - size * 0.55, x + size, y + size * 0.55), fill=colour)
    else:
        pen.rectangle((x - thick // 2, y - size, x + thick // 2, y + size), fill=colour)
        pen.rectangle((x - size, y - thick // 2, x + size, y + thick // 2), fill=colour)
