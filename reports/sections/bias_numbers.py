"""Lean to yes and the reliability curve of P(yes), from the answers of a POPE run. Pure, as scoring is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from benchmarks.controls import IMAGE
from benchmarks.pope.protocols import PROTOCOLS
from benchmarks.pope.rows import FLOOR, MEAN, POOLED, Answered
from benchmarks.pope.score import effects_of, probability_yes
from benchmarks.reading import Reading
from benchmarks.statistics.calibration import ReliabilityBins, reliability_bins
from benchmarks.statistics.clusters import Interval, resampling_weights, score_interval, sum_by_cluster
from benchmarks.statistics.scores import FIELDS, Floats, divide
from reports.document import Cell, number
from reports.held import DRAWS, SEED
from reports.sections.side_by_side import Asked, Row
from reports.verdicts import side

BINS = 15
"""As many as the calibration error of the scores has."""


@dataclass(frozen=True)
class Lean:
    """One split of a run."""

    labels: float
    """Share of the answered questions whose label is yes."""
    lean: Cell
    """Yes less yes labels, of the answers that were read as either, points: (false yes - missed) / read."""
    false_yes: Cell
    missed: Cell
    told: str
    values: tuple[Interval, Interval, Interval]
    """Lean, false yes, missed; as fractions."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """The curve of a run over all its splits."""

    bins: ReliabilityBins
    observed: Sequence[Interval]
    """Share of the label yes in each bin."""
    splits: Sequence[str]


@lru_cache(maxsize=4)
def _weights(images: int, draws: int, seed: int) -> Floats:
    """As scoring draws them."""
    return resampling_weights(images, draws, seed)


@dataclass(frozen=True, eq=False)
class _Arrays:
    """The answered questions of a set, about the image."""

    splits: Any
    gold: Any
    clusters: Any
    weights: Floats
    texts: Sequence[str]
    answers: Sequence[Any]


def _arrays(one: Asked) -> _Arrays | None:
    held = one.run.held
    found = next((a for a in (held.pope if held else ()) if a.questions.data_version == one.version), None)
    if found is None:
        return None
    return _of(found, (one.run.scores or {}).get("settings", {}))


def _of(found: Answered, settings: Row) -> _Arrays:
    questions = found.questions.questions
    index = {cluster: k for k, cluster in enumerate(sorted({q.cluster for q in questions}))}
    given = found.answers.get(IMAGE, {})
    pairs = [(q, a) for q in questions if (a := given.get((q.split, q.question_id))) is not None and a.text is not None]
    return _Arrays(
        np.array([q.split for q, _ in pairs], dtype=object),
        np.array([q.label for q, _ in pairs], dtype=bool),
        np.array([index[q.cluster] for q, _ in pairs], dtype=np.int64),
        _weights(len(index), settings.get("draws", DRAWS), settings.get("seed", SEED)),
        [a.text or "" for _, a in pairs],
        [a for _, a in pairs],
    )


def leans(one: Asked) -> dict[str, Lean]:
    """Split -> lean under the leading protocol; `pooled` too. Without limits where the answers are not there."""
    rows = {row["split"]: row for row in one.of() if row["split"] != MEAN}
    arrays = _arrays(one)
    if arrays is None or one.lead not in PROTOCOLS:
        return {split: _without_limits(one, row) for split, row in rows.items()}
    protocol = PROTOCOLS[one.lead]
    known: dict[tuple[str, bool], Reading] = {}
    for pair in zip(arrays.texts, arrays.gold.tolist(), strict=True):
        if pair not in known:
            known[pair] = protocol.read(*pair)
    labels = [known[pair].label for pair in zip(arrays.texts, arrays.gold.tolist(), strict=True)]
    effects = effects_of(labels, arrays.gold.tolist(), protocol.count)
    found = {}
    for split in rows:
        kept = np.ones(len(labels), bool) if split == POOLED else arrays.splits == split
        found[split] = _lean(arrays, effects, kept)
    return found


def _lean(arrays: _Arrays, effects: Floats, kept: Any) -> Lean:
    field = {name: effects[kept, k] for k, name in enumerate(FIELDS)}
    gold = arrays.gold[kept].astype(np.float64)
    images = arrays.clusters[kept]
    # Not the yes ratio less the labels: an answer that cannot be read is no lean to no.
    read = field["tp"] + field["fp"] + field["tn"] + field["fn"]
    lean = _share(arrays, images, field["fp"] - field["fn"], read, lowest=-1.0)
    false_yes = _share(arrays, images, field["fp"], 1 - gold)
    missed = _share(arrays, images, field["fn"], gold)
    return _made(float(divide(gold.sum(), len(gold))), lean, false_yes, missed)


def _made(labels: float, lean: Interval, false_yes: Interval, missed: Interval) -> Lean:
    def cell(one: Interval, unit: Any = "percent") -> Cell:
        return number(one.value, one.low, one.high, unit)

    told = side(lean.value, lean.low, lean.high, "leans to yes", "leans to no", "neither is established")
    return Lean(labels, cell(lean, "points"), cell(false_yes), cell(missed), told, (lean, false_yes, missed))


def _share(arrays: _Arrays, images: Any, top: Any, bottom: Any, lowest: float = 0.0) -> Interval:
    """A ratio of sums with its interval over images."""
    size = arrays.weights.shape[1]
    tops, bottoms = sum_by_cluster(top, images, size), sum_by_cluster(bottom, images, size)
    value = float(divide(tops.sum(), bottoms.sum()))
    draws = divide(arrays.weights @ tops, arrays.weights @ bottoms)
    return score_interval(value, draws, int(np.count_nonzero(bottoms)), lowest=lowest)


def _without_limits(one: Asked, row: Row) -> Lean:
    """From the scores alone: the floor that always says yes counts the labels of the answered questions."""
    floor = next((f for f in one.of(f"{FLOOR}always-yes") if f["split"] == row["split"]), None)
    yes, no = (np.nan, np.nan) if floor is None else (floor["tp"], floor["fp"])
    labels = float(divide(yes, yes + no))
    read = sum(row[count] for count in ("tp", "fp", "tn", "fn"))
    values = (float(divide(row["fp"] - row["fn"], read)), float(divide(row["fp"], no)), float(divide(row["fn"], yes)))
    lean, false_yes, missed = (Interval(value, float("nan"), float("nan")) for value in values)
    return _made(labels, lean, false_yes, missed)


def reliability(one: Asked) -> Reliability | None:
    """The curve over all splits; None where not every answer has both log-probabilities, or answers are not there."""
    arrays = _arrays(one)
    probability = None if arrays is None else probability_yes(arrays.answers)
    if arrays is None or probability is None:
        return None
    bins = reliability_bins(probability, arrays.gold, BINS)
    place = np.searchsorted(bins.edges[1:-1], probability, side="right")
    observed = [
        _share(arrays, arrays.clusters[place == k], arrays.gold[place == k], np.ones((place == k).sum()))
        for k in range(BINS)
    ]
    return Reliability(bins, observed, [str(s) for s in dict.fromkeys(arrays.splits)])
