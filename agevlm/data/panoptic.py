"""COCO's panoptic annotations: every pixel of an image belongs to one segment, whose number is its colour.

The format is that of `panoptic_*.json`: `images` and `categories` (id, name, isthing) as in instances, and
`annotations`, one an image: image_id, file_name (a PNG of the image's size) and `segments_info` (id, category_id,
iscrowd). A pixel's segment is R + 256 G + 65536 B; 0 is no segment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agevlm.data.coco_fields import (
    Id,
    Kind,
    categories_of,
    entries_of,
    id_of,
    image_of,
    name_of,
    parsed,
    read_bytes,
    sizes_of,
)
from agevlm.data.images import decode, read_file
from agevlm.data.paths import inside
from agevlm.errors import DataError

PANOPTIC = Kind("panoptic.json", "images, annotations (with segments_info) and categories")


@dataclass(frozen=True)
class Segment:
    """One segment of an image."""

    id: int
    """Its pixels' colour, R + 256 G + 65536 B."""
    category: str
    """The category's name."""
    isthing: bool
    """Whether it is an object that can be counted, and not stuff as sky or grass; True where the file does not say."""
    iscrowd: bool


@dataclass(frozen=True)
class SegmentedImage:
    """One image and its segments."""

    id: Id
    file_name: str
    width: int
    height: int
    segments_file: str
    """Name of the PNG file whose colours are segments."""
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Panoptic:
    """A panoptic file: its annotated images in file order."""

    path: Path
    sha256: str
    """Hash of the file's bytes."""
    images: tuple[SegmentedImage, ...]


def load_panoptic(path: str | Path) -> Panoptic:
    """Read and check a COCO-style panoptic file; the PNG files are not opened.

    Raises:
        DataError: the file is missing, not JSON, lacks a key, repeats an id, or has an annotation of an image or a
            category that it does not list.
    """
    path = Path(path)
    data = read_bytes(path, PANOPTIC)
    content = parsed(path, data, PANOPTIC)
    listed = entries_of(path, content, "categories", PANOPTIC)
    categories = categories_of(path, listed)
    things = {id_of(str(path), entry, "id"): bool(entry.get("isthing", 1)) for entry in listed}
    sizes = sizes_of(path, entries_of(path, content, "images", PANOPTIC))
    found: dict[Id, SegmentedImage] = {}
    for index, entry in enumerate(entries_of(path, content, "annotations", PANOPTIC)):
        where = f"{path}: annotations[{index}]"
        key = image_of(where, entry, sizes)
        if key in found:
            raise DataError(f"{where}: image_id {key!r} is annotated twice; a panoptic file has one entry an image")
        segments = tuple(
            _segment(f"{where}: segments_info[{place}]", each, categories, things)
            for place, each in enumerate(entries_of(path, entry, "segments_info", PANOPTIC))
        )
        if len({segment.id for segment in segments}) < len(segments):
            raise DataError(f"{where}: a segment's id comes twice; ids are unique within an image")
        found[key] = SegmentedImage(key, *sizes[key], name_of(where, entry, "file_name"), segments)
    images = tuple(found[key] for key in sizes if key in found)
    return Panoptic(path, hashlib.sha256(data).hexdigest(), images)


def _segment(where: str, entry: dict[str, Any], categories: Mapping[Id, str], things: Mapping[Id, bool]) -> Segment:
    number, category = id_of(where, entry, "id"), id_of(where, entry, "category_id")
    if not isinstance(number, int) or not 0 < number < 1 << 24:
        raise DataError(f"{where}: id must be a whole number from 1 to {(1 << 24) - 1}, not {number!r}")
    if category not in categories:
        raise DataError(f"{where}: category_id {category!r} is not among the categories; add the category")
    return Segment(number, categories[category], things[category], bool(entry.get("iscrowd", 0)))


def segment_numbers(folder: Path, image: SegmentedImage) -> NDArray[np.int64]:
    """(height, width): the segment of each pixel, 0 for none.

    Raises:
        DataError: there is no such PNG file, it cannot be read, has another size than the image, or a colour that is
            none of the image's segments.
    """
    picture = decode(read_file(inside(folder, image.segments_file), image.segments_file))
    if picture.size != (image.width, image.height):
        raise DataError(
            f"segments {image.segments_file}: {picture.width} x {picture.height} pixels, but image {image.file_name} "
            f"has {image.width} x {image.height}; masks are never resized"
        )
    numbers = np.asarray(picture, np.int64) @ np.array([1, 256, 65536])
    unknown = np.setdiff1d(numbers, [0, *(segment.id for segment in image.segments)])
    if len(unknown):
        raise DataError(
            f"segments {image.segments_file}: colour {unknown[0]} (R + 256 G + 65536 B) is no segment of image "
            f"{image.file_name}; give the PNG folder that belongs to the JSON file"
        )
    found: NDArray[np.int64] = numbers
    return found
