"""What sources that read files share: fingerprints, images of a folder, regions, records in memory."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from agevlm.data.images import EncodedFile, decode, read_file
from agevlm.data.masks import Mask, decode_mask
from agevlm.data.paths import inside
from agevlm.errors import DataError
from train.data.samples import BadSample

WHOLE_BYTES = 1 << 24
"""Files up to this size are hashed as a whole; of larger ones `BLOCKS` blocks spread over them."""
BLOCKS, BLOCK_BYTES = 256, 1 << 16


def fingerprint(path: Path) -> str:
    """Hex SHA-256 of a file's size and its bytes, all of them or blocks spread over the file."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            digest.update(file.read())
        else:
            for block in range(BLOCKS):
                file.seek((size - BLOCK_BYTES) * block // (BLOCKS - 1))
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def check_folder(kind: str, images: Path | None) -> None:
    """See that a source's folder of images is there. Raises DataError."""
    if images is not None and not images.is_dir():
        raise DataError(f"source {kind}: no such folder {images}; give its place with sources.N.options.images")


def read_image(folder: Path | None, name: str) -> EncodedFile:
    """An image file's bytes.

    Raises:
        BadSample: it cannot be read.
        DataError: no image can: there is no folder, or it is gone or empty.
    """
    if folder is None:
        raise DataError(f"image {name}: the source has no folder of images; give it as options.images")
    try:
        path = inside(folder, name)
    except DataError as error:
        raise BadSample(str(error), "record") from None
    try:
        return read_file(path, name)
    except DataError as error:
        if not _holds_anything(folder):
            raise DataError(
                f"image {name}: the folder of images {folder} is gone or empty; bring it back (is a disk or network "
                "folder no longer mounted?), then resume"
            ) from None
        raise BadSample(str(error), "image") from None
    except ValueError as error:
        raise BadSample(f"image {name!r}: no file can have this name: {error}", "record") from None


def decode_image(file: EncodedFile) -> Any:
    """The upright PIL image in RGB. Raises BadSample if the file is damaged."""
    try:
        return decode(file)
    except DataError as error:
        raise BadSample(str(error), "image") from None


def check_size(image: Any, size: Sequence[int]) -> None:
    """See that regions made for an image of a (width, height) are of this one. Raises BadSample."""
    if tuple(size) != image.size:
        raise BadSample(
            f"its regions are of an image of {size[0]} x {size[1]} pixels, but it has {image.width} x {image.height}",
            "region",
        )


def parts_of(segmentation: Any) -> list[Any]:
    """The polygons and RLE objects of a segmentation in any of COCO's forms, to be joined with others'."""
    several = isinstance(segmentation, list) and segmentation and isinstance(segmentation[0], list | dict)
    return segmentation if several else [segmentation]


def read_region(segmentation: Any, image: Any, where: str) -> Mask:
    """(height, width): the union of COCO's polygons or RLE objects in an image.

    Raises:
        BadSample: it is neither, of another size, or empty; the message begins with `where`.
    """
    try:
        union = decode_mask(segmentation, image.height, image.width)
    except DataError as error:
        raise BadSample(f"{where}: {error}", "region") from None
    if not union.any():
        raise BadSample(f"{where}: its region is empty", "region")
    return union


class Records:
    """Records as JSON in one block of memory. Processes share it: looking at a record writes to nobody's memory."""

    def __init__(self, records: Iterable[Any]) -> None:
        text = bytearray()
        self._ends = array("Q", [0])
        for record in records:
            text += json.dumps(record, separators=(",", ":")).encode()
            self._ends.append(len(text))
        self._text = bytes(text)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Any:
        return json.loads(self._text[self._ends[index] : self._ends[index + 1]])


def _holds_anything(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False
