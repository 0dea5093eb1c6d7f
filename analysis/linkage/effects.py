"""What hiding part of an image does to the answers: drops of the yes-margin and flips, against random cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.linkage.hide import KEYS, WAYS
from analysis.linkage.targets import FEWEST
from benchmarks.statistics.clusters import Interval, expanded_percentile_interval, score_interval, sum_by_cluster
from benchmarks.statistics.scores import divide

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Floats = NDArray[np.float64]
KINDS = ("object", "attended", "random", "moved")
AGAINST = {"object": ("random", "moved"), "attended": ("random",)}
"""Which controls each kind is set against."""


@dataclass(frozen=True, eq=False)
class Mean:
    """A mean over questions, with an interval over images."""

    interval: Interval
    n: int
    images: int
    draws: Floats

    def to_json(self) -> dict[str, float | int | None]:
        """Value, limits, questions and images; null where undefined."""
        return {**numbers(self.interval), "n": self.n, "images": self.images}


def numbers(interval: Interval) -> dict[str, float | None]:
    """An interval for JSON; null where undefined."""
    named = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {key: float(v) if np.isfinite(v) else None for key, v in named.items()}


def mean_over_images(
    values: Floats, clusters: NDArray[np.int64], weights: Floats, lowest: float | None = None, level: float = 0.95
) -> Mean:
    """Mean of values (n,), NaN left out, in images `clusters` (n,), the columns of `weights`.

    Values from `lowest` to 1 have `score_interval`'s limits. Without it they are not bounded and have expanded
    percentile limits, and none where all draws are the same: a width of zero would claim certainty. Fewer than `FEWEST`
    images give no limits.
    """
    there = ~np.isnan(values)
    value, cluster = values[there], clusters[there]
    images = weights.shape[1]
    sums, counts = sum_by_cluster(value, cluster, images), sum_by_cluster(np.ones(len(value)), cluster, images)
    draws = divide(weights @ sums, weights @ counts)
    estimate, held = float(divide(sums.sum(), counts.sum())), int(np.count_nonzero(counts))
    if held < FEWEST:
        interval = Interval(estimate, float("nan"), float("nan"))
    elif lowest is not None:
        interval = score_interval(estimate, draws, held, level, lowest=lowest, highest=1.0)
    elif np.ptp(draws[~np.isnan(draws)]) <= 1e-12:
        interval = Interval(estimate, float("nan"), float("nan"))
    else:
        low, high = expanded_percentile_interval(draws, held, level)
        interval = Interval(estimate, float(low), float(high))
    return Mean(interval, len(value), held, draws)


@dataclass(frozen=True, eq=False)
class Way:
    """One way of hiding: from attention (keys), or by painting."""

    how: str
    base: Mean
    """The yes-margin with nothing hidden."""
    drops: Mapping[str, Mean]
    """Kind -> mean of base - margin, nats; positive where hiding takes from the yes."""
    flips: Mapping[str, Mean]
    """Kind -> share of the questions whose margin turns from yes to no (or to a tie)."""
    effects: Mapping[tuple[str, str], Mean]
    """(kind, control) -> how much larger the drop is than the control's, question by question."""
    flip_effects: Mapping[tuple[str, str], Mean]
    pixels: Mapping[str, float]
    """Kind -> mean share of the image that was hidden."""
    on_object: Mapping[str, float]
    """Kind -> mean share of the object that was hidden."""
    tokens: Mapping[str, float]
    """Kind -> mean share of the visual tokens that were hidden from attention; empty where it is painted over."""


@dataclass(frozen=True, eq=False)
class CurvePoint:
    """The deletion curve at one share of the image's cells, hidden from attention."""

    share: float
    drops: Mapping[str, Mean]
    """attended, random."""
    flips: Mapping[str, Mean]
    effect: Mean
    """attended - random."""


@dataclass(frozen=True, eq=False)
class Causal:
    """The causal check of one model."""

    reasons: Mapping[str, int]
    """How many questions were hidden, and why the others were not."""
    missing: int
    """Hidings whose margin is no number; what they enter is left out."""
    ways: tuple[Way, ...]
    """Of objects that are there."""
    curves: Mapping[str, tuple[CurvePoint, ...]]
    """"present" and "absent" objects that were answered yes."""


def causal_scores(table: pa.Table, images: Mapping[str, int], weights: Floats) -> Causal:
    """Score the records' hidings.

    Args:
        table: the records of a model.
        images: image (or pair, see `Case.cluster`) -> column of `weights`.
        weights: (draws, images).
    """
    reasons = Counter(table["causal"].to_pylist())
    hidings = _hidings(table, images)
    if not len(hidings):
        return Causal(reasons, 0, (), {})
    missing = int(hidings["margin"].isna().sum())
    present = hidings[hidings["label"]]
    ways = tuple(_way(how, present, weights) for how in WAYS) if len(present) else ()
    curves = {
        name: tuple(_point(float(share), own, weights) for share in sorted(own["share"].dropna().unique()))
        for name, own in (("present", present), ("absent", hidings[~hidings["label"]]))
        if len(own)
    }
    return Causal(reasons, missing, ways, curves)


def _hidings(table: pa.Table, images: Mapping[str, int]) -> pd.DataFrame:
    """One row a hiding, with its question, the column of its image and the margin of its answer."""
    import pandas as pd

    rows = [
        {
            **hiding,
            "question": number,
            "label": row["label"],
            "cluster": images[row["cluster"]],
            "answered": row["logp_yes"] - row["logp_no"],
        }
        for number, row in enumerate(table.select(["cluster", "label", "logp_yes", "logp_no", "hidings"]).to_pylist())
        for hiding in row["hidings"]
    ]
    made = pd.DataFrame(rows)
    if len(made):
        for column in ("margin", "tokens"):
            made[column] = made[column].astype(np.float64)
        # As it was written: shares are a few known numbers.
        made["share"] = made["share"].astype(np.float64).round(6)
    return made


def _averaged(hidings: pd.DataFrame, base: pd.Series) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Drops and flips by question (rows) and kind (columns), mean over random draws; NaN where a margin is missing, and
    for flips where the first token was no yes to begin with (a yes further on in the answer)."""
    margin, before = hidings["margin"], hidings["question"].map(base)
    flip = (margin <= 0).astype(float).where(margin.notna() & (before > 0))
    own = hidings[["question", "what"]].assign(drop=before - margin, flip=flip)
    grouped = own.groupby(["question", "what"])[["drop", "flip"]].agg(lambda v: v.mean(skipna=False))
    return grouped["drop"].unstack(), grouped["flip"].unstack()


def _way(how: str, hidings: pd.DataFrame, weights: Floats) -> Way:
    own = hidings[(hidings["how"] == how) & hidings["share"].isna()]
    if how == KEYS:
        base = own[own["what"] == "nothing"].set_index("question")["margin"]
    else:
        base = own.groupby("question")["answered"].first()
    own = own[own["what"] != "nothing"]
    drops, flips = _averaged(own, base)
    clusters = own.groupby("question")["cluster"].first().reindex(drops.index).to_numpy(np.int64)

    def mean(values: pd.Series, lowest: float | None = None) -> Mean:
        return mean_over_images(values.to_numpy(np.float64), clusters, weights, lowest)

    there = [kind for kind in KINDS if kind in drops]
    pairs = [(kind, control) for kind in there for control in AGAINST.get(kind, ()) if control in drops]
    hidden = own.groupby("what")[["pixels", "on_object", "tokens"]].mean()
    return Way(
        how,
        mean(base.reindex(drops.index)),
        {kind: mean(drops[kind]) for kind in there},
        {kind: mean(flips[kind], lowest=0.0) for kind in there},
        {(a, b): mean(drops[a] - drops[b]) for a, b in pairs},
        {(a, b): mean(flips[a] - flips[b], lowest=-1.0) for a, b in pairs},
        {kind: float(hidden.loc[kind, "pixels"]) for kind in there},
        {kind: float(hidden.loc[kind, "on_object"]) for kind in there},
        {kind: float(hidden.loc[kind, "tokens"]) for kind in there} if how == KEYS else {},
    )


def _point(share: float, hidings: pd.DataFrame, weights: Floats) -> CurvePoint:
    curve = hidings[hidings["how"] == KEYS]
    base = curve[curve["what"] == "nothing"].set_index("question")["margin"]
    own = curve[curve["share"] == share]
    drops, flips = _averaged(own, base)
    clusters = own.groupby("question")["cluster"].first().reindex(drops.index).to_numpy(np.int64)
    names = ("attended", "random")

    def mean(values: pd.Series, lowest: float | None = None) -> Mean:
        return mean_over_images(values.to_numpy(np.float64), clusters, weights, lowest)

    return CurvePoint(
        share,
        {name: mean(drops[name]) for name in names},
        {name: mean(flips[name], lowest=0.0) for name in names},
        mean(drops["attended"] - drops["random"]),
    )
