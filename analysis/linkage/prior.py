"""How likely an object is given the others that an image shows, from annotations of other images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]
SMOOTHING = 0.5
"""Added to every count (Krichevsky and Trofimov 1981)."""


def presence_of(objects: Sequence[Sequence[str]], names: Sequence[str]) -> Truths:
    """(images, names): which image shows which of the named objects."""
    column = {name: k for k, name in enumerate(names)}
    shown = np.zeros((len(objects), len(names)), np.bool_)
    for row, own in enumerate(objects):
        shown[row, [column[name] for name in own if name in column]] = True
    return shown


def cooccurrence_prior(shown: Truths, image: int, smoothing: float = SMOOTHING) -> Floats:
    """Log odds that an image shows each object, given the *other* objects it shows; the image itself is left out.

    Naive Bayes over the objects that are there:

        log (n_c + s) / (n - n_c + s)
          + sum over d in D, d != c, of  log (n_cd + s) / (n_c + 2 s)  -  log (n_d - n_cd + s) / (n - n_c + 2 s)

    with n the other images, n_c those that show c, n_cd those that show c and d, D the objects of this image, and s the
    smoothing. What the image does not show plays no part, and neither does whether it shows c.

    Args:
        shown: (images, objects), see `presence_of`.
        image: its row.
        smoothing: s, above 0.

    Returns:
        (objects,), natural logarithm; positive where the object is to be expected.
    """
    own = shown[image]
    others = np.delete(shown, image, axis=0).astype(np.float64)
    n, having = len(others), others.sum(0)
    together = others.T @ others[:, own]
    with_c = np.log((together + smoothing) / (having[:, None] + 2 * smoothing))
    without_c = np.log((having[own][None] - together + smoothing) / (n - having[:, None] + 2 * smoothing))
    evidence = with_c - without_c
    # An object is no evidence of itself.
    evidence[np.flatnonzero(own), np.arange(int(own.sum()))] = 0.0
    prior: Floats = np.log((having + smoothing) / (n - having + smoothing)) + evidence.sum(1)
    return prior
