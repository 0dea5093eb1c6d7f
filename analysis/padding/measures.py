"""Attention on padding, from maps and the share of each cell that is image. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Masses:
    """Attention of one query, by layer, and what a uniform map would give.

    Cells that are partly image count by the part of them that is padding; `empty` is of cells without any image alone.
    """

    visual: Floats
    """(layers,): attention to all cells, at least 0; with cross-attention 1."""
    padding: Floats
    """(layers,): of it on padding."""
    empty: Floats
    """(layers,): of it on cells that hold no image at all."""


def masses(attention: ArrayLike, coverage: ArrayLike) -> Masses:
    """Sums over a map.

    Args:
        attention: (layers, rows, columns), at least 0.
        coverage: (rows, columns), 0 to 1: which share of each cell is image.

    Raises:
        ValueError: the shapes do not fit.
    """
    maps, image = np.asarray(attention, np.float64), np.asarray(coverage, np.float64)
    if maps.ndim != 3 or maps.shape[1:] != image.shape:
        raise ValueError(f"attention of shape {maps.shape} does not fit cells of shape {image.shape}")
    return Masses(
        visual=maps.sum((1, 2)),
        padding=(maps * (1 - image)).sum((1, 2)),
        empty=(maps * (image == 0)).sum((1, 2)),
    )


def padding_of_cells(coverage: ArrayLike) -> float:
    """Which share of the grid is padding: what a uniform map puts there."""
    return float(1 - np.asarray(coverage, np.float64).mean())


def empty_of_cells(coverage: ArrayLike) -> float:
    """Which share of the cells holds no image at all."""
    return float((np.asarray(coverage) == 0).mean())
