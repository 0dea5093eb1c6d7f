"""What a map is measured against: maps and masks that know nothing of this image or this phrase.

uniform   every cell of the image alike
centre    a Gaussian around the image's centre
others    the mean map of the other images, for the same query and layer: what is looked at whatever is shown
swapped   the map as it is, against the mask of a phrase of another image
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from random import Random

import numpy as np
from numpy.typing import NDArray

from agevlm.geometry import Geometry

Floats = NDArray[np.floating]
NULLS = ("uniform", "centre", "others", "swapped")
SIGMA = 0.25
"""Of the centre prior, in widths and heights of the image."""
DECIMALS = 12
"""Of the mean of shares."""
SINK_DEVIATIONS, SINK_TIMES = 5.0, 3.0
"""A cell is a sink where other images' mean map has more there than so many robust deviations (1.4826 MAD) above its
median, and more than so many times its mean."""
SINK_IMAGES = 30
"""Other images that it takes to tell what all look at from what a few show."""


@lru_cache(maxsize=256)
def centre_prior(geometry: Geometry) -> Floats:
    """(rows, columns): a Gaussian of `SIGMA` sides around the image's centre, by its exact integral over each cell.

    As attention that lies evenly on cells, so that a cell's value times its coverage is what the image has of it.
    """
    from scipy.special import ndtr

    def along(axis: int, cells: int, side: int) -> Floats:
        edges = np.array([geometry.cell_box(k, 0)[1] if axis else geometry.cell_box(0, k)[0] for k in range(cells)])
        end = geometry.cell_box(cells - 1, 0)[3] if axis else geometry.cell_box(0, cells - 1)[2]
        places = np.append(edges, end).clip(0, side) / side
        return np.asarray(np.diff(ndtr((places - 0.5) / SIGMA)))

    mass = np.outer(along(1, geometry.rows, geometry.image_height), along(0, geometry.columns, geometry.image_width))
    coverage = geometry.coverage()
    spread: Floats = np.divide(mass, coverage, out=np.zeros_like(mass), where=coverage > 0)
    total: float = spread.sum()
    return np.asarray(spread / total)


class OtherMaps:
    """The mean map of all images but one. Each image counts once, by the mean of its own maps (`mean_map`).

    Where grids differ in shape, maps are carried over by relative position, by areas.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[int, int], Floats] = {}
        self._images: Floats = np.zeros(1)
        self._added = 0

    def add(self, own: Floats) -> None:
        """Add an image's mean map, (..., rows, columns), of the same leading axes for all images."""
        shape = (own.shape[-2], own.shape[-1])
        self._sums[shape] = self._sums.get(shape, np.zeros(own.shape)) + own
        self._images = self._images + _looked(own)
        self._added += 1

    @property
    def images(self) -> int:
        """How many were added."""
        return self._added

    def without(self, own: Floats) -> Floats:
        """(..., rows, columns): the mean of the others on the grid of an image that was added; NaN where none is."""
        shape = (own.shape[-2], own.shape[-1])
        total = np.sum([carried(held, shape) for held in self._sums.values()], axis=0) - own
        others = (self._images - _looked(own))[..., None, None]
        mean = np.divide(total.clip(min=0), others, out=np.full(total.shape, np.nan), where=others > 0)
        # What a difference of sums leaves behind would rank cells that are equal.
        return np.asarray(np.round(mean, DECIMALS))


def mean_map(maps: Sequence[Floats]) -> Floats:
    """(..., rows, columns): the mean of maps, each divided by its sum.

    Those that are NaN or without attention do not count; where all are such it is 0.
    """
    held = np.stack(maps)
    total = np.nan_to_num(held.sum((-2, -1), keepdims=True))
    shares = np.divide(held, total, out=np.zeros(held.shape), where=total > 0)
    return np.asarray(shares.sum(0) / (total > 0).sum(0).clip(min=1))


def _looked(own: Floats) -> Floats:
    return np.asarray(own.sum((-2, -1)) > 0, np.float64)


def carried(maps: Floats, shape: tuple[int, int]) -> Floats:
    """Maps on a grid of another shape, at the same relative positions; sums stay as they are.

    Args:
        maps: (..., rows, columns).
        shape: rows and columns to carry to.
    """
    if maps.shape[-2:] == shape:
        return maps
    down, across = (_shares(old, new) for old, new in zip(maps.shape[-2:], shape, strict=True))
    return np.asarray(down.T @ maps @ across)


def _shares(old: int, new: int) -> Floats:
    """(old, new): which part of each of `old` equal pieces of a line lies on each of `new` pieces."""
    before, after = np.arange(old + 1) / old, np.arange(new + 1) / new
    low = np.maximum(before[:-1, None], after[None, :-1])
    high = np.minimum(before[1:, None], after[None, 1:])
    shares: Floats = (high - low).clip(min=0) * old
    return shares


def sinks(others: Floats, coverage: Floats) -> NDArray[np.bool_]:
    """(..., rows, columns): cells that are looked at in other images whatever they show (after arXiv 2503.03321).

    Args:
        others: (..., rows, columns), the mean map of other images.
        coverage: (rows, columns); cells that are all padding are none: what lies on them is counted as such.
    """
    shown = coverage > 0
    held = others[..., shown]
    median = np.median(held, axis=-1, keepdims=True)
    deviation = 1.4826 * np.median(np.abs(held - median), axis=-1, keepdims=True)
    high = (held > median + SINK_DEVIATIONS * deviation) & (held > SINK_TIMES * held.mean(-1, keepdims=True))
    found = np.zeros(others.shape, np.bool_)
    found[..., shown] = high
    return found


def donors(images: Sequence[Hashable], groups: Sequence[str], seed: int) -> list[int | None]:
    """For each region one of the same group of another image, whose mask takes its mask's place.

    Images of a group are shuffled, their regions put in a row, and each takes from the one as many places on as the
    largest image has regions. So each mask is lent once, sizes stay as they are, and none meets its own image.

    Args:
        images: of each region.
        groups: of each region.
        seed: of the order.

    Returns:
        Places in the given order. None where there is no other image; and for some regions where one image has more
        than half of a group's.
    """
    found: list[int | None] = [None] * len(images)
    for group in sorted(set(groups)):
        held: dict[Hashable, list[int]] = {}
        for place, (image, own) in enumerate(zip(images, groups, strict=True)):
            if own == group:
                held.setdefault(image, []).append(place)
        order = list(held)
        Random(f"donors:{seed}:{group}").shuffle(order)
        row = [place for image in order for place in held[image]]
        shift = max(map(len, held.values()))
        for place, donor in zip(row, row[shift:] + row[:shift], strict=True):
            if images[donor] != images[place]:
                found[place] = donor
    return found
