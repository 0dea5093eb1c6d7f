"""Scores of a run: a pure function of its records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agevlm.errors import DataError
from agevlm.vlm.contract import POOLINGS, Pooling, Space
from analysis.similarity.measuring import SPACES
from analysis.similarity.negatives import ELSEWHERE, KINDS, MATCH, OTHER
from analysis.similarity.statistics import (
    MEASURES,
    Measured,
    Sides,
    difference,
    measure,
    measure_auroc,
    overlap_of_no_difference,
)
from benchmarks.statistics.clusters import Interval, resampling_weights
from benchmarks.statistics.scores import Floats

if TYPE_CHECKING:
    import pyarrow as pa

FORMS = ("raw", "centred")


@dataclass(frozen=True, eq=False)
class Records:
    """What was recorded of one model, as arrays."""

    model: str
    image: NDArray[np.int64]
    """(rows,): indices into the images that all models have."""
    kind: NDArray[np.str_]
    of: NDArray[np.int64]
    layers: Mapping[Space, tuple[str, ...]]
    """Of the spaces that the model has."""
    cosines: Mapping[tuple[Space, str], NDArray[np.float32]]
    """By space and form: (rows, layers, poolings)."""

    @property
    def headline(self) -> dict[Space, str]:
        """The layer of each space that headlines are about: the last; of hidden states the last that attends to the
        text itself."""
        found: dict[Space, str] = {space: layers[-1] for space, layers in self.layers.items()}
        crossing = self.layers.get("cross_output", ())
        numbered = [name for name in self.layers.get("hidden", ()) if name.isdecimal() and name not in crossing]
        return {**found, **({"hidden": numbered[-1]} if numbered else {})}


@dataclass(frozen=True, eq=False)
class Cell:
    """One kind of non-matching texts against those that match, in one place of one model."""

    model: str
    space: Space
    layer: str
    headline: bool
    """Whether it is the layer that headlines are about."""
    pooling: Pooling
    form: str
    kind: str
    images: int
    pairs: int
    undefined: int
    """Pairs without a cosine: a state of length 0, or numbers that overflowed."""
    mean_match: float
    mean_other: float
    measured: Mapping[str, Measured]
    overlap_of_chance: float | None
    """What overlap two samples of one distribution would have; at headlines only."""
    text_alone: Measured | None
    """AUROC of captions and their changed forms beside images that they have nothing to do with: what the change of the
    text does by itself. None where that was not recorded."""

    @property
    def above_text(self) -> Interval | None:
        """AUROC less that of the text alone."""
        if self.text_alone is None:
            return None
        return difference(self.measured["auroc"], self.text_alone, "auroc", self.images)

    def row(self) -> dict[str, Any]:
        """For scores.json: what is undefined is null."""
        same = ("model", "space", "layer", "headline", "pooling", "form", "kind", "images", "pairs", "undefined")
        measures = {name: interval_row(one.interval) for name, one in self.measured.items()}
        numbers = {name: _number(getattr(self, name)) for name in ("mean_match", "mean_other", "overlap_of_chance")}
        alone = None if self.text_alone is None else self.text_alone.interval
        nulls = {"auroc_of_text_alone": alone, "auroc_above_text_alone": self.above_text}
        shown = {name: None if one is None else interval_row(one) for name, one in nulls.items()}
        return {**{name: getattr(self, name) for name in same}, **numbers, **measures, **shown}


@dataclass(frozen=True)
class Difference:
    """First model less second, at both models' headline layers."""

    first: str
    second: str
    space: Space
    pooling: Pooling
    form: str
    kind: str
    gains: Mapping[str, Interval]

    def row(self) -> dict[str, Any]:
        """For scores.json."""
        same = ("first", "second", "space", "pooling", "form", "kind")
        return {**{name: getattr(self, name) for name in same}, **{k: interval_row(v) for k, v in self.gains.items()}}


def interval_row(interval: Interval) -> dict[str, float | None]:
    """Value and limits; null where undefined."""
    return {name: _number(getattr(interval, name)) for name in ("value", "low", "high")}


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def records_of(tables: Mapping[str, pa.Table]) -> tuple[list[Records], tuple[str, ...]]:
    """Each model's records of the images that all models have.

    Args:
        tables: by model.

    Returns:
        The records, and the images.

    Raises:
        DataError: fewer than two images are left.
    """
    names = [set(table["image"].to_pylist()) for table in tables.values()]
    common = sorted(set.intersection(*names))
    if len(common) < 2:
        raise DataError(f"{len(common)} images were looked at with every model; scores need at least 2")
    index = {name: i for i, name in enumerate(common)}
    found = []
    for model, table in tables.items():
        kept = table.filter([name in index for name in table["image"].to_pylist()])
        # The order of records must not matter.
        columns = [kept[name].to_pylist() for name in ("image", "kind", "of", "text")]
        order = sorted(range(len(kept)), key=lambda row: tuple(column[row] for column in columns))
        kept = kept.take(order)
        layers: dict[Space, tuple[str, ...]] = {}
        cosines = {}
        for space in SPACES:
            first = kept[f"{space}_layers"][0].as_py()
            if first is None:
                continue
            layers[space] = tuple(first)
            for form in FORMS:
                column = kept[f"{space}_{form}"].combine_chunks()
                if not column.null_count:
                    flat = column.flatten().to_numpy(zero_copy_only=False)
                    cosines[space, form] = flat.reshape(len(kept), len(first), len(POOLINGS))
        image = np.array([index[name] for name in kept["image"].to_pylist()])
        of = np.asarray(kept["of"].to_pylist(), np.int64)
        found.append(Records(model, image, np.array(kept["kind"].to_pylist()), of, layers, cosines))
    return found, tuple(common)


def sides_of(records: Records, cosines: NDArray[np.floating], kind: str, match: str = MATCH) -> tuple[Sides, int]:
    """Texts of a kind and the matching texts that they stand beside, by their cosines (rows,); and how many of them are
    undefined."""
    cosines = cosines.astype(np.float64)
    places = {(records.image[i], records.of[i]): i for i in np.flatnonzero(records.kind == match)}
    others = np.flatnonzero(records.kind == kind)
    beside = np.array([places[records.image[i], records.of[i]] for i in others], np.int64)
    defined = np.isfinite(cosines[others]) & np.isfinite(cosines[beside])
    others, beside = others[defined], beside[defined]
    matching, at = np.unique(beside, return_inverse=True)
    image = records.image
    sides = Sides(cosines[matching], image[matching], cosines[others], image[others], at.astype(np.int64))
    return sides, int((~defined).sum())


def score(
    records: Sequence[Records],
    images: int,
    *,
    pooling: Pooling,
    layer: str | None,
    draws: int,
    seed: int,
    done: Callable[[], object] = lambda: None,
) -> tuple[list[Cell], list[Difference]]:
    """All cells, and the differences of models at their headlines.

    Cells of the headline layer or of the headline pooling have intervals; the others values alone.

    Args:
        records: of each model, about the same images.
        images: how many.
        pooling: of headlines and profiles.
        layer: of headlines; None for each space's own.
        draws: of the bootstrap, over images, the same for all cells.
        seed: of the draws.
        done: called after each cell.

    Raises:
        DataError: a layer that a model does not have.
    """
    weights = resampling_weights(images, draws, seed)
    cells: list[Cell] = []
    for one in records:
        headline = _headline(one, layer)
        for (space, form), cosines in one.cosines.items():
            for kind in [kind for kind in KINDS if kind in one.kind]:
                for (at, name), (column, pooled) in _product(one.layers[space]):
                    main = name == headline.get(space)
                    sides, undefined = sides_of(one, cosines[:, at, column], kind)
                    drawn = weights if main or pooled == pooling else weights[:0]
                    cells.append(
                        Cell(
                            model=one.model,
                            space=space,
                            layer=name,
                            headline=main,
                            pooling=pooled,
                            form=form,
                            kind=kind,
                            images=len(np.unique(sides.other_image)),
                            pairs=len(sides.other),
                            undefined=undefined,
                            mean_match=float(sides.match.mean()) if sides.match.size else np.nan,
                            mean_other=float(sides.other.mean()) if sides.other.size else np.nan,
                            measured=measure(sides, drawn),
                            overlap_of_chance=overlap_of_no_difference(sides, seed) if main else None,
                            text_alone=_text_alone(one, cosines[:, at, column], kind, drawn),
                        )
                    )
                    done()
    return cells, _differences(cells)


def _text_alone(records: Records, cosines: NDArray[np.float32], kind: str, weights: Floats) -> Measured | None:
    if kind + ELSEWHERE not in records.kind:
        return None
    sides, _ = sides_of(records, cosines, kind + ELSEWHERE, OTHER)
    return measure_auroc(sides, weights)


def count_cells(records: Sequence[Records]) -> int:
    """How many cells `score` makes."""
    return sum(
        len(one.layers[space]) * len(POOLINGS) * sum(kind in one.kind for kind in KINDS)
        for one in records
        for space, _ in one.cosines
    )


def _product(layers: Sequence[str]) -> list[tuple[tuple[int, str], tuple[int, Pooling]]]:
    return [(layer, pooling) for layer in enumerate(layers) for pooling in enumerate(POOLINGS)]


def _headline(records: Records, layer: str | None) -> dict[Space, str]:
    if layer is None:
        return records.headline
    if layer not in records.layers["hidden"]:
        raise DataError(f"--layer {layer}: {records.model} has {', '.join(records.layers['hidden'])}")
    return {space: layer for space, names in records.layers.items() if layer in names}


def _differences(cells: Sequence[Cell]) -> list[Difference]:
    main = [cell for cell in cells if cell.headline]
    places = {(c.space, c.pooling, c.form, c.kind, c.model): c for c in main}
    models = list(dict.fromkeys(cell.model for cell in main))
    found = []
    for first, second in combinations(models, 2):
        for one in main:
            other = places.get((one.space, one.pooling, one.form, one.kind, second))
            if one.model != first or other is None:
                continue
            gains = {
                name: difference(one.measured[name], other.measured[name], name, min(one.images, other.images))
                for name in MEASURES
            }
            found.append(Difference(first, second, one.space, one.pooling, one.form, one.kind, gains))
    return found
