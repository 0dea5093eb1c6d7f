"""A contact sheet: many scenes in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from agevlm.errors import DataError

COLUMNS = 8
GAP = 4
"""Pixels between pictures."""


def write_sheet(path: str | Path, images: Sequence[str | Path], cell: int) -> None:
    """Put image files side by side, eight in a row, in squares of `cell` pixels, on black.

    Raises:
        DataError: the sheet cannot be written.
    """
    rows = -(-len(images) // COLUMNS)
    side = cell + GAP
    sheet = Image.new("RGB", (min(COLUMNS, len(images)) * side - GAP, rows * side - GAP))
    for i, file in enumerate(images):
        with Image.open(file) as image:
            left, top = (cell - image.width) // 2, (cell - image.height) // 2
            sheet.paste(image, (i % COLUMNS * side + left, i // COLUMNS * side + top))
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:
        raise DataError(f"--sheet {path}: cannot be written: {error}") from None
