"""Where a model looks for objects that are there: attention against their regions, cell by cell.

Cross-attention: the softmax over the image's cells, mean over heads and all its layers. Where visual tokens stand in
the text sequence: what self-attention gives to them, mean over heads and all layers; most of it lies on text, and
`on_image` says how much does not. Both are asked "Is there a dog in the image?", and looked at twice: as the object's
word is read, and at the last token before the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agevlm.scenes.language import ask_existence
from agevlm.vlm.contract import Ask, Probe, ProbeSpec, Vlm
from benchmarks.statistics.clusters import Interval
from benchmarks.statistics.scores import Floats
from reports.scenes.asking import chunks
from reports.scenes.intervals import share
from train.scenes.store import SceneStore

TUNING = 200
"""Validation scenes, at most, on which thresholds are chosen."""
THRESHOLDS = tuple(k / 20 for k in range(1, 20))


@dataclass(frozen=True)
class LookRow:
    """Where a model looked for one object that is there."""

    image: int
    category: str
    word_iou: float
    """Of the object word's attention, above the threshold that was chosen on other scenes, with the region's cells."""
    word_mass: float
    """Of the attention to the image, the part on cells that the region touches."""
    word_hit: bool
    """The cell of most attention is one of them."""
    word_on_image: float
    """Attention to the image; the rest is on text, or on visual tokens outside the grid."""
    answer_iou: float
    """The same of the position that predicts the answer."""
    answer_mass: float
    answer_hit: bool
    answer_on_image: float
    ceiling: float
    """The IoU of the best choice of cells there is."""
    even: float
    """The mass of attention spread evenly over the image."""


@dataclass(frozen=True, eq=False)
class Looked:
    """One object, and the attention for it."""

    image: int
    category: str
    word: Floats
    """(rows, columns)."""
    answer: Floats
    """(rows, columns)."""
    region: Floats
    """(rows, columns): the share of each cell that the object covers, 0 to 1."""
    shown: Floats
    """(rows, columns): the share of each cell that is image and not padding."""


@dataclass(frozen=True)
class Looks:
    """All objects of some scenes."""

    rows: list[LookRow]
    word_threshold: float
    answer_threshold: float
    layers: tuple[int, ...]
    tuning_scenes: int


def attention_maps(
    vlm: Vlm, store: SceneStore, count: int, layers: tuple[int, ...] | None = None
) -> tuple[list[Looked], tuple[int, ...]]:
    """Attention for every object of the first scenes, and the layers whose mean it is."""
    looked: list[Looked] = []
    used: tuple[int, ...] = ()
    for images, encoded in chunks(vlm, store, count):
        held = [(i, ask_existence(store.facts[i], name), name) for i in images for name in store.facts[i].present]
        asks = [Ask(asked.question.text, i - images.start) for i, asked, _ in held]
        probes = vlm.probe(encoded, asks, [()] * len(asks), ProbeSpec(layers))
        for (i, asked, name), probe in zip(held, probes, strict=True):
            mean = probe.attention.astype(np.float64).mean(0)
            region = probe.geometry.mask_to_grid(store.mask(i, store.facts[i].having(name)))
            word = mean[last_token(probe, asked.question.mentions[0].end)]
            looked.append(Looked(i, name, word, mean[len(probe.tokens) - 1], region, probe.geometry.coverage()))
            used = probe.layers
    return looked, used


def last_token(probe: Probe, end: int) -> int:
    """The token that holds the character before `end` of the prompt: the one that has read the whole word."""
    return next(k for k, t in enumerate(probe.tokens) if t.part == "prompt" and t.start < end <= t.end)


def iou(attention: Floats, region: Floats, threshold: float) -> float:
    """Soft IoU on the token grid: cells of at least `threshold` times the largest attention, against coverage."""
    chosen = (attention >= threshold * attention.max()).astype(np.float64)
    return float(np.minimum(chosen, region).sum() / np.maximum(chosen, region).sum())


def iou_ceiling(region: Floats) -> float:
    """The best that `iou` can be for any attention.

    Whole cells are compared with coverage, so it is below 1. Taking the k best covered cells is best for some k.
    """
    covered = np.sort(region.ravel())[::-1]
    inside = np.cumsum(covered)
    return float((inside / (np.arange(1, covered.size + 1) + inside[-1] - inside)).max())


def best_threshold(pairs: Sequence[tuple[Floats, Floats]]) -> float:
    """The share of the largest attention above which cells count as looked at, best for the mean IoU of these."""
    return max(THRESHOLDS, key=lambda t: sum(iou(attention, region, t) for attention, region in pairs))


def look_row(x: Looked, word_threshold: float, answer_threshold: float) -> LookRow:
    """All measures of one object."""
    inside = x.region > 0

    def measured(attention: Floats, threshold: float) -> tuple[float, float, bool, float]:
        on_image = float(attention.sum())
        mass = float(attention[inside].sum()) / on_image if on_image > 0 else 0.0
        hit = bool(inside.flat[int(attention.argmax())])
        return iou(attention, x.region, threshold), mass, hit, on_image

    even = float(x.shown[inside].sum() / x.shown.sum())
    word, answer = measured(x.word, word_threshold), measured(x.answer, answer_threshold)
    return LookRow(x.image, x.category, *word, *answer, iou_ceiling(x.region), even)


def look_all(
    vlm: Vlm, store: SceneStore, count: int, chosen_on: SceneStore, layers: tuple[int, ...] | None = None
) -> Looks:
    """Where the model looks, for every object that is there; thresholds are chosen on the scenes of `chosen_on`."""
    scenes = min(count, TUNING, len(chosen_on))
    tuning, _ = attention_maps(vlm, chosen_on, scenes, layers)
    word = best_threshold([(x.word, x.region) for x in tuning])
    answer = best_threshold([(x.answer, x.region) for x in tuning])
    found, used = attention_maps(vlm, store, count, layers)
    return Looks([look_row(x, word, answer) for x in found], word, answer, used, scenes)


MEASURES = tuple(name for name in LookRow.__dataclass_fields__ if name not in ("image", "category"))


def look_scores(rows: Sequence[LookRow], weights: Floats) -> dict[str, Interval]:
    """Means over all objects, with intervals over images; `weights` (draws, images)."""
    images = [r.image for r in rows]
    # Sums of softmax weights can exceed 1 by rounding.
    return {name: share(np.clip([float(getattr(r, name)) for r in rows], 0, 1), images, weights) for name in MEASURES}
