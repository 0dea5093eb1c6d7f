"""How well a map of attention agrees with a mask. Pure numpy.

Three arrays of one shape (rows, columns), one value a cell of the token grid:

* map `a` >= 0: attention to the cell. It is taken to lie evenly on the cell's area.
* share `s`, 0 to 1: which part of the cell the mask covers (`Geometry.mask_to_grid`).
* coverage `c`, s to 1: which part of the cell is image and not padding (`Geometry.coverage`).

So a s lies on the mask, a c on the image, a (1 - c) on padding. Everything but `padding` and `on_image` is about the
image alone: cells that are all padding play no part, and areas are areas of the image. Maps may have leading axes
(layers, heads, queries); scores then have them, too. NaN stands for what is not defined: everything where no attention
lies on the image, AUROC where the mask covers all or nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

SCORES = ("iou", "dice", "pointing", "mass", "lift", "auroc")
"""Better when higher. `iou` is area-matched; IoU above thresholds has names of its own, see `threshold_name`."""
FACTS = ("on_image", "padding", "entropy")
"""What a map is by itself, whatever the mask."""
THRESHOLDS = tuple(k / 20 for k in range(1, 20))
"""Shares of the largest attention that are tried where the best one is chosen."""
FIXED = (0.25, 0.5, 0.75)
"""Those that are always reported."""
SMALL, LARGE = 0.005, 0.05
SIZES = (f"< {SMALL}", f"{SMALL} to {LARGE}", f">= {LARGE}")
"""Bins of the share of the image that a mask covers, as in MLLMs Know Where to Look (arXiv 2502.17422)."""
_ROUNDING = 1e-9


def size_bin(share: float) -> str:
    """The bin of `SIZES` for a mask that covers this share of the image."""
    return SIZES[int(share >= SMALL) + int(share >= LARGE)]


def threshold_name(threshold: float) -> str:
    """Name of the IoU of cells with at least this share of the largest attention."""
    return f"iou@{threshold:g}"


def scores(maps: Floats, share: Floats, coverage: Floats) -> dict[str, Floats]:
    """Every score of `SCORES`, by name.

    Args:
        maps: (..., rows, columns).
        share: (rows, columns), with something on the mask.
        coverage: (rows, columns).

    Returns:
        Arrays of the shape (...), each from the function of its name; lift, which is mass over area, is how many times
        as much lies on the mask as of a uniform map.
    """
    a, s, c = _on_image(maps, share, coverage)
    mass = mass_inside(a, s, c)
    return {
        "iou": area_matched_iou(a, s, c),
        "dice": soft_dice(a, s, c),
        "pointing": pointing_game(a, s, c),
        "mass": mass,
        "lift": mass * c.sum() / s.sum(),
        "auroc": auroc(a, s, c),
    }


def facts(maps: Floats, coverage: Floats) -> dict[str, Floats]:
    """Every fact of `FACTS`.

    Returns:
        Arrays of the shape (...). on_image: attention on the image, of all that the query gives to anything. padding:
        the part of its attention to the grid that lies on padding. entropy: of where on the image it lies, divided by
        that of an even spread, 0 (one cell) to 1 (even).
    """
    a, c = _flat(maps), coverage.ravel().astype(np.float64)
    total, on_image = a.sum(-1), a @ c
    p = _divide(a * c, on_image[..., None])
    even = c[c > 0] / c.sum()
    return {
        "on_image": on_image,
        "padding": _divide(a @ (1 - c), total),
        "entropy": _divide(_entropy(p), np.full(total.shape, _entropy(even))),
    }


def area_matched_iou(maps: Floats, share: Floats, coverage: Floats) -> Floats:
    """IoU of the mask with the cells of most attention, as many as cover the mask's area of the image.

    The last cell is taken in part, so that areas are equal; cells of equal attention are taken in equal parts, which is
    what points drawn at random from them cover on average. So no threshold is chosen, and a uniform map has exactly its
    chance value, p / (2 - p) for a mask on the share p of the image.
    """
    a, s, c = _on_image(maps, share, coverage)
    area = s.sum()
    inside = _within_area(a, s, c, area)
    return _defined(_divide(inside, 2 * area - inside), a, c)


def _within_area(a: Floats, s: Floats, c: Floats, area: float) -> Floats:
    """How much of the mask lies in the cells of most attention that cover so much of the image, ties in equal parts."""
    order = np.argsort(-a, axis=-1, kind="stable")
    reached = np.cumsum(c[order], axis=-1)
    last = (reached < area * (1 - _ROUNDING)).sum(-1, keepdims=True).clip(max=a.shape[-1] - 1)
    level = np.take_along_axis(np.take_along_axis(a, order, -1), last, -1)
    above, equal = a > level, a == level
    part = _divide(area - above @ c, equal @ c).clip(0, 1)
    return np.asarray(above @ s + part * (equal @ s))


def threshold_iou(maps: Floats, share: Floats, coverage: Floats, thresholds: Sequence[float]) -> Floats:
    """IoU, in areas of the image, of the mask with all cells of at least so many times the largest attention.

    Returns:
        (thresholds, ...).
    """
    a, s, c = _on_image(maps, share, coverage)
    levels = np.asarray(thresholds).reshape(-1, *[1] * a.ndim) * a.max(-1, keepdims=True)
    chosen = a >= levels
    inside = chosen @ s
    return _defined(_divide(inside, s.sum() + chosen @ c - inside), a, c)


def soft_dice(maps: Floats, share: Floats, coverage: Floats) -> Floats:
    """2 sum(p q) / (sum(p^2) + sum(q^2)) of two distributions over the image (V-Net's Dice, arXiv 1606.04797).

    p is the attention on the image, q the mask's area, each divided by its sum. Without that a softmax map, which sums
    to 1, could not reach a mask of many cells: 2 / (1 + A) at most for A cells.
    """
    a, s, c = _on_image(maps, share, coverage)
    p, q = _divide(a * c, (a @ c)[..., None]), s / s.sum()
    return _divide(2 * (p @ q), (p * p).sum(-1) + (q * q).sum())


def pointing_game(maps: Floats, share: Floats, coverage: Floats) -> Floats:
    """The chance that a point on the cell of most attention lies on the mask (Zhang et al. 2016, arXiv 1608.00507).

    The point is anywhere on the image's part of the cell, with several cells of most attention on any of them.
    """
    a, s, c = _on_image(maps, share, coverage)
    most = a == a.max(-1, keepdims=True)
    return _defined(_divide(most @ s, most @ c), a, c)


def mass_inside(maps: Floats, share: Floats, coverage: Floats) -> Floats:
    """Of the attention on the image, the part on the mask (the energy-based pointing game, arXiv 1910.01279)."""
    a, s, c = _on_image(maps, share, coverage)
    return _divide(a @ s, a @ c)


def auroc(maps: Floats, share: Floats, coverage: Floats) -> Floats:
    """The chance that a point of the mask has more attention than a point of the image beside it; ties count half.

    Every cell counts as positive by the area of the mask on it, and as negative by the rest of its image. For masks of
    whole cells it is the usual AUROC over patches.
    """
    a, s, c = _on_image(maps, share, coverage)
    order = np.argsort(a, axis=-1, kind="stable")
    ranked = np.take_along_axis(a, order, -1)
    positive, negative = s[order], (c - s).clip(min=0)[order]
    below = np.cumsum(negative, axis=-1) - negative
    # A run of equal attention shares the mean of what lies below its first and up to its last.
    changes = np.diff(ranked, axis=-1) > 0
    edge = np.ones((*a.shape[:-1], 1), np.bool_)
    first = np.maximum.accumulate(np.where(np.concatenate([edge, changes], -1), below, 0), axis=-1)
    upto = np.where(np.concatenate([changes, edge], -1), below + negative, np.inf)
    last = np.minimum.accumulate(upto[..., ::-1], axis=-1)[..., ::-1]
    pairs = positive.sum(-1) * negative.sum(-1)
    return _defined(_divide((positive * (first + last)).sum(-1) / 2, pairs), a, c)


def ceilings(share: Floats, coverage: Floats) -> dict[str, float]:
    """The most that each score can be for any map on this grid; `best_iou` for any choice of cells.

    The best order of cells is that of their image's part on the mask: it is a fractional knapsack for the area-matched
    IoU and for AUROC; for a free choice of cells I >= t U means a sum over cells that the order of s / c maximises.
    """
    _, s, c = _on_image(share, share, coverage)
    ideal = _divide(s, c)
    order = np.argsort(-ideal, kind="stable")
    inside, taken = np.cumsum(s[order]), np.cumsum(c[order])
    densest = float(ideal.max())
    return {
        "iou": float(area_matched_iou(ideal, s, c)),
        "dice": 1.0,
        "pointing": densest,
        "mass": densest,
        "lift": densest * float(c.sum() / s.sum()),
        "auroc": float(auroc(ideal, s, c)),
        "best_iou": float((inside / (s.sum() + taken - inside)).max()),
    }


def all_scores(
    maps: Floats, share: Floats, coverage: Floats, thresholds: Sequence[float] = THRESHOLDS
) -> Mapping[str, Floats]:
    """`scores`, and the IoU at each threshold."""
    above = threshold_iou(maps, share, coverage, thresholds)
    return {
        **scores(maps, share, coverage),
        **{threshold_name(t): iou for t, iou in zip(thresholds, above, strict=True)},
    }


def _flat(maps: Floats) -> Floats:
    values = np.asarray(maps, np.float64)
    return values.reshape(*values.shape[:-2], -1)


def _on_image(maps: Floats, share: Floats, coverage: Floats) -> tuple[Floats, Floats, Floats]:
    """Maps (..., cells), share and coverage (cells,) of the cells that show any image; flat ones stay as they are."""
    c = np.asarray(coverage, np.float64).ravel()
    kept = c > 0
    a = np.asarray(maps, np.float64) if np.ndim(coverage) == 1 else _flat(maps)
    return a[..., kept], np.asarray(share, np.float64).ravel()[kept], c[kept]


def _defined(values: Floats, a: Floats, c: Floats) -> Floats:
    """The values, NaN where no attention lies on the image."""
    return np.where(a @ c > 0, values, np.nan)


def _entropy(p: Floats) -> Floats:
    from scipy.special import entr

    return np.asarray(entr(p).sum(-1))


def _divide(top: Floats, bottom: Floats) -> Floats:
    """Quotient, NaN where the bottom is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(top, np.float64), np.asarray(bottom, np.float64))
    found: Floats = np.full(bottom.shape, np.nan)
    np.divide(top, bottom, out=found, where=bottom != 0)
    return found
