"""COCO-style annotations: which objects are in which image, and what is said of it.

The format is that of COCO's `instances_*.json`: a JSON object with `images` (id, file_name, width, height),
`annotations` (image_id, category_id; id, bbox, area, iscrowd, segmentation where there are any) and `categories`
(id, name); and that of its `captions_*.json`: `images`, and `annotations` (image_id, caption).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

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
from agevlm.errors import DataError

INSTANCES = Kind("instances.json", "images, annotations and categories")
CAPTIONS = Kind("captions.json", "images and annotations")


@dataclass(frozen=True)
class Annotation:
    """One object (or crowd of objects) in one image."""

    image_id: Id
    category: str
    """The category's name."""
    iscrowd: bool
    bbox: tuple[float, float, float, float] | None
    """x, y, width, height in pixels."""
    segmentation: Any
    """As the file has it: polygons, an RLE object, or None. Not checked here."""
    id: Id | None = None
    """Of the annotation; None where the file has none, or one that is neither."""


@dataclass(frozen=True)
class InstanceImage:
    """One annotated image."""

    id: Id
    file_name: str
    width: int
    height: int
    objects: tuple[str, ...]
    """Names of the objects in it, each once, in the order of their first annotation; crowds count as present."""


@dataclass(frozen=True)
class Instances:
    """An annotation file: its images in file order, each with its objects, and every annotation."""

    path: Path
    sha256: str
    """Hash of the file's bytes."""
    images: tuple[InstanceImage, ...]
    annotations: tuple[Annotation, ...]
    categories: Mapping[Id, str]

    @cached_property
    def _by_image(self) -> dict[Id, tuple[Annotation, ...]]:
        found: dict[Id, list[Annotation]] = {image.id: [] for image in self.images}
        for annotation in self.annotations:
            found[annotation.image_id].append(annotation)
        return {key: tuple(value) for key, value in found.items()}

    def of_image(self, image_id: Id) -> tuple[Annotation, ...]:
        """The annotations of one image in file order. Raises KeyError for an id that no image has."""
        return self._by_image[image_id]


@dataclass(frozen=True)
class CaptionedImage:
    """One image with what people said of it."""

    id: Id
    file_name: str
    width: int
    height: int
    captions: tuple[str, ...]
    """In file order, without blanks around them; there may be none."""


@dataclass(frozen=True)
class Captions:
    """A captions file: its images in file order."""

    path: Path
    sha256: str
    """Hash of the file's bytes."""
    images: tuple[CaptionedImage, ...]


def load_instances(path: str | Path) -> Instances:
    """Read and check a COCO-style instances file.

    Raises:
        DataError: the file is missing, not JSON, lacks a key, repeats an image or category id, or has an annotation
            of an image or a category that it does not list.
    """
    path = Path(path)
    data = read_bytes(path, INSTANCES)
    content = parsed(path, data, INSTANCES)
    categories = categories_of(path, entries_of(path, content, "categories", INSTANCES))
    sizes = sizes_of(path, entries_of(path, content, "images", INSTANCES))
    annotations = []
    objects: dict[Id, dict[str, None]] = {key: {} for key in sizes}
    for index, entry in enumerate(entries_of(path, content, "annotations", INSTANCES)):
        annotation = _annotation(f"{path}: annotations[{index}]", entry, sizes, categories)
        annotations.append(annotation)
        objects[annotation.image_id].setdefault(annotation.category)
    images = tuple(InstanceImage(key, *value, objects=tuple(objects[key])) for key, value in sizes.items())
    return Instances(path, hashlib.sha256(data).hexdigest(), images, tuple(annotations), categories)


def load_captions(path: str | Path) -> Captions:
    """Read and check a COCO-style captions file.

    Raises:
        DataError: the file is missing, not JSON, lacks a key, repeats an image id, or has a caption that is empty or
            of an image that it does not list.
    """
    path = Path(path)
    data = read_bytes(path, CAPTIONS)
    content = parsed(path, data, CAPTIONS)
    sizes = sizes_of(path, entries_of(path, content, "images", CAPTIONS))
    said: dict[Id, list[str]] = {key: [] for key in sizes}
    for index, entry in enumerate(entries_of(path, content, "annotations", CAPTIONS)):
        where = f"{path}: annotations[{index}]"
        image_id = image_of(where, entry, sizes)
        said[image_id].append(name_of(where, entry, "caption").strip())
    images = tuple(CaptionedImage(key, *value, captions=tuple(said[key])) for key, value in sizes.items())
    return Captions(path, hashlib.sha256(data).hexdigest(), images)


def _annotation(
    where: str, entry: dict[str, Any], images: Mapping[Id, tuple[str, int, int]], categories: Mapping[Id, str]
) -> Annotation:
    image_id = image_of(where, entry, images)
    category_id = id_of(where, entry, "category_id")
    if category_id not in categories:
        raise DataError(f"{where}: category_id {category_id!r} is not among the categories; add the category")
    bbox = entry.get("bbox")
    if bbox is not None:
        numbers = isinstance(bbox, list) and all(isinstance(v, int | float) for v in bbox)
        if not numbers or len(bbox) != 4:
            raise DataError(f"{where}: bbox must be four numbers (x, y, width, height), not {bbox!r}")
        bbox = (float(bbox[0]), float(bbox[1]), float(bbox[2]), float(bbox[3]))
    crowd = bool(entry.get("iscrowd", 0))
    key = entry.get("id")
    key = key if isinstance(key, int | str) and not isinstance(key, bool) else None
    return Annotation(image_id, categories[category_id], crowd, bbox, entry.get("segmentation"), key)
