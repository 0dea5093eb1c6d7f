"""Painting over a region of an image from what lies around it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
RING = 0.02
"""Width of what counts as a region's surround, in long sides of the image; at least 2 pixels."""


def surround_fill(image: Pixels, hidden: Mask) -> Pixels:
    """Each connected region in the mean colour of the pixels around it.

    Args:
        image: (height, width, 3) RGB.
        hidden: (height, width); pixels that touch at a corner are connected.

    Returns:
        A copy; pixels that are not hidden are as they were. A region without visible surround takes the mean of all
        visible pixels.

    Raises:
        ValueError: nothing is visible.
    """
    from scipy.ndimage import binary_dilation, label

    _check(image, hidden)
    filled, visible = image.copy(), ~hidden
    everywhere = image[visible].mean(0)
    width = max(2, round(RING * max(hidden.shape)))
    regions, count = label(hidden, np.ones((3, 3)))
    for number in range(1, count + 1):
        region = regions == number
        ring = binary_dilation(region, np.ones((3, 3)), iterations=width) & visible
        colour = image[ring].mean(0) if ring.any() else everywhere
        filled[region] = colour.round().astype(np.uint8)
    return filled


def diffusion_fill(image: Pixels, hidden: Mask) -> Pixels:
    """The smoothest continuation of what surrounds the hidden pixels: the solution of Laplace's equation inside.

    Every hidden pixel becomes the mean of its four neighbours, by a sparse solver; beyond the image's edge there is
    none (no flow across it). Arguments, result and errors as `surround_fill`.
    """
    from scipy.sparse import csc_array
    from scipy.sparse.linalg import spsolve

    _check(image, hidden)
    if not hidden.any():
        return image.copy()
    height, width = hidden.shape
    number = np.full(hidden.shape, -1)
    number[hidden] = np.arange(int(hidden.sum()))
    rows, columns = np.nonzero(hidden)
    unknowns = len(rows)
    neighbours = np.zeros(unknowns)
    known = np.zeros((unknowns, 3))
    entries: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        y, x = rows + down, columns + right
        there = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        here = np.flatnonzero(there)
        neighbours[here] += 1
        other = number[y[here], x[here]]
        known[here[other < 0]] += image[y[here], x[here]][other < 0]
        entries.append((here[other >= 0], other[other >= 0]))
    i, j = (np.concatenate(side) for side in zip(*entries, strict=True))
    diagonal = np.arange(unknowns)
    matrix = csc_array(
        (
            np.concatenate([neighbours, -np.ones(len(i))]),
            (np.concatenate([diagonal, i]), np.concatenate([diagonal, j])),
        ),
        shape=(unknowns, unknowns),
    )
    filled = image.copy()
    filled[hidden] = spsolve(matrix, known).reshape(unknowns, 3).round().clip(0, 255).astype(np.uint8)
    return filled


def _check(image: Pixels, hidden: Mask) -> None:
    if hidden.all():
        raise ValueError("the whole image is hidden: there is nothing to fill it from")
    if image.shape[:2] != hidden.shape:
        raise ValueError(f"an image of {image.shape} and a mask of {hidden.shape}")


FILLS = {"surround": surround_fill, "diffusion": diffusion_fill}
