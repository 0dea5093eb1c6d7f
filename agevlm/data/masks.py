"""Regions as COCO stores them (polygons, run lengths) and as arrays of truth values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agevlm.errors import DataError

Mask = NDArray[np.bool_]
"""(height, width): where the region is."""


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
        if isinstance(part, dict) and tuple(part.get("size") or ()) not in ((), (height, width)):
            raise DataError(f"an RLE of size {part['size']}, but the image is {[height, width]} high and wide")
        try:
            union |= coco.decode(_rle(part, height, width)).astype(np.bool_)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(f"segmentation: expected COCO's polygons or RLE: {error}") from None
    return union


def _rle(part: Any, height: int, width: int) -> Any:
    """One polygon or RLE object as compressed RLE."""
    from pycocotools import mask as coco

    if isinstance(part, dict) and not isinstance(part["counts"], list):
        counts = part["counts"]
        return {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}
    if isinstance(part, dict):
        if sum(part["counts"]) != height * width:
            raise ValueError(f"its counts are of {sum(part['counts'])} pixels, not of {height * width}")
        return coco.frPyObjects({"size": [height, width], "counts": part["counts"]}, height, width)
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
        raise ValueError("a polygon is a list of x, y, x, y, ... of three points or more")
    (rle,) = coco.frPyObjects([part], height, width)
    return rle


def encode_mask(mask: Mask) -> bytes:
    """COCO's compressed run lengths (`counts`) of a (height, width) mask."""
    from pycocotools import mask as coco

    counts: bytes = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts


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
