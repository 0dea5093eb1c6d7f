"""Families that see an image more than once: cut into tiles, and the whole of it in one more.

Where the tiles lie is taken from what the processor wrote or from transformers' own functions, and checked against the
number of visual tokens. The cells of a mosaic are equal: where patches do not fill a tile (27 of 14 pixels leave 6 of
SigLIP's 384), a cell lies up to half its side away from its patch.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from agevlm.errors import NotSupported
from agevlm.geometry import Geometry
from agevlm.vlm.hf.families import Family, Llava, expect
from agevlm.vlm.hf.general import General, Seen

if TYPE_CHECKING:
    import torch

    from agevlm.vlm.hf.layout import Layout


class Idefics3(General):
    """Idefics3 and SmolVLM: tiles, each named by row and column in the prompt, then the whole image; all stretched."""

    probes = True

    def layout(self, features: Seen, width: int, height: int) -> Layout:
        tile = self.processor.image_processor.max_image_size["longest_edge"]
        side = tile // self.model.config.vision_config.patch_size // self.model.config.scale_factor
        places = re.findall(r"<row_(\d+)_col_(\d+)>", features.expansion)
        rows, columns = (max((int(place[axis]) for place in places), default=1) for axis in (0, 1))
        return _stretched(self, features, (width, height), (rows, columns), side, tile)


class InternVL(General):
    """InternVL: tiles of the stretched image, then the whole of it where there are several."""

    probes = True

    def layout(self, features: Seen, width: int, height: int) -> Layout:
        from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

        images, config = self.processor.image_processor, self.model.config
        tile = images.size["height"]
        side = round(tile // config.vision_config.patch_size[0] * config.downsample_ratio)
        columns = rows = 1
        # Settings of the processor come before those of its image processor: whether it cut is seen by the tokens.
        if len(features.visual) > side * side:
            tiles = images.min_patches, images.max_patches
            columns, rows = get_optimal_tiled_canvas((height, width), (tile, tile), *tiles)
        return _stretched(self, features, (width, height), (rows, columns), side, tile)


def _stretched(
    family: Family, features: Seen, size: tuple[int, int], tiles: tuple[int, int], side: int, tile: int
) -> Layout:
    """Tiles of an image that is stretched over them, then the whole of it where there are several.

    Args:
        family: of the model.
        features: of the image.
        size: (width, height) of the image in pixels.
        tiles: (rows, columns) of tiles.
        side: tokens along a tile's side.
        tile: pixels along a tile's side.

    Raises:
        NotSupported: these are not the tokens that so many tiles make.
    """
    from agevlm.vlm.hf.layout import Layout, View, row_by_row, tile_by_tile

    rows, columns = tiles
    several, tokens = rows * columns > 1, len(features.visual)
    expect(family, tokens, side * side * (rows * columns + several))
    mosaic = Geometry.squash(size, (columns * tile, rows * tile), (rows * side, columns * side))
    whole = Geometry.squash(size, (tile, tile), (side, side))
    last = View(whole, row_by_row(side, side, first=tokens - side * side))
    return Layout.of(View(mosaic, tile_by_tile(tiles, (side, side))), [last] if several else [], tokens)


class LlavaNext(Llava):
    """LLaVA-NeXT (1.6): the whole image, then tiles of it, packed by the model itself.

    The tiles are cut from the image with padding around it. Rows or columns of nothing but padding are left out again,
    and a newline feature follows each row.
    """

    squash = True
    """Of the whole image, that is."""

    def layout(self, features: torch.Tensor, width: int, height: int) -> Layout:
        images = self.processor.image_processor
        size, crop = dict(images.size), dict(images.crop_size or {})
        tile = crop.get("height") or size.get("height") or size["shortest_edge"]
        if set(size.values()) - {tile, None}:
            raise NotSupported(f"tiles of {tile} pixels that are resized to {size}: where they lie is not known")
        return _unpadded(self, (width, height), self.visual_tokens(features), tile, None)


class LlavaOnevision(General):
    """LLaVA-OneVision: as LLaVA-NeXT; where there are many tiles, their features are scaled down together."""

    probes = True

    def layout(self, features: Seen, width: int, height: int) -> Layout:
        most = int(self.model.config.vision_aspect_ratio.removeprefix("anyres_max_"))
        tile = self.processor.image_processor.size["height"]
        return _unpadded(self, (width, height), len(features.visual), tile, most)


def _unpadded(family: Family, size: tuple[int, int], tokens: int, tile: int, most: int | None) -> Layout:
    """The whole image, then its tiles without padding, a newline after each row.

    Args:
        family: of the model.
        size: (width, height) of the image in pixels.
        tokens: visual tokens, newlines included.
        tile: pixels along a tile's side.
        most: tiles beyond whose number features are scaled down; None for never.

    Raises:
        NotSupported: these are not the tokens that such an image makes.
    """
    import torch
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    from agevlm.vlm.hf.layout import Layout, View, row_by_row

    width, height = size
    canvas, box = _letterbox(family.processor.image_processor, size)
    patch = family.model.config.vision_config.patch_size
    side = tile // patch
    whole = Geometry.onto(size, (0, 0, tile, tile), (side * patch, side * patch), (side, side))
    cells = torch.arange(canvas[0] // tile * side), torch.arange(canvas[1] // tile * side)
    kept = unpad_image(torch.stack(torch.meshgrid(*reversed(cells), indexing="ij")), (height, width))
    rows, columns = kept.shape[1:]
    if kept.numel() == 0:
        # A strip too thin for a row or column of its own: newlines at most.
        expect(family, tokens, side * side + rows)
        return Layout.plain(whole, tokens)
    top, left = kept[:, 0, 0].tolist()
    # A cell of the mosaic is a patch where patches fill the tile.
    scale, x, y = side * patch / tile, left * patch, top * patch
    x0, y0, x1, y1 = (edge * scale for edge in box)
    placed, kept_size = (x0 - x, y0 - y, x1 - x, y1 - y), (columns * patch, rows * patch)
    ratio = math.sqrt(rows * columns / (most * side**2)) if most else 1.0
    if ratio > MOST_SCALE:
        rows, columns = int(rows // ratio), int(columns // ratio)
    expect(family, tokens, side * side + rows * (columns + 1))
    mosaic = Geometry.onto(size, placed, kept_size, (rows, columns))
    finest = View(mosaic, row_by_row(rows, columns, first=side * side, stride=columns + 1))
    return Layout.of(finest, [View(whole, row_by_row(side, side))], tokens)


MOST_SCALE = 1.1
"""LLaVA-OneVision scales features down if their number along a side is beyond the limit by more than this factor."""


def _letterbox(images: Any, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """The canvas of an image that is to be cut into tiles, (width, height), and where on it the image lies."""
    import numpy as np
    from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
    from transformers.image_utils import ChannelDimension

    width, height = size
    best = select_best_resolution((height, width), images.image_grid_pinpoints)
    # It wants an image for its size alone.
    shape = np.broadcast_to(np.uint8(0), (1, height, width))
    new_height, new_width = get_patch_output_size(shape, best, ChannelDimension.FIRST)
    left, top = (best[1] - new_width) // 2, (best[0] - new_height) // 2
    return (best[1], best[0]), (left, top, left + new_width, top + new_height)
