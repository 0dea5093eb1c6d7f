"""Visual controls: the same questions with the picture taken away, emptied, scrambled or exchanged.

What a model still scores under a control it owes to the question's words, not to the image. Seeded and content-keyed,
so that the same control of the same image is the same picture in every run.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

CONTROLS = ("blind", "blank", "shuffled", "other-image")
"""blind: no image at all; blank: uniform grey of the same size; shuffled: its patches permuted; other-image: another
image of the set."""

GREY = (127, 127, 127)
GRID = 16
"""Cells per side of a shuffled image."""


def blank(size: tuple[int, int]) -> Image:
    """A uniform mid-grey RGB image of (width, height)."""
    from PIL import Image

    return Image.new("RGB", size, GREY)


def shuffled(image: Image, sha256: str, seed: int) -> Image:
    """The image with its 16 x 16 grid of cells permuted.

    Colours and local texture stay, objects do not. The permutation depends on the image's content and the seed alone.
    The remainder at the right and lower edge, less than one cell wide, stays in place; an image under 16 pixels on a
    side has one cell per pixel on that side.
    """
    from PIL import Image

    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    rows, columns = min(GRID, height), min(GRID, width)
    h, w = height // rows, width // columns
    cells = pixels[: rows * h, : columns * w].reshape(rows, h, columns, w, -1).swapaxes(1, 2).reshape(-1, h, w, 3)
    order = np.random.default_rng([int(sha256[:16], 16), seed]).permutation(len(cells))
    result = pixels.copy()
    result[: rows * h, : columns * w] = (
        cells[order].reshape(rows, columns, h, w, 3).swapaxes(1, 2).reshape(rows * h, columns * w, 3)
    )
    return Image.fromarray(result)


def derangement(clusters: Mapping[str, Sequence[str]], seed: int) -> dict[str, str]:
    """For each image another one, from another cluster; a seeded cyclic permutation, so no image maps to itself.

    Args:
        clusters: cluster -> its images (one image each in POPE; in POPEv2 the original and its edited twin).
        seed: of the permutation.

    Returns:
        Image -> the image shown in its place; empty if there are fewer than two clusters.
    """
    names = sorted(clusters)
    if len(names) < 2:
        return {}
    random.Random(seed).shuffle(names)
    exchanged = {}
    for cluster, other in zip(names, names[1:] + names[:1], strict=True):
        targets = sorted(clusters[other])
        for index, image in enumerate(sorted(clusters[cluster])):
            exchanged[image] = targets[index % len(targets)]
    return exchanged
