"""What lies over a picture: the map of a look, and the outline of its mask, as small PNG files with transparency."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agevlm.data.masks import Mask
from agevlm.geometry import Geometry
from analysis.grounding.figures import OUTLINE

MAP_SIDE = 72
"""Pixels of a map's longer side: many times what a grid has, and the page makes it larger, smoothly."""
OUTLINE_SIDE = 240
FAINTEST, STRONGEST = 0.3, 0.75
"""Opacity without and with the most attention: what has little of it is darkened, and the picture stays visible."""
LEVELS = 64
"""Of colour and opacity; one more is for what a crop cut off."""
COLOURS = "inferno"
"""Told apart with all kinds of colour vision, and in grey."""


def map_png(heat: NDArray[np.floating], geometry: Geometry) -> bytes:
    """A map over the whole image, padding cut away, what a crop cut off transparent.

    Args:
        heat: (rows, columns), at least 0; the largest cell has the strongest colour.
        geometry: where the cells lie in the image.
    """
    width, height = fitted(geometry.image_width, geometry.image_height, MAP_SIDE)
    spread = geometry.resized(width, height).grid_to_image(heat / (float(np.max(heat)) or 1.0), smooth=True)
    cut = np.isnan(spread)
    levels = np.rint(np.where(cut, 0, spread).clip(0, 1) * (LEVELS - 1)).astype(np.uint8)
    return _png(np.where(cut, LEVELS, levels).astype(np.uint8), *_map_colours())


def outline_png(mask: Mask) -> bytes:
    """The mask's edge as a bright line with a dark one around it, on nothing.

    The line lies on the mask's outermost pixels, along the image's edge too where the mask reaches it.
    """
    height, width = mask.shape
    small = fitted(width, height, OUTLINE_SIDE)
    share = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(small, Image.Resampling.BOX))
    # What is too small for half of a pixel is shown as that pixel.
    inside = share >= 128 if (share >= 128).any() else share > 0
    line = inside & ~_shrunk(inside)
    around = ~_shrunk(~inside, edge=True) & ~inside
    return _png(np.select([line, around], [1, 2], 0).astype(np.uint8), _outline_colours(), bytes([0, 255, 150]))


def fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """The size of the same shape with this longer side, at least one pixel."""
    scale = side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _shrunk(inside: NDArray[np.bool_], edge: bool = False) -> NDArray[np.bool_]:
    """Without the pixels that have a neighbour (of four) outside; beyond the image all is `edge`."""
    padded = np.pad(inside, 1, constant_values=edge)
    kept: NDArray[np.bool_] = (
        padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    )
    return kept


@cache
def _map_colours() -> tuple[bytes, bytes]:
    from matplotlib import colormaps

    levels = np.linspace(0, 1, LEVELS)
    colours = np.vstack([colormaps[COLOURS](levels)[:, :3], np.zeros((1, 3))])
    opacity = np.append(FAINTEST + (STRONGEST - FAINTEST) * levels, 0)
    return _bytes(colours), _bytes(opacity)


@cache
def _outline_colours() -> bytes:
    bright = [int(OUTLINE[k : k + 2], 16) for k in (1, 3, 5)]
    return bytes([0, 0, 0, *bright, 0, 0, 0])


def _bytes(values: NDArray[np.floating]) -> bytes:
    content: bytes = np.rint(values * 255).astype(np.uint8).tobytes()
    return content


def _png(places: NDArray[np.uint8], colours: bytes, opacity: bytes) -> bytes:
    image = Image.frombytes("P", places.shape[::-1], places.tobytes())
    image.putpalette(colours)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=opacity, bits=2 if len(opacity) <= 4 else 8)
    return buffer.getvalue()
