"""From records to scores: a pure function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.linkage.effects import Causal, Mean, causal_scores, numbers
from analysis.linkage.frame import frame, layer_values
from analysis.linkage.logistic import Added, Fitted, added, fit
from analysis.linkage.ranks import Ranked, difference, plain_auroc, rank_signal
from analysis.linkage.record import MAP_COLUMNS
from analysis.linkage.signals import BY_COLUMN
from analysis.linkage.targets import FEWEST, TARGETS, Target
from benchmarks.statistics.clusters import Interval, expanded_percentile_interval, resampling_weights

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

BASES = {"prior": ("prior",), "margin and prior": ("margin", "confidence", "prior")}
"""To what attention is added. Where a target mixes yes and no answers, |margin| stands beside the margin."""


@dataclass(frozen=True, eq=False)
class TargetScores:
    """What is known of one target."""

    target: Target
    n: int
    positives: int
    signals: Mapping[str, Ranked]
    layers: Mapping[str, Sequence[float]]
    """AUROC of attention signals layer by layer, NaN where undefined: a profile to look at, not to choose from."""
    fitted: Fitted | None
    added: Mapping[str, Added | None]
    """Base -> what attention adds to it."""


@dataclass(frozen=True, eq=False)
class ModelScores:
    """One model."""

    name: str
    table: pd.DataFrame
    counts: Mapping[str, int]
    layers: tuple[int, ...]
    targets: Mapping[str, TargetScores]
    causal: Causal


@dataclass(frozen=True, eq=False)
class LinkageScores:
    """All models, and how they differ from the first on the same draws of images."""

    models: tuple[ModelScores, ...]
    images: int
    differences: Mapping[str, Mapping[str, Interval]]
    """Model -> "target: signal" or "causal: ..." -> its value less the first model's."""


def score(records: Mapping[str, pa.Table], draws: int, seed: int) -> LinkageScores:
    """Score the records of each model by its name; draws of images (in POPEv2 of pairs) serve all models."""
    names = sorted({image for table in records.values() for image in table["cluster"].to_pylist()})
    images = {name: k for k, name in enumerate(names)}
    weights = resampling_weights(len(images), draws, seed) if images else np.zeros((draws, 0))
    models = tuple(_model(name, table, images, weights, seed) for name, table in records.items())
    return LinkageScores(models, len(images), {m.name: _differences(models[0], m) for m in models[1:]})


def _model(name: str, table: pa.Table, images: Mapping[str, int], weights: np.ndarray, seed: int) -> ModelScores:
    made = frame(table)
    clusters = made["cluster"].map(dict(images)).to_numpy(np.int64)
    layers = {tuple(own) for own in table["layers"].to_pylist()}
    of_layers = next(iter(layers)) if len(layers) == 1 else ()
    targets = {t.name: _target(t, made, table, clusters, of_layers, weights, seed) for t in TARGETS}
    return ModelScores(name, made, counts_of(made), of_layers, targets, causal_scores(table, images, weights))


def counts_of(table: pd.DataFrame) -> dict[str, int]:
    """How many questions there are of each kind, for every table's first line."""
    label, readable = table["label"].astype(bool), table["correct"].notna()
    return {
        "questions": len(table),
        "images": int(table["image"].nunique()),
        "present": int(label.sum()),
        "absent": int((~label).sum()),
        "unreadable": int((~readable & table["error"].isna()).sum()),
        "errors": int(table["error"].notna().sum()),
        "correct": int(table["correct"].fillna(False).sum()),
        "hallucinated": int(table["hallucinated"].fillna(False).sum()),
        "missed": int(table["missed"].fillna(False).sum()),
        "without margin": int(table["margin"].isna().sum()),
        "object word not found": int(table["word_token"].isna().sum()),
        "present without mask": int((label & table["size"].isna()).sum()),
    }


def _target(
    target: Target,
    made: pd.DataFrame,
    table: pa.Table,
    clusters: np.ndarray,
    layers: Sequence[int],
    weights: np.ndarray,
    seed: int,
) -> TargetScores:
    among, positive = target.rows(made)
    truth, own = positive[among], clusters[among]
    values = {s.column: made[s.column].to_numpy(np.float64)[among] for s in target.signals}
    ranked = {column: rank_signal(v, truth, own, weights, seed) for column, v in values.items()}
    by_layer = {
        column: [plain_auroc(layer_values(table, column, k)[among], truth) for k in range(len(layers))]
        for column, whole in ranked.items()
        if column in MAP_COLUMNS and len(layers) > 1 and whole.why_not is None
    }
    # |margin| is the margin but for its sign, unless yes and no answers are mixed.
    single = {c: v for c, v in values.items() if c != "confidence" or target.among == "all"}
    attention = {c: v for c, v in values.items() if BY_COLUMN[c].group == "attention"}
    gains = {
        name: added({c: single[c] for c in columns if c in single}, attention, truth, own, weights, seed)
        for name, columns in BASES.items()
    }
    explaining = {c: v for c, v in single.items() if not (c == "margin" and target.margin_decides)}
    fitted = fit(explaining, truth, own)
    return TargetScores(target, int(among.sum()), int(truth.sum()), ranked, by_layer, fitted, gains)


def _differences(first: ModelScores, other: ModelScores) -> dict[str, Interval]:
    found: dict[str, Interval] = {}
    for name, scores in first.targets.items():
        for column, ranked in scores.signals.items():
            second = other.targets[name].signals[column]
            if ranked.draws is not None and second.draws is not None:
                found[f"{name}: {column}"] = difference(ranked, second)
    for one in first.causal.ways:
        two = next((way for way in other.causal.ways if way.how == one.how), None)
        for (kind, control), mean in one.effects.items():
            if two is not None and (kind, control) in two.effects:
                found[f"causal: {one.how}: {kind} against {control}"] = _gap(mean, two.effects[kind, control])
    return found


def _gap(first: Mean, second: Mean) -> Interval:
    value = second.interval.value - first.interval.value
    images = min(first.images, second.images)
    if images < FEWEST:
        return Interval(value, float("nan"), float("nan"))
    low, high = expanded_percentile_interval(second.draws - first.draws, images)
    return Interval(value, float(low), float(high))


# for scores.json


def to_json(scores: LinkageScores) -> dict[str, Any]:
    """Everything but the tables."""
    return {
        "images": scores.images,
        "models": {model.name: _model_json(model) for model in scores.models},
        "differences": {
            name: {what: numbers(interval) for what, interval in own.items()}
            for name, own in scores.differences.items()
        },
    }


def _model_json(model: ModelScores) -> dict[str, Any]:
    return {
        "counts": dict(model.counts),
        "layers": list(model.layers),
        "targets": {name: _target_json(scores) for name, scores in model.targets.items()},
        "causal": _causal_json(model.causal),
    }


def _target_json(scores: TargetScores) -> dict[str, Any]:
    fitted = scores.fitted
    return {
        "positive": scores.target.said,
        "n": scores.n,
        "positives": scores.positives,
        "signals": {column: _ranked_json(ranked) for column, ranked in scores.signals.items()},
        "layers": {c: [v if np.isfinite(v) else None for v in own] for c, own in scores.layers.items()},
        "logistic": None
        if fitted is None
        else {
            "n": fitted.sample.n,
            "left_out": fitted.left_out,
            "dropped": list(fitted.dropped),
            "coefficients": {name: numbers(interval) for name, interval in fitted.coefficients.items()},
        },
        "added_by_attention": {
            name: None
            if one is None
            else {
                "base": numbers(one.base),
                "full": numbers(one.full),
                "gain": numbers(one.gain),
                "gain_permuted": numbers(one.permuted),
            }
            for name, one in scores.added.items()
        },
    }


def _ranked_json(ranked: Ranked) -> dict[str, Any]:
    sample = ranked.sample
    return {
        "auroc": numbers(ranked.auroc),
        "direction": ranked.direction,
        "permuted": numbers(ranked.permuted),
        "n": sample.n,
        "positives": sample.positives,
        "images_with_positive": sample.images_with_positive,
        "images_with_negative": sample.images_with_negative,
        "undefined": ranked.undefined,
        "why_not": ranked.why_not,
    }


def _causal_json(causal: Causal) -> dict[str, Any]:
    return {
        "questions": dict(causal.reasons),
        "missing_margins": causal.missing,
        "ways": {
            way.how: {
                "margin": way.base.to_json(),
                "drop": {kind: mean.to_json() for kind, mean in way.drops.items()},
                "flips": {kind: mean.to_json() for kind, mean in way.flips.items()},
                "drop_against": {f"{a} - {b}": mean.to_json() for (a, b), mean in way.effects.items()},
                "flips_against": {f"{a} - {b}": mean.to_json() for (a, b), mean in way.flip_effects.items()},
                "share_of_image": dict(way.pixels),
                "share_of_object": dict(way.on_object),
                "share_of_visual_tokens": dict(way.tokens),
            }
            for way in causal.ways
        },
        "curves": {
            name: [
                {
                    "share": point.share,
                    "drop": {kind: mean.to_json() for kind, mean in point.drops.items()},
                    "flips": {kind: mean.to_json() for kind, mean in point.flips.items()},
                    "attended - random": point.effect.to_json(),
                }
                for point in points
            ]
            for name, points in causal.curves.items()
        },
    }
