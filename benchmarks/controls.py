"""Visual controls: the same questions with the picture taken away, emptied, scrambled or exchanged.

What a model still scores under a control it owes to the question's words, not to the image. Seeded and content-keyed,
so that the same control of the same image is the same picture in every run.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE = "image"
"""The condition in which the model sees the question's own image; the others are controls."""
CONTROLS = ("blind", "blank", "shuffled", "other-image")
"""blind: no image at all; blank: uniform grey of the same size; shuffled: its patches permuted; other-image: another
image of the set."""
CHANGES = ("blank", "shuffled")
"""Controls that change the pixels of the question's own image."""

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
    import numpy as np
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
    """For each image another one that shares no cluster with it; a seeded cyclic permutation.

    Args:
        clusters: cluster -> its images (one image each in POPE; in POPEv2 the original and its edited twin).
        seed: of the permutation.

    Returns:
        Image -> the image shown in its place; empty if all images are bound to one another by their clusters.
    """
    # An image may be in several clusters (edited in two ways, say); what is bound by any chain of them stays apart.
    family: dict[str, set[str]] = {}
    for images in clusters.values():
        merged = set(images).union(*(family.get(i, ()) for i in images))
        family.update(dict.fromkeys(merged, merged))
    families = sorted({min(f): sorted(f) for f in family.values()}.values())
    if len(families) < 2:
        return {}
    random.Random(seed).shuffle(families)
    exchanged = {}
    for images, targets in zip(families, families[1:] + families[:1], strict=True):
        for index, image in enumerate(images):
            exchanged[image] = targets[index % len(targets)]
    return exchanged
