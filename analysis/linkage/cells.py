"""Which cells of the grid are hidden: the object's, the most attended, others of the same number."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Cells = NDArray[np.bool_]
"""(rows, columns)."""


def generator(*content: object) -> np.random.Generator:
    """Random numbers that depend on the content alone."""
    digest = hashlib.sha256(json.dumps(content).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def of_image(coverage: Floats) -> Cells:
    """Cells of which at least half is image and not padding: those that may be hidden."""
    return np.asarray(coverage >= 0.5)


def of_object(mask: Floats, allowed: Cells, border: int = 0) -> Cells:
    """Allowed cells that the object touches, grown by so many cells in all eight directions."""
    from scipy.ndimage import binary_dilation

    touched = mask > 0
    if border:
        touched = binary_dilation(touched, np.ones((3, 3)), iterations=border)
    return np.asarray(touched & allowed)


def top(attention: Floats, allowed: Cells, count: int) -> Cells:
    """The `count` allowed cells with the largest attention; of equal ones the first, row by row."""
    ranked = np.where(allowed, attention, -np.inf).ravel()
    chosen = np.argsort(-ranked, kind="stable")[:count]
    return _from(chosen, allowed)


def random(allowed: Cells, count: int, draw: np.random.Generator) -> Cells:
    """`count` random allowed cells."""
    return _from(draw.choice(np.flatnonzero(allowed), count, replace=False), allowed)


def moved(cells: Cells, allowed: Cells, count: int, draw: np.random.Generator) -> list[Cells]:
    """The same shape elsewhere: up to `count` random places where all of it lies on allowed cells."""
    rows, columns = np.nonzero(cells)
    height, width = cells.shape
    places = []
    for down in range(-int(rows.min()), height - int(rows.max())):
        for right in range(-int(columns.min()), width - int(columns.max())):
            if allowed[rows + down, columns + right].all():
                places.append((down, right))
    found = []
    for k in draw.permutation(len(places))[:count]:
        down, right = places[k]
        one = np.zeros_like(cells)
        one[rows + down, columns + right] = True
        found.append(one)
    return found


def _from(chosen: NDArray[np.int64], like: Cells) -> Cells:
    cells = np.zeros(like.size, np.bool_)
    cells[chosen] = True
    return cells.reshape(like.shape)
