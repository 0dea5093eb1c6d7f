"""Attention on padding over many questions: share, its uniform null, their ratio, with intervals over images. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.statistics.clusters import Interval, score_interval
from benchmarks.statistics.scores import divide

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
ROUNDED = 1 + 1e-5
"""A row of attention is summed and recorded in float32: by so much it may be more than its limit."""


@dataclass(frozen=True)
class Attended:
    """One layer, or the mean over layers, of one query."""

    n: int
    """Questions (each asked once, whatever the splits)."""
    images: int
    without_query: int
    """Questions in which no token holds the phrase."""
    without_attention: int
    """Questions whose query gives the image no attention at all: its share on padding is undefined."""
    cells: float
    """Which share of the cells is padding: what a uniform map has. The null of `share`; mean over the questions."""
    share: Interval
    """Of the attention to the image's cells: which share lies on padding; undefined (NaN) where there is none."""
    ratio: Interval
    """Mean share over mean `cells`: 1 is uniform, 0 none; undefined (NaN) where there is no padding."""
    empty_cells: float
    """The same for cells that hold no image at all."""
    empty_ratio: Interval
    visual: Interval
    """Attention to all cells, 0 to 1."""


def attended(rows: pd.DataFrame, query: str, weights: Floats) -> dict[int | None, Attended]:
    """By layer, None for the mean over layers.

    Args:
        rows: of one condition, one for each question.
        query: `object` or `last`.
        weights: (draws, images).
    """
    if not len(rows):
        return {}
    has = rows[f"{query}_visual"].notna()
    kept = rows[has]
    if not len(kept):
        return {}
    layers = [int(v) for v in kept["layers"].iloc[0]]
    share, empty, visual = _shares(kept, query)
    clusters = kept["cluster"].to_numpy(np.int64)
    null, empty_null = (kept[name].to_numpy(np.float64) for name in ("padding_cells", "empty_cells"))
    found: dict[int | None, Attended] = {}
    for column, layer in enumerate([*layers, None]):
        fine = ~np.isnan(share[:, column])
        at = clusters[fine]

        def per_image(values: Floats, at: Any = at) -> Floats:
            return np.bincount(at, weights=values, minlength=weights.shape[1]).astype(np.float64)

        ones = np.ones(int(fine.sum()))
        top, bottom, count = per_image(share[fine, column]), per_image(null[fine]), per_image(ones)
        empty_top, empty_bottom = per_image(empty[fine, column]), per_image(empty_null[fine])
        found[layer] = Attended(
            n=int(fine.sum()),
            images=int(np.count_nonzero(count)),
            without_query=int((~has).sum()),
            without_attention=int((~fine).sum()),
            cells=float(divide(bottom.sum(), count.sum())),
            share=_quotient(top, count if bottom.any() else np.zeros_like(count), weights, 1.0),
            ratio=_quotient(top, bottom, weights, float(divide(count.sum(), bottom.sum()))),
            empty_cells=float(divide(empty_bottom.sum(), count.sum())),
            empty_ratio=_quotient(empty_top, empty_bottom, weights, float(divide(count.sum(), empty_bottom.sum()))),
            visual=_quotient(per_image(visual[fine, column]), count, weights, 1.0),
        )
    return found


def ratio_difference(
    rows: pd.DataFrame, others: pd.DataFrame, query: str, identity: list[str], weights: Floats
) -> tuple[Interval, int, int] | None:
    """The ratio (mean over layers) of some rows minus that of others, on questions that both have.

    Returns:
        The difference, questions, images; None where no question is in both, or neither has padding.
    """
    sides = []
    for side in (rows, others):
        kept = side[side[f"{query}_visual"].notna()]
        if not len(kept):
            return None
        measured = kept[[*identity, "cluster", "padding_cells"]].copy()
        measured["share"] = _shares(kept, query)[0][:, -1]
        sides.append(measured[measured["share"].notna()])
    both = sides[0].merge(sides[1], on=[*identity, "cluster"], suffixes=("", "_other"))
    clusters = both["cluster"].to_numpy(np.int64)
    value, drawn, highest = 0.0, np.zeros(len(weights)), 0.0
    for suffix, sign in (("", 1.0), ("_other", -1.0)):
        top, bottom = (
            np.bincount(clusters, weights=both[f"{name}{suffix}"], minlength=weights.shape[1])
            for name in ("share", "padding_cells")
        )
        value += sign * float(divide(top.sum(), bottom.sum()))
        drawn += sign * divide(weights @ top, weights @ bottom)
        highest = max(highest, ROUNDED * float(divide(len(both), bottom.sum())))
    if np.isnan(value):
        return None
    images = int(both["cluster"].nunique())
    return score_interval(value, drawn, images, lowest=-highest, highest=highest), len(both), images


def _shares(rows: pd.DataFrame, query: str) -> tuple[Floats, Floats, Floats]:
    """(questions, layers and their mean): share on padding, on empty cells, and attention to all cells.

    NaN where the image gets no attention; a mean over layers of which one is undefined is undefined.
    """
    padding, empty, visual = (
        np.stack([np.asarray(v, np.float64) for v in rows[f"{query}_{name}"]])
        for name in ("padding", "empty", "visual")
    )
    parts = [divide(padding, visual), divide(empty, visual), visual]
    padded, empties, looks = (np.concatenate([part, part.mean(1, keepdims=True)], axis=1) for part in parts)
    return padded, empties, looks


def _quotient(top: Floats, bottom: Floats, weights: Floats, limit: float) -> Interval:
    """Sum over sum, both by image, from 0 to the limit."""
    value = float(divide(top.sum(), bottom.sum()))
    value = min(value, limit) if value <= limit * ROUNDED else value
    images = int(np.count_nonzero(bottom))
    return score_interval(value, divide(weights @ top, weights @ bottom), images, highest=limit)
