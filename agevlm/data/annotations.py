"""COCO-style annotations: which objects are in which image, and what is said of it.

The format is that of COCO's `instances_*.json`: a JSON object with `images` (id, file_name, width, height),
`annotations` (image_id, category_id; id, bbox, area, iscrowd, segmentation where there are any) and `categories`
(id, name); and that of its `captions_*.json`: `images`, and `annotations` (image_id, caption).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from agevlm.errors import DataError

Id = int | str
"""Ids are integers in COCO; strings are accepted too."""


@dataclass(frozen=True)
class _Kind:
    """What messages call a kind of file."""

    name: str
    keys: str


INSTANCES = _Kind("instances.json", "images, annotations and categories")
CAPTIONS = _Kind("captions.json", "images and annotations")


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
    data = _read(path, INSTANCES)
    content = _parse(path, data, INSTANCES)
    categories = _categories(path, _entries(path, content, "categories", INSTANCES))
    sizes = _sizes(path, _entries(path, content, "images", INSTANCES))
    annotations = []
    objects: dict[Id, dict[str, None]] = {key: {} for key in sizes}
    for index, entry in enumerate(_entries(path, content, "annotations", INSTANCES)):
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
    data = _read(path, CAPTIONS)
    content = _parse(path, data, CAPTIONS)
    sizes = _sizes(path, _entries(path, content, "images", CAPTIONS))
    said: dict[Id, list[str]] = {key: [] for key in sizes}
    for index, entry in enumerate(_entries(path, content, "annotations", CAPTIONS)):
        where = f"{path}: annotations[{index}]"
        image_id = _image_of(where, entry, sizes)
        said[image_id].append(_name(where, entry, "caption").strip())
    images = tuple(CaptionedImage(key, *value, captions=tuple(said[key])) for key, value in sizes.items())
    return Captions(path, hashlib.sha256(data).hexdigest(), images)


def _read(path: Path, kind: _Kind) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give a COCO-style {kind.name}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; give a COCO-style {kind.name}") from None


def _parse(path: Path, data: bytes, kind: _Kind) -> dict[str, Any]:
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not UTF-8 text; give a COCO-style {kind.name}") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}; the file is damaged or cut short") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: a JSON {type(content).__name__}, not an object with {kind.keys}")
    return content


def _entries(path: Path, content: dict[str, Any], key: str, kind: _Kind) -> list[dict[str, Any]]:
    if key not in content:
        raise DataError(f"{path}: no key {key!r}; a COCO-style {kind.name} has {kind.keys}")
    entries = content[key]
    if not isinstance(entries, list):
        raise DataError(f"{path}: {key!r} must be a list of objects, not {type(entries).__name__}")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: {key}[{index}] must be an object, not {type(entry).__name__}")
    return entries


def _categories(path: Path, entries: list[dict[str, Any]]) -> dict[Id, str]:
    found: dict[Id, str] = {}
    for index, entry in enumerate(entries):
        where = f"{path}: categories[{index}]"
        key = _id(where, entry, "id")
        if key in found:
            raise DataError(f"{where}: category id {key!r} appears twice; ids must be unique")
        found[key] = _name(where, entry, "name")
    return found


def _sizes(path: Path, entries: list[dict[str, Any]]) -> dict[Id, tuple[str, int, int]]:
    found: dict[Id, tuple[str, int, int]] = {}
    for index, entry in enumerate(entries):
        where = f"{path}: images[{index}]"
        key = _id(where, entry, "id")
        if key in found:
            raise DataError(f"{where}: image id {key!r} appears twice; ids must be unique")
        found[key] = (_name(where, entry, "file_name"), _length(where, entry, "width"), _length(where, entry, "height"))
    return found


def _annotation(
    where: str, entry: dict[str, Any], images: Mapping[Id, tuple[str, int, int]], categories: Mapping[Id, str]
) -> Annotation:
    image_id = _image_of(where, entry, images)
    category_id = _id(where, entry, "category_id")
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


def _image_of(where: str, entry: dict[str, Any], images: Mapping[Id, Any]) -> Id:
    image_id = _id(where, entry, "image_id")
    if image_id not in images:
        raise DataError(f"{where}: image_id {image_id!r} is not among the images; add the image or drop the annotation")
    return image_id


def _id(where: str, entry: dict[str, Any], key: str) -> Id:
    value = _present(where, entry, key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(f"{where}: {key} must be an integer or a string, not {value!r}")
    return value


def _name(where: str, entry: dict[str, Any], key: str) -> str:
    value = _present(where, entry, key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {key} must be a text that is not empty, not {value!r}")
    return value


def _length(where: str, entry: dict[str, Any], key: str) -> int:
    value = _present(where, entry, key)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise DataError(f"{where}: {key} must be a positive number of pixels, not {value!r}")
    return value


def _present(where: str, entry: dict[str, Any], key: str) -> Any:
    if key not in entry:
        raise DataError(f"{where}: no key {key!r}")
    return entry[key]
