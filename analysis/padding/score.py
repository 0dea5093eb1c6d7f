"""From records to rows of scores. Pure: the same records give the same rows, to the last bit.

All intervals resample images (percentile bootstrap, see `benchmarks.statistics`), with the same draws for every
condition and checkpoint, so that differences are paired. Square images need no padding and are the same picture under
every condition: they stand in the group `square`, asked about once, and count in the group `all`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.padding.answers import (
    Compared,
    accuracy_changes,
    compare,
    kept_by_crop,
    label_of,
    labels_by_margin,
    margins,
)
from analysis.padding.attention import Attended, attended, ratio_difference
from analysis.padding.canvas import NATIVE, Condition, padding_needed
from analysis.padding.looking import QUERIES
from benchmarks.statistics.clusters import Interval, resampling_weights, score_interval, sum_by_cluster
from benchmarks.statistics.scores import divide

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

ALL, SQUARE, NON_SQUARE = "all", "square", "non-square"
BINS = (("needs up to 25%", 0.0, 0.25), ("needs 25-50%", 0.25, 0.5), ("needs over 50%", 0.5, 1.0))
"""Groups of non-square images by the share of a square around them that is padding: above the first, up to the second
number."""
IDENTITY = ["set", "image", "question"]


@dataclass(frozen=True)
class AttentionRow:
    """Where one query of one checkpoint looks under one condition."""

    checkpoint: str
    condition: str
    group: str
    query: str
    layer: int | None
    """None for the mean over layers."""
    attended: Attended


@dataclass(frozen=True)
class AnswerRow:
    """Answers under a condition beside the same questions' answers under another, or with padding hidden."""

    checkpoint: str
    condition: str
    group: str
    against: str
    """`native`; or `padding visible`, where the condition is with padding hidden and the decision is by margin."""
    compared: Compared


@dataclass(frozen=True)
class CroppedRow:
    """Questions whose object a crop leaves out; their label says yes, the picture shown does not."""

    checkpoint: str
    known: int
    """Questions with the label yes, about non-square images, of whose object a mask is known."""
    unknown: int
    """The like without a mask: an object may be cut off unnoticed."""
    gone: int
    """Of the known: so little of the object is left that the question is counted apart."""
    yes_native: float | None
    """Share of these that are answered yes before the crop, and after."""
    yes_crop: float | None


@dataclass(frozen=True)
class AbsentRow:
    """Objects that are not there, images as they are: how often a checkpoint says that they are."""

    checkpoint: str
    questions: int
    """Different questions with the label no that have an answer."""
    images: int
    unparsed: int
    """Of the questions: answers neither yes nor no, which are not counted as yes."""
    yes: Interval
    """Share of yes; questions count as often as they stand in splits, as POPE pools them."""


@dataclass(frozen=True)
class DifferenceRow:
    """A checkpoint minus the first one, on the same questions: paired."""

    checkpoint: str
    minus: str
    condition: str
    group: str
    what: str
    """ratio object, ratio last; accuracy; change of accuracy against native."""
    difference: Interval
    n: int
    images: int


@dataclass(frozen=True)
class Shapes:
    """How much padding the images need."""

    images: int
    square: int
    non_square: int
    by_need: Mapping[str, int]
    least: float | None
    """Of the non-square: the share of a square around them that is padding."""
    median: float | None
    most: float | None


@dataclass(frozen=True)
class Scores:
    """All rows."""

    shapes: Shapes
    attention: tuple[AttentionRow, ...]
    answers: tuple[AnswerRow, ...]
    hidden: tuple[AnswerRow, ...]
    cropped: tuple[CroppedRow, ...]
    differences: tuple[DifferenceRow, ...]
    absent: tuple[AbsentRow, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; what is undefined is null."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}


def plain(value: Any) -> Any:
    """Dataclasses as dictionaries, tuples as lists, NaN as None."""
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def score(tables: Mapping[str, pa.Table], conditions: Sequence[Condition], *, draws: int, seed: int) -> Scores:
    """Score the records of one or more checkpoints.

    Args:
        tables: by checkpoint's name, the first is the one that others are compared with; columns as
            `analysis.padding.looking.schema`.
        conditions: that were asked, native first.
        draws: bootstrap draws over images.
        seed: of the draws.
    """
    frames = {name: _prepared(table) for name, table in tables.items()}
    images = sorted({key for frame in frames.values() for key in zip(frame["set"], frame["image"], strict=True)})
    index = {key: i for i, key in enumerate(images)}
    weights = resampling_weights(max(1, len(images)), draws, seed)
    for frame in frames.values():
        frame["cluster"] = [index[key] for key in zip(frame["set"], frame["image"], strict=True)]
    views = [_Views(name, frame, conditions, weights) for name, frame in frames.items()]
    return Scores(
        shapes=_shapes(frames.values()),
        attention=tuple(row for view in views for row in view.attention()),
        answers=tuple(row for view in views for row in view.answers()),
        hidden=tuple(row for view in views for row in view.hidden()),
        cropped=tuple(row for view in views for row in view.cropped()),
        differences=tuple(row for view in views[1:] for row in _differences(view, views[0])),
        absent=tuple(row for view in views for row in view.absent()),
    )


def _prepared(table: pa.Table) -> pd.DataFrame:
    frame = table.to_pandas().sort_values([*IDENTITY, "condition"], ignore_index=True)
    frame["need"] = [padding_needed(w, h) for w, h in zip(frame["width"], frame["height"], strict=True)]
    frame["times"] = frame["splits"].map(len)
    frame["read_margin"] = margins(frame, "")
    frame["read"] = [label_of(t, g) for t, g in zip(frame["answer"], frame["label"], strict=True)]
    return frame


def _shapes(frames: Any) -> Shapes:
    import pandas as pd

    images = pd.concat([f[["set", "image", "need"]] for f in frames]).drop_duplicates(["set", "image"])
    needs = images["need"][images["need"] > 0]
    return Shapes(
        images=len(images),
        square=int((images["need"] == 0).sum()),
        non_square=len(needs),
        by_need={name: int(((needs > low) & (needs <= high)).sum()) for name, low, high in BINS},
        least=float(needs.min()) if len(needs) else None,
        median=float(needs.median()) if len(needs) else None,
        most=float(needs.max()) if len(needs) else None,
    )


class _Views:
    """The records of one checkpoint by condition and group of images."""

    def __init__(self, name: str, frame: pd.DataFrame, conditions: Sequence[Condition], weights: Any) -> None:
        self.name, self.frame, self.conditions, self.weights = name, frame, conditions, weights

    def of(self, condition: Condition, group: str) -> pd.DataFrame:
        """Rows in order of image and question. A square image's native rows stand for every condition."""
        frame = self.frame
        square = frame["need"] == 0
        rows = frame[(frame["condition"] == condition.name) | (square & (frame["condition"] == NATIVE.name))]
        need = rows["need"]
        if group == SQUARE:
            return rows[need == 0]
        if group == NON_SQUARE:
            return rows[need > 0]
        for name, low, high in BINS:
            if group == name:
                return rows[(need > low) & (need <= high)]
        return rows

    @property
    def groups(self) -> list[str]:
        """Groups of non-square images that are not empty, all of them first."""
        names = [NON_SQUARE, *(name for name, _, _ in BINS)]
        return [name for name in names if len(self.of(NATIVE, name))]

    def attention(self) -> list[AttentionRow]:
        rows = []
        for condition in self.conditions:
            for group in self.groups:
                for query in QUERIES:
                    found = attended(self.of(condition, group), query, self.weights)
                    rows += [
                        AttentionRow(self.name, condition.name, group, query, layer, values)
                        for layer, values in found.items()
                        if group == NON_SQUARE or layer is None
                    ]
        return rows

    def answers(self) -> list[AnswerRow]:
        rows = []
        for condition in self.conditions:
            groups = [*self.groups, *([SQUARE] if condition == NATIVE else []), ALL]
            for group in groups:
                pair = self.pair(condition, group)
                if len(pair):
                    compared = compare(pair, "read_native", "read", self.weights)
                    rows.append(AnswerRow(self.name, condition.name, group, NATIVE.name, compared))
        return rows

    def pair(self, condition: Condition, group: str) -> pd.DataFrame:
        """Rows under a condition with what the same questions were read as under native (`read_native`).

        What a crop leaves out is counted apart, not here.
        """
        rows = self._beside_native(condition, group)
        return rows[kept_by_crop(rows)] if condition.mode == "crop" else rows

    def _beside_native(self, condition: Condition, group: str) -> pd.DataFrame:
        native = self.of(NATIVE, group)[[*IDENTITY, "read", "read_margin"]]
        native = native.rename(columns={"read": "read_native", "read_margin": "read_native_margin"})
        return self.of(condition, group).merge(native, on=IDENTITY)

    def hidden(self) -> list[AnswerRow]:
        rows = []
        for condition in (c for c in self.conditions if c.pads):
            for group in self.groups:
                pair = labels_by_margin(self.of(condition, group))
                if len(pair):
                    compared = compare(pair, "visible", "hidden", self.weights)
                    rows.append(AnswerRow(self.name, condition.name, group, "padding visible", compared))
        return rows

    def absent(self) -> list[AbsentRow]:
        rows = self.of(NATIVE, ALL)
        rows = rows[~rows["label"].astype(bool) & rows["read"].notna()]
        if not len(rows):
            return []
        times, said = rows["times"].to_numpy(np.float64), (rows["read"] == "yes").to_numpy()
        clusters, images = rows["cluster"].to_numpy(np.int64), self.weights.shape[1]
        yes, count = (sum_by_cluster(values, clusters, images) for values in (times * said, times))
        value = float(divide(yes.sum(), count.sum()))
        held = int(np.count_nonzero(count))
        drawn = divide(self.weights @ yes, self.weights @ count)
        unparsed = int((~rows["read"].isin(("yes", "no"))).sum())
        return [AbsentRow(self.name, len(rows), held, unparsed, score_interval(value, drawn, held))]

    def cropped(self) -> list[CroppedRow]:
        if not any(c.mode == "crop" for c in self.conditions):
            return []
        rows = self._beside_native(Condition("crop"), NON_SQUARE)
        asked = rows[rows["label"]]
        known, gone = asked[asked["left_by_crop"].notna()], asked[~kept_by_crop(asked)]

        def said_yes(column: str) -> float | None:
            return float((gone[column] == "yes").mean()) if len(gone) else None

        unknown = len(asked) - len(known)
        return [CroppedRow(self.name, len(known), unknown, len(gone), said_yes("read_native"), said_yes("read"))]


def _differences(view: _Views, first: _Views) -> list[DifferenceRow]:
    found: list[tuple[Condition, str, tuple[Interval, int, int]]] = []
    for condition in view.conditions:
        for query in QUERIES:
            rows, others = view.of(condition, NON_SQUARE), first.of(condition, NON_SQUARE)
            if (ratio := ratio_difference(rows, others, query, IDENTITY, view.weights)) is not None:
                found.append((condition, f"ratio {query}", ratio))
        others = first.pair(condition, NON_SQUARE)[[*IDENTITY, "read", "read_margin", "read_native"]].rename(
            columns={"read": "first", "read_margin": "first_margin", "read_native": "first_native"}
        )
        both = view.pair(condition, NON_SQUARE).merge(others, on=IDENTITY)
        if not len(both):
            continue
        between = compare(both, "first", "read", view.weights)
        found.append((condition, "accuracy", (between.change["accuracy"], between.n, between.images)))
        if condition != NATIVE:
            changes = accuracy_changes(both, ("read_native", "read"), ("first_native", "first"), view.weights)
            found.append((condition, "change of accuracy", changes))
    return [DifferenceRow(view.name, first.name, c.name, NON_SQUARE, what, *values) for c, what, values in found]
