"""Scores of every look and of its nulls: pure functions of the records, image by image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agevlm.data.masks import Mask, rle_mask
from agevlm.data.noise import resize_mask
from analysis.grounding.measures import SCORES, THRESHOLDS, all_scores, ceilings, facts, threshold_name
from analysis.grounding.nulls import SINK_IMAGES, OtherMaps, centre_prior, donors, mean_map, sinks
from analysis.grounding.records import Look

Floats = NDArray[np.floating]
NAMES = (*SCORES, *(threshold_name(t) for t in THRESHOLDS))
"""All scores."""
ByImage = Callable[[], Iterable[tuple[str, Sequence[Look]]]]
"""Gives all looks anew, image by image."""
Distort = Callable[[Look, Mask | None], Mask | None]
"""The mask to use in the place of a look's own, given the one that another image lends it; None leaves the look out."""


@dataclass(frozen=True, eq=False)
class Scored:
    """All looks of one model in numbers; what is not defined is NaN."""

    ids: tuple[str, ...]
    images: tuple[str, ...]
    """Of each look."""
    about: tuple[str, ...]
    image_share: Floats
    """(looks,): of the image, what the mask covers."""
    layers: tuple[str, ...]
    """mean, then the layers that were kept."""
    scores: Mapping[str, Floats]
    """By name of `NAMES`, (looks, KINDS, layers)."""
    facts: Mapping[str, Floats]
    """Likewise: on_image, padding, entropy; elsewhere: on visual tokens without a place; sinks: the share of the
    attention to the grid that lies on sinks; sink_cells: how many cells are such."""
    ceilings: Mapping[str, Floats]
    """By name (looks,); `best_iou` besides."""
    nulls: Mapping[str, Mapping[str, Floats]]
    """By null and name, (looks, KINDS, layers); those that know no layer are the same for all."""
    heads: Floats | None
    """(looks, KINDS, layers without the mean, heads, HEAD_SCORES), where heads were recorded."""
    grids: tuple[tuple[int, int], ...]
    """Rows and columns of each look's grid."""


@dataclass(frozen=True)
class _Lent:
    """A look's mask, as others may borrow it."""

    image: str
    about: str
    counts: bytes
    size: tuple[int, int]

    def carried(self, size: tuple[int, int]) -> Mask:
        """At the same relative place of another image."""
        return resize_mask(rle_mask(self.counts, self.size), *size)


def score_all(
    looks: ByImage, *, seed: int, remove_sinks: bool = False, distort: Distort | None = None
) -> Scored | None:
    """Score every look against its mask, and every null.

    Args:
        looks: the records.
        seed: of which image's masks take the place of which.
        remove_sinks: set cells that are looked at in other images whatever they show to 0, in maps and in `others`.
        distort: other masks than the looks' own.

    Returns:
        None where there is no look at all.
    """
    lent, others = [], OtherMaps()
    for _, held in looks():
        lent += [_Lent(look.image, look.about, look.counts, look.size) for look in held]
        others.add(mean_map([look.maps for look in held]))
    donor = donors([one.image for one in lent], [one.about for one in lent], seed)
    collected = _Collected()
    place = 0
    for _, held in looks():
        elsewhere = others.without(mean_map([look.maps for look in held]))
        for look in held:
            source = donor[place]
            borrowed = None if source is None else lent[source].carried(look.size)
            mask = look.mask if distort is None else distort(look, borrowed)
            if mask is not None and mask.any():
                flagged = sinks(elsewhere, look.geometry.coverage()) if others.images > SINK_IMAGES else None
                collected.add(look, mask, borrowed, elsewhere, flagged, remove_sinks)
            place += 1
    return collected.done()


def _sink_facts(maps: Floats, flagged: NDArray[np.bool_] | None) -> dict[str, Floats]:
    """NaN where too few images tell what a sink is."""
    if flagged is None:
        return dict.fromkeys(("sinks", "sink_cells"), np.full(maps.shape[:2], np.nan))
    total = maps.sum((-2, -1))
    on_them = np.divide((maps * flagged).sum((-2, -1)), total, out=np.full(total.shape, np.nan), where=total > 0)
    return {"sinks": on_them, "sink_cells": flagged.sum((-2, -1)).astype(np.float64)}


@dataclass
class _Collected:
    """Gathers what `Scored` holds, look by look."""

    looks: list[tuple[str, str, str, float, tuple[int, int]]] = field(default_factory=list)
    layers: tuple[str, ...] = ()
    values: dict[tuple[str, str], list[Floats]] = field(default_factory=dict)
    heads: list[Floats | None] = field(default_factory=list)

    def add(
        self,
        look: Look,
        mask: Mask,
        borrowed: Mask | None,
        others: Floats,
        flagged: NDArray[np.bool_] | None,
        remove_sinks: bool,
    ) -> None:
        """Score one look; nothing of a mask may be seen, which is left out, too."""
        coverage, share = look.geometry.coverage(), look.geometry.mask_to_grid(mask)
        if not share.any():
            return
        maps = look.maps
        found = {**facts(maps, coverage), "elsewhere": look.elsewhere, **_sink_facts(maps, flagged)}
        if remove_sinks and flagged is not None:
            maps, others = np.where(flagged, 0, maps), np.where(flagged, 0, others)
        size = (*maps.shape[:2],)
        self._note("score", all_scores(maps, share, coverage), size)
        self._note("fact", found, size)
        self._note("ceiling", {k: np.asarray(v) for k, v in ceilings(share, coverage).items()}, ())
        for name, null in (("uniform", np.ones(coverage.shape)), ("centre", centre_prior(look.geometry))):
            self._note(name, all_scores(null, share, coverage), size)
        self._note("others", all_scores(others, share, coverage), size)
        lent = None if borrowed is None else look.geometry.mask_to_grid(borrowed)
        if lent is None or not lent.any():
            self._note("swapped", dict.fromkeys(NAMES, np.asarray(np.nan)), size)
        else:
            self._note("swapped", all_scores(maps, lent, coverage), size)
        self.looks.append(
            (look.id, look.image, look.about, float(mask.mean()), (look.geometry.rows, look.geometry.columns))
        )
        self.layers = look.layers
        self.heads.append(look.heads)

    def _note(self, what: str, values: Mapping[str, Floats], size: tuple[int, ...]) -> None:
        for name, value in values.items():
            held = np.asarray(value, np.float32)
            held = held if held.shape == size else np.broadcast_to(held, size)
            self.values.setdefault((what, name), []).append(held)

    def done(self) -> Scored | None:
        """All of it."""
        if not self.looks:
            return None

        def of(what: str) -> dict[str, Floats]:
            return {name: np.stack(held) for (kind, name), held in self.values.items() if kind == what}

        ids, images, about, shares, grids = zip(*self.looks, strict=True)
        heads = None if any(held is None for held in self.heads) else np.stack([h for h in self.heads if h is not None])
        return Scored(
            ids=ids,
            images=images,
            about=about,
            image_share=np.asarray(shares),
            layers=self.layers,
            scores=of("score"),
            facts=of("fact"),
            ceilings=of("ceiling"),
            nulls={name: of(name) for name in ("uniform", "centre", "others", "swapped")},
            heads=heads,
            grids=grids,
        )
