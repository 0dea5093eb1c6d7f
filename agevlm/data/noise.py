"""Regions as an imperfect teacher would give them: too small, too large, beside the object, missing, another's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import numpy as np

from agevlm.data.masks import Mask
from agevlm.errors import DataError

KINDS = ("erode", "dilate", "shift", "drop", "swap")


@dataclass(frozen=True)
class Noise:
    """One way to distort regions, and how much."""

    kind: str
    """erode, dilate: by `level` times the radius of a disc of the region's area. shift: by `level` times that disc's
    diameter, in any direction. drop, swap: with probability `level`; swapped ones are another image's."""
    level: float
    """0: nothing changes. For erode from 0 to 1; for dilate and shift from 0; for drop and swap from 0 to 1."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"noise {self.kind!r} is unknown: give one of {', '.join(KINDS)}")
        most = math.inf if self.kind in ("dilate", "shift") else 1.0
        if not 0 <= self.level <= most or math.isinf(self.level):
            raise DataError(
                f"noise {self.kind} {self.level:g}: give a level from 0{'' if math.isinf(most) else ' to 1'}"
            )

    def __str__(self) -> str:
        return f"{self.kind} {self.level:g}"


def distort(mask: Mask, noise: Noise, draw: Random, donor: Mask | None = None) -> Mask | None:
    """A region with noise.

    Args:
        mask: (height, width).
        noise: how.
        draw: of directions and chances; one number is drawn from it each time, whatever the kind.
        donor: another image's region, for swap; None: there is none, and the region stays.

    Returns:
        (height, width), maybe empty; None if the region is dropped.
    """
    chance = draw.random()
    if noise.kind == "drop":
        return None if chance < noise.level else mask
    if noise.kind == "swap":
        return resize_mask(donor, *mask.shape) if donor is not None and chance < noise.level else mask
    if not mask.any() or not noise.level:
        return mask
    length = noise.level * math.sqrt(int(mask.sum()) / math.pi)
    if noise.kind == "shift":
        angle = 2 * math.pi * chance
        return _shifted(mask, round(2 * length * math.sin(angle)), round(2 * length * math.cos(angle)))
    from scipy.ndimage import distance_transform_edt

    # Distances are between centres of pixels: the nearest pixel of the other kind is at 1. Beyond the image nothing is
    # known, so a region that the image's border cuts is not eroded from there.
    if noise.kind == "dilate":
        return np.asarray(distance_transform_edt(~mask) <= length)
    return np.asarray(distance_transform_edt(mask) > length) if not mask.all() else mask


def _shifted(mask: Mask, down: int, right: int) -> Mask:
    """Moved; what leaves the image is lost."""
    height, width = mask.shape
    moved = np.zeros_like(mask)
    rows, columns = np.nonzero(mask)
    rows, columns = rows + down, columns + right
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    moved[rows[inside], columns[inside]] = True
    return moved


def resize_mask(mask: Mask, height: int, width: int) -> Mask:
    """A region at the same place, relative to another image's sides; nearest pixels."""
    rows, columns = ((np.arange(new) * old // new) for new, old in zip((height, width), mask.shape, strict=True))
    resized: Mask = mask[np.ix_(rows, columns)]
    return resized
