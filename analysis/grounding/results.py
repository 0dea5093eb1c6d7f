"""What looks come to: means with intervals, beside their nulls, by query, size, group and layer; as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.grounding.measures import FACTS, FIXED, SCORES, SIZES, THRESHOLDS, size_bin, threshold_name
from analysis.grounding.nulls import NULLS
from analysis.grounding.records import HEAD_SCORES, HEADLINE, KINDS, MEAN, Said
from analysis.grounding.scoring import Scored
from analysis.grounding.statistics import Floats, Images, halves
from benchmarks.statistics.clusters import Interval

ABSTRACT = frozenset({"attribute", "relation", "negation"})
"""Groups whose words name no region; they stay out of the headline."""
SHOWN = (*SCORES, *(threshold_name(t) for t in FIXED))
"""Scores with intervals; the other thresholds are there to choose from."""
Chosen = NDArray[np.bool_]
Cell = dict[str, Any]


class Results:
    """What one model's looks come to."""

    def __init__(self, scored: Scored, images: Images, seed: int) -> None:
        self.scored, self.images = scored, images
        self.names = np.asarray(scored.images)
        self.about = np.asarray(scored.about)
        concrete = ~np.isin(self.about, list(ABSTRACT))
        self.headline: Chosen = concrete if concrete.any() else np.ones(len(scored.ids), np.bool_)
        tuning, tested = halves(scored.images, seed)
        self.tuning = self.headline & np.isin(self.names, list(tuning))
        self.tested = self.headline & np.isin(self.names, list(tested))

    def cell(self, chosen: Chosen, score: str, kind: str = HEADLINE, layer: str = MEAN) -> Cell:
        """One score of some looks, beside its nulls and its ceiling."""
        at = (chosen, KINDS.index(kind), self.scored.layers.index(layer))
        values, names = self.scored.scores[score][at], self.names[chosen]
        defined = ~np.isnan(values)
        value = self.images.mean(values, names, highest=np.inf if score == "lift" else 1.0)
        ceiling = self.scored.ceilings["best_iou" if "@" in score else score][chosen]
        nulls = {name: self.scored.nulls[name][score][at] for name in NULLS}
        means = {name: _mean(held[defined]) for name, held in nulls.items()}
        known = [name for name in NULLS if means[name] is not None]
        strongest = max(known, key=lambda name: means[name] or 0.0) if known else None
        return {
            **plain(value),
            "n": int(defined.sum()),
            "images": len(set(names[defined])),
            "ceiling": _mean(ceiling[defined]),
            "nulls": means,
            "strongest": strongest,
            "corrected": {
                name: plain(self.images.corrected(values, nulls[name], ceiling, list(names))) for name in known
            },
        }

    def cells(self, chosen: Chosen, kind: str = HEADLINE, layer: str = MEAN, scores: Sequence[str] = SHOWN) -> Cell:
        """Some scores of some looks."""
        return {score: self.cell(chosen, score, kind, layer) for score in scores}

    def fact(self, chosen: Chosen, name: str, kind: str = HEADLINE, layer: str = MEAN) -> Cell:
        """One fact of some looks' maps."""
        values = self.scored.facts[name][chosen, KINDS.index(kind), self.scored.layers.index(layer)]
        highest = np.inf if name == "sink_cells" else 1.0
        return {**plain(self.images.mean(np.clip(values, 0, highest), self.names[chosen], highest=highest))}

    def summary(self) -> dict[str, Any]:
        """Everything, as plain values."""
        scored = self.scored
        sizes = np.asarray([size_bin(share) for share in scored.image_share])
        bins = {name: self.headline & (sizes == name) for name in SIZES}
        groups = {name: self.about == name for name in sorted(set(scored.about))}
        return {
            "looks": len(scored.ids),
            "images": len(set(scored.images)),
            "headline_looks": int(self.headline.sum()),
            "layers": list(scored.layers),
            "grids": {f"{r} x {c}": scored.grids.count((r, c)) for r, c in sorted(set(scored.grids))},
            "best_iou_of_the_grid": _mean(scored.ceilings["best_iou"][self.headline]),
            "mask_share": _mean(scored.image_share[self.headline]),
            "headline": self.cells(self.headline),
            "facts": {name: self.fact(self.headline, name) for name in (*FACTS, "elsewhere", "sinks", "sink_cells")},
            "queries": {kind: self._query(kind) for kind in KINDS},
            "sizes": {name: self.cells(chosen) for name, chosen in bins.items() if chosen.any()},
            "groups": {name: self.cells(chosen) for name, chosen in groups.items()},
            "behind_objects": self._behind_objects(groups),
            "by_layer": {
                layer: {**self.cells(self.headline, layer=layer), "facts": self._facts(layer)}
                for layer in scored.layers
            },
            "chosen": self._chosen(),
        }

    def _behind_objects(self, groups: Mapping[str, Chosen]) -> Cell:
        """How far words that name no region stay behind words of objects: corrected IoU against other images' maps."""
        if "object" not in groups:
            return {}
        at = KINDS.index(HEADLINE), self.scored.layers.index(MEAN)
        values, null = (held["iou"][:, *at] for held in (self.scored.scores, self.scored.nulls["others"]))
        parts = {
            name: (values[chosen], null[chosen], self.scored.ceilings["iou"][chosen], self.names[chosen])
            for name, chosen in groups.items()
        }
        return {
            name: plain(self.images.behind(parts["object"], part)) for name, part in parts.items() if name in ABSTRACT
        }

    def _facts(self, layer: str) -> Cell:
        return {
            name: self.fact(self.headline, name, layer=layer) for name in ("on_image", "padding", "entropy", "sinks")
        }

    def _query(self, kind: str) -> Cell:
        return {**self.cells(self.headline, kind), "facts": {"on_image": self.fact(self.headline, "on_image", kind)}}

    def _chosen(self) -> dict[str, Any]:
        """The layer, threshold and head that look best on one half of the images, as they do on the other."""
        scored, kind = self.scored, KINDS.index(HEADLINE)
        if not self.tuning.any() or not self.tested.any():
            return {"left_out": "too few images to choose on some and to report on others"}
        layers = scored.layers[1:]
        by_layer = _means(scored.scores["iou"][self.tuning, kind, 1:])
        best = layers[int(np.nanargmax(by_layer))] if not np.isnan(by_layer).all() else MEAN
        at = [_means(scored.scores[threshold_name(t)][self.tuning, kind, 0]) for t in THRESHOLDS]
        threshold = THRESHOLDS[int(np.nanargmax(at))] if not np.isnan(at).all() else THRESHOLDS[9]
        return {
            "tuning_images": len(set(self.names[self.tuning])),
            "tested_images": len(set(self.names[self.tested])),
            "layer": best,
            "scores": self.cells(self.tested, layer=best),
            "mean_layer": self.cells(self.tested),
            "threshold": threshold,
            "threshold_iou": self.cell(self.tested, threshold_name(threshold)),
            "head": self._head(kind),
        }

    def _head(self, kind: int) -> dict[str, Any] | None:
        if self.scored.heads is None:
            return None
        held = self.scored.heads[:, kind]
        by_head = _means(held[self.tuning][..., HEAD_SCORES.index("iou")])
        if np.isnan(by_head).all():
            return None
        layer, head = np.unravel_index(int(np.nanargmax(by_head)), by_head.shape)
        own = held[self.tested, layer, head]
        names = list(self.names[self.tested])
        found = {score: plain(self.images.mean(own[:, k], names)) for k, score in enumerate(HEAD_SCORES)}
        return {"layer": self.scored.layers[1 + int(layer)], "head": int(head), "of": list(by_head.shape), **found}


def answers(said: Sequence[Said], images: Images) -> dict[str, Any]:
    """Right answers by group, with the share of yes; what is neither yes nor no is wrong and counted."""
    found = {}
    for group in sorted({one.about for one in said}):
        own = [one for one in said if one.about == group and one.right is not None]
        if not own:
            continue
        names = [one.image for one in own]
        right = np.asarray([float(one.said == one.right) for one in own])
        yes = np.asarray([float(one.said == "yes") for one in own])
        gold = np.asarray([one.right == "yes" for one in own])
        found[group] = {
            "questions": len(own),
            "accuracy": plain(images.mean(right, names)),
            "yes_ratio": plain(images.mean(yes, names)),
            "right_is_yes": float(gold.mean()),
            "accuracy_where_yes": plain(images.mean(np.where(gold, right, np.nan), names)),
            "accuracy_where_no": plain(images.mean(np.where(gold, np.nan, right), names)),
            "neither": sum(one.said not in ("yes", "no") for one in own),
        }
    return found


def differences(first: Results, second: Results, scores: Sequence[str] = SHOWN) -> dict[str, Any]:
    """First minus second, score by score, on the regions that both looked for; paired."""
    places = {name: k for k, name in enumerate(second.scored.ids) if second.headline[k]}
    pairs = [(k, places[name]) for k, name in enumerate(first.scored.ids) if first.headline[k] and name in places]
    kind = KINDS.index(HEADLINE)
    mine, theirs = np.asarray(pairs, np.int64).reshape(-1, 2).T
    found: dict[str, Any] = {"n": len(pairs)}
    for score in scores if pairs else ():
        gap = first.scored.scores[score][mine, kind, 0] - second.scored.scores[score][theirs, kind, 0]
        limit = np.inf if score == "lift" else 1.0
        found[score] = plain(first.images.mean(gap, list(first.names[mine]), -limit, limit))
    return found


def plain(interval: Interval) -> dict[str, float | None]:
    """Value and limits; None for what is not defined, as JSON has no NaN."""
    return {k: _finite(v) for k, v in (("value", interval.value), ("low", interval.low), ("high", interval.high))}


def _mean(values: Floats) -> float | None:
    return _finite(float(np.nanmean(values))) if np.isfinite(values).any() else None


def _means(values: Floats) -> Floats:
    """Mean over the first axis of what is defined."""
    count = (~np.isnan(values)).sum(0)
    return np.asarray(np.divide(np.nansum(values, 0), count, out=np.full(values.shape[1:], np.nan), where=count > 0))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def unread(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Why -> ids of the regions without maps."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["trouble"] is not None:
            found.setdefault(row["trouble"], []).append(row["id"])
    return found
