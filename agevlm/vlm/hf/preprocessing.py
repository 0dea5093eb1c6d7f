"""Where the pixels of an image go in the image processors of the LLaVA family."""

from __future__ import annotations

from typing import Any

from agevlm.geometry import Geometry


def clip_geometry(processor: Any, size: tuple[int, int], grid: tuple[int, int], *, pad: bool, squash: bool) -> Geometry:
    """The map of CLIP's image processor and its kin: pad to a square, resize, crop the centre; each if switched on.

    Args:
        processor: its settings `do_resize`, `size`, `do_center_crop` and `crop_size` are read.
        size: (width, height) of the image in pixels.
        grid: (rows, columns) of tokens.
        pad: pad to a square first, as LLaVA's own processor can.
        squash: resize to a square of `size` whatever the shape and `do_resize`, as LLaVA-NeXT does for its view of
            the whole image.
    """
    width, height = size
    left = top = 0
    if pad:
        side = max(width, height)
        left, top = (side - width) // 2, (side - height) // 2
        width = height = side
    new_width, new_height = width, height
    if processor.do_resize or squash:
        wanted = processor.size
        if wanted.get("height") and wanted.get("width"):
            new_width, new_height = wanted["width"], wanted["height"]
        elif squash:
            new_width = new_height = wanted["shortest_edge"]
        else:
            shortest = wanted["shortest_edge"]
            long = int(shortest * max(width, height) / min(width, height))
            new_width, new_height = (shortest, long) if width <= height else (long, shortest)
    scale_x, scale_y = new_width / width, new_height / height
    input_width, input_height = new_width, new_height
    crop_left = crop_top = 0
    if processor.do_center_crop:
        input_width, input_height = processor.crop_size["width"], processor.crop_size["height"]
        crop_left, crop_top = _centred(new_width, input_width), _centred(new_height, input_height)
    return Geometry(
        *size,
        input_width,
        input_height,
        scale_x,
        scale_y,
        left * scale_x - crop_left,
        top * scale_y - crop_top,
        *grid,
    )


def _centred(length: int, kept: int) -> int:
    """Where a centre crop begins; negative, and rounded towards 0, where it pads instead."""
    return (length - kept) // 2 if length >= kept else -((kept - length) // 2)
