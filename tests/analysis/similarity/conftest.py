"""A small set of captioned photos, and planted records."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

CAPTIONS = {
    "a.png": ["A dog runs on grass.", "The dog and a ball"],
    "b.png": ["Two cups on a table.", "Cups, near a bowl"],
    "c.png": ["a red car", "a car in the street"],
    "d.png": ["people walking", "A person with an umbrella"],
}
SIZE = (60, 40)


@pytest.fixture
def photos(tmp_path):
    """A folder of images, captions.json beside it."""
    folder = tmp_path / "photos"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name in CAPTIONS:
        Image.fromarray(draw.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)).save(folder / name)
    write_captions(tmp_path / "captions.json", CAPTIONS)
    return folder


def write_captions(path, captions):
    images = [
        {"id": i, "file_name": name, "width": SIZE[0], "height": SIZE[1]} for i, name in enumerate(captions, start=1)
    ]
    said = [
        {"id": 10 * i + n, "image_id": i, "caption": text}
        for i, texts in enumerate(captions.values(), start=1)
        for n, text in enumerate(texts)
    ]
    path.write_text(json.dumps({"images": images, "annotations": said}))
    return path


def write_instances(path, present, categories):
    images = [{"id": n, "file_name": name, "width": 60, "height": 40} for n, name in enumerate(present)]
    objects = [
        {"image_id": n, "category_id": categories.index(one)} for n, own in enumerate(present.values()) for one in own
    ]
    named = [{"id": n, "name": name} for n, name in enumerate(categories)]
    path.write_text(json.dumps({"images": images, "annotations": objects, "categories": named}))
    return path


def write_rows(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path
