"""RefCOCO-style regions: phrases that people wrote about one object of an image.

A JSON list, or one JSON object a line. Each row names

    its image      `file_name` or `image`; or `image_id`, which the instances file knows
    its phrases    `phrase`, or `sentences`: texts, or objects with `sent` (RefCOCO's cleaned text) or `raw`
    its mask       `segmentation` (COCO's polygons or RLE); or `ann_id`, which the instances file knows

and may have `ref_id`, `question` (asked as it is), `group`, and `width` and `height` of the image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from agevlm.data.annotations import Annotation, InstanceImage, Instances, load_instances
from agevlm.data.images import decode
from agevlm.data.masks import Mask, decode_mask
from agevlm.data.sources import FolderImages
from agevlm.errors import DataError
from analysis.regions import Gathered, Regions, chosen


@dataclass(frozen=True)
class _Known:
    """An instances file that rows refer to."""

    content: Instances

    @cached_property
    def images(self) -> dict[Any, InstanceImage]:
        return {image.id: image for image in self.content.images}

    @cached_property
    def annotations(self) -> dict[Any, Annotation]:
        return {one.id: one for one in self.content.annotations if one.id is not None}


def phrase_regions(path: Path, images: Path, *, instances: Path | None, limit: int | None, seed: int) -> Regions:
    """A region for every phrase.

    Raises:
        DataError: a row that lacks something, refers to what the instances file does not have, or has a mask of another
            size than its image.
    """
    folder = FolderImages(images)
    known = None if instances is None else _Known(load_instances(instances))
    rows = [(where, row, _image_name(where, row, known)) for where, row in _rows(path)]
    kept = set(chosen((name for _, _, name in rows), limit, seed))
    gathered = Gathered()
    rows = [row for row in rows if row[2] in kept]
    order = {name: place for place, name in enumerate(dict.fromkeys(name for _, _, name in rows))}
    for where, row, name in sorted(rows, key=lambda row: order[row[2]]):
        mask = _mask(where, row, name, folder, known)
        key = str(row.get("ref_id", row.get("ann_id", "")))
        for phrase in _phrases(where, row):
            gathered.add(
                name,
                phrase,
                mask,
                group=str(row.get("group", "phrase")),
                question=_question(where, row),
                key=key,
            )
    return gathered.done(path.stem, folder)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error.reason}") from None
    if text.lstrip()[:1] == "[":
        try:
            listed = [(f"{path}: [{place}]", row) for place, row in enumerate(json.loads(text))]
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}; the file is damaged or cut short") from None
    else:
        listed = []
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                try:
                    listed.append((f"{path}:{number}", json.loads(line)))
                except json.JSONDecodeError as error:
                    raise DataError(f"{path}:{number}: not JSON: {error.msg}") from None
    for where, row in listed:
        if not isinstance(row, dict):
            raise DataError(f"{where}: a {type(row).__name__}, not an object with an image, a phrase and a mask")
        yield where, row


def _image_name(where: str, row: dict[str, Any], known: _Known | None) -> str:
    # RefCOCO's own file_name ends in the annotation's number and names no file: what the instances say goes first.
    if known is not None and "image_id" in row:
        image = known.images.get(row["image_id"])
        if image is None:
            raise DataError(f"{where}: image_id {row['image_id']!r} is not in {known.content.path}")
        return image.file_name
    name = row.get("file_name", row.get("image"))
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: no image; give file_name or image, or image_id together with --instances FILE")
    return name


def _phrases(where: str, row: dict[str, Any]) -> list[str]:
    if "phrase" in row:
        listed = [row["phrase"]]
    else:
        listed = row["sentences"] if isinstance(row.get("sentences"), list) else []
    texts = [one.get("sent", one.get("raw")) if isinstance(one, dict) else one for one in listed]
    phrases = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
    if not phrases or len(phrases) < len(texts):
        raise DataError(f"{where}: no phrase; give phrase, or sentences as texts or objects with sent or raw")
    return list(dict.fromkeys(phrases))


def _question(where: str, row: dict[str, Any]) -> str | None:
    question = row.get("question")
    if question is not None and (not isinstance(question, str) or not question.strip()):
        raise DataError(f"{where}: question must be a text that is not empty, not {question!r}")
    return question


def _mask(where: str, row: dict[str, Any], name: str, folder: FolderImages, known: _Known | None) -> Mask:
    segmentation, size = row.get("segmentation"), (row.get("height"), row.get("width"))
    if segmentation is None:
        if known is None or "ann_id" not in row:
            raise DataError(f"{where}: no mask; give segmentation, or ann_id together with --instances FILE")
        annotation = known.annotations.get(row["ann_id"])
        if annotation is None:
            raise DataError(f"{where}: ann_id {row['ann_id']!r} is not in {known.content.path}")
        image = known.images[annotation.image_id]
        if image.file_name != name:
            raise DataError(f"{where}: ann_id {row['ann_id']!r} is of image {image.file_name}, but the row of {name}")
        segmentation, size = annotation.segmentation, (image.height, image.width)
    if not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in size):
        opened = decode(folder.read(name))
        size = (opened.height, opened.width)
    try:
        return decode_mask(segmentation, int(str(size[0])), int(str(size[1])))
    except DataError as error:
        raise DataError(f"{where}: image {name}: {error}") from None
