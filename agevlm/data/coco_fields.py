"""How COCO-style JSON files are read and checked: entries by key, ids, names, sizes; errors name the entry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agevlm.errors import DataError

Id = int | str
"""Ids are integers in COCO; strings are accepted too."""


@dataclass(frozen=True)
class Kind:
    """What messages call a kind of file."""

    name: str
    keys: str


def read_bytes(path: Path, kind: Kind) -> bytes:
    """The bytes of a file. Raises DataError if there is none or it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give a COCO-style {kind.name}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; give a COCO-style {kind.name}") from None


def parsed(path: Path, data: bytes, kind: Kind) -> dict[str, Any]:
    """The JSON object that a file holds. Raises DataError if it holds something else."""
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


def entries_of(path: Path, content: dict[str, Any], key: str, kind: Kind) -> list[dict[str, Any]]:
    """The list of objects under a key. Raises DataError if it is something else."""
    if key not in content:
        raise DataError(f"{path}: no key {key!r}; a COCO-style {kind.name} has {kind.keys}")
    entries = content[key]
    if not isinstance(entries, list):
        raise DataError(f"{path}: {key!r} must be a list of objects, not {type(entries).__name__}")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: {key}[{index}] must be an object, not {type(entry).__name__}")
    return entries


def categories_of(path: Path, entries: list[dict[str, Any]]) -> dict[Id, str]:
    """Names of categories by id. Raises DataError, also for an id that comes twice."""
    found: dict[Id, str] = {}
    for index, entry in enumerate(entries):
        where = f"{path}: categories[{index}]"
        key = id_of(where, entry, "id")
        if key in found:
            raise DataError(f"{where}: category id {key!r} appears twice; ids must be unique")
        found[key] = name_of(where, entry, "name")
    return found


def sizes_of(path: Path, entries: list[dict[str, Any]]) -> dict[Id, tuple[str, int, int]]:
    """File name, width and height of images by id. Raises DataError, also for an id that comes twice."""
    found: dict[Id, tuple[str, int, int]] = {}
    for index, entry in enumerate(entries):
        where = f"{path}: images[{index}]"
        key = id_of(where, entry, "id")
        if key in found:
            raise DataError(f"{where}: image id {key!r} appears twice; ids must be unique")
        found[key] = (
            name_of(where, entry, "file_name"),
            length_of(where, entry, "width"),
            length_of(where, entry, "height"),
        )
    return found


def image_of(where: str, entry: dict[str, Any], images: Mapping[Id, Any]) -> Id:
    """`image_id` of an entry. Raises DataError if it is not among the images."""
    image_id = id_of(where, entry, "image_id")
    if image_id not in images:
        raise DataError(f"{where}: image_id {image_id!r} is not among the images; add the image or drop the annotation")
    return image_id


def id_of(where: str, entry: dict[str, Any], key: str) -> Id:
    """An integer or a text. Raises DataError if there is none."""
    value = present(where, entry, key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(f"{where}: {key} must be an integer or a string, not {value!r}")
    return value


def name_of(where: str, entry: dict[str, Any], key: str) -> str:
    """A text that is not empty. Raises DataError if there is none."""
    value = present(where, entry, key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {key} must be a text that is not empty, not {value!r}")
    return value


def length_of(where: str, entry: dict[str, Any], key: str) -> int:
    """A positive whole number. Raises DataError if there is none."""
    value = present(where, entry, key)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise DataError(f"{where}: {key} must be a positive number of pixels, not {value!r}")
    return value


def present(where: str, entry: dict[str, Any], key: str) -> Any:
    """What stands under a key. Raises DataError if the key is not there."""
    if key not in entry:
        raise DataError(f"{where}: no key {key!r}")
    return entry[key]
