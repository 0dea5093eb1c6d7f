"""Regions as COCO stores them (polygons, run lengths) and as arrays of truth values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agevlm.errors import DataError

Mask = NDArray[np.bool_]
"""(height, width): where the region is."""
FAR = 10
"""Corners of polygons may lie outside of the image, but not further than so many times its longer side."""


def decode_mask(segmentation: Any, height: int, width: int) -> Mask:
    """The union of COCO's polygons or RLE objects; it may be empty.

    Args:
        segmentation: a list of polygons (x, y, x, y, ...), one polygon, an RLE object (`size`, and `counts` compressed
            as text or bytes, or as a list of run lengths), or a list of RLE objects.
        height: of the image in pixels.
        width: of the image.

    Returns:
        (height, width).

    Raises:
        DataError: it is none of these, or an RLE of another size.
    """
    from pycocotools import mask as coco

    parts = segmentation if isinstance(segmentation, list) else [segmentation]
    union = np.zeros((height, width), np.bool_)
    if parts and all(isinstance(v, int | float) for v in parts):
        parts = [parts]  # one polygon without the list around it
    for part in parts:
        if isinstance(part, dict) and part.get("size") not in (None, [], [height, width], (height, width)):
            raise DataError(f"an RLE of size {part['size']}, but the image is {[height, width]} high and wide")
        try:
            union |= coco.decode(_rle(part, height, width)).astype(np.bool_)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(f"segmentation: expected COCO's polygons or RLE: {error}") from None
    return union


def _rle(part: Any, height: int, width: int) -> Any:
    """One polygon or RLE object as compressed RLE."""
    from pycocotools import mask as coco

    # What pycocotools does not check, and crashes on, is checked here.
    if isinstance(part, dict) and not isinstance(part["counts"], list):
        counts = part["counts"]
        if not isinstance(counts, str | bytes):
            raise ValueError(f"counts are a text or a list, not {counts!r:.80}")
        text = counts.encode() if isinstance(counts, str) else counts
        if (pixels := runs_of(text).sum()) != height * width:
            raise ValueError(f"its counts are of {pixels} pixels, not of {height * width}")
        return {"size": [height, width], "counts": text}
    if isinstance(part, dict):
        if not all(isinstance(count, int) and count >= 0 for count in part["counts"]):
            raise ValueError("counts are whole numbers from 0 on")
        if sum(part["counts"]) != height * width:
            raise ValueError(f"its counts are of {sum(part['counts'])} pixels, not of {height * width}")
        return coco.frPyObjects({"size": [height, width], "counts": part["counts"]}, height, width)
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
        raise ValueError("a polygon is a list of x, y, x, y, ... of three points or more")
    far = FAR * max(height, width)
    if not all(isinstance(value, int | float) and abs(value) <= far for value in part):
        raise ValueError(f"a polygon of numbers in or near an image of {width} x {height} pixels, not {part!r:.80}")
    (rle,) = coco.frPyObjects([part], height, width)
    return rle


def runs_of(counts: bytes) -> NDArray[np.int64]:
    """COCO's compressed run lengths as numbers: pixels outside, inside, outside, and so on, column by column.

    A number has five bits a character, the lowest first and the highest as its sign; a sixth bit says that it goes on.
    From the fourth run on it is the difference to the run before the last (maskApi.c, rleToString). pycocotools reads
    them too, but past the end of damaged ones, and makes arbitrary masks of those that are too short.

    Raises:
        ValueError: they are damaged or cut short.
    """
    bits = np.frombuffer(counts, np.uint8).astype(np.int64) - ord("0")
    ends = np.flatnonzero((bits & 0x20) == 0)
    lengths = np.diff(ends, prepend=-1)
    if not len(ends) or ends[-1] != len(bits) - 1 or bits.min() < 0 or bits.max() > 63 or lengths.max() > 7:
        raise ValueError(f"counts are damaged or cut short: {counts!r:.80}")
    places = np.arange(len(bits)) - np.repeat(ends - lengths + 1, lengths)
    runs = np.add.reduceat((bits & 0x1F) << 5 * places, ends - lengths + 1)
    runs -= (bits[ends] & 0x10 != 0).astype(np.int64) << 5 * lengths
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    if runs.min() < 0:
        raise ValueError(f"counts are damaged, a run of {runs.min()} pixels: {counts!r:.80}")
    return runs


def encode_mask(mask: Mask) -> bytes:
    """COCO's compressed run lengths (`counts`) of a (height, width) mask."""
    from pycocotools import mask as coco

    counts: bytes = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts


def rle_mask(counts: bytes, size: tuple[int, int]) -> Mask:
    """The (height, width) mask of run lengths that `encode_mask` made; others go through `decode_mask`."""
    from pycocotools import mask as coco

    mask: Mask = coco.decode({"size": list(size), "counts": counts}).astype(np.bool_)
    return mask


def rle_area(counts: bytes, size: tuple[int, int]) -> int:
    """Pixels of a region as `encode_mask` made it."""
    from pycocotools import mask as coco

    return int(coco.area({"size": list(size), "counts": counts}))


def rle_box(counts: bytes, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 in pixels around a region as `encode_mask` made it, the last behind it; zeros for an empty one."""
    from pycocotools import mask as coco

    x, y, width, height = (float(v) for v in coco.toBbox({"size": list(size), "counts": counts}))
    return x, y, x + width, y + height


def union_of(masks: Iterable[Mask], height: int, width: int) -> Mask:
    """Where any of them is; nowhere if there are none."""
    union = np.zeros((height, width), np.bool_)
    for mask in masks:
        union |= mask
    return union


def box_of(mask: Mask) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 in pixels around a mask, the last behind the region; zeros for an empty one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def mask_iou(one: Mask, other: Mask) -> float:
    """Intersection over union; 1 for two empty masks."""
    union = int((one | other).sum())
    return float((one & other).sum()) / union if union else 1.0
