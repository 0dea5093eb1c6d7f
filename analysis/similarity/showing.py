"""What the command prints: the headline of each model, its other spaces, and differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from agevlm.vlm.contract import Pooling
from analysis.similarity.score import Cell, Difference
from benchmarks.statistics.clusters import Interval
from benchmarks.tables import empty_table

SIGNS = {"auroc": "AUROC", "paired": "paired accuracy", "overlap": "overlap", "d": "Cohen's d"}


def interval(found: Interval, sign: bool = False) -> str:
    """Value and limits on two lines; a dash where undefined."""
    if np.isnan(found.value):
        return "–"
    plus = "+" if sign else ""
    value = f"{found.value:{plus}.3f}"
    return value if np.isnan(found.low) else f"{value}\n[dim]{found.low:{plus}.3f} … {found.high:{plus}.3f}[/dim]"


def headline_table(cells: Sequence[Cell], pooling: Pooling, space: str, title: str) -> Table:
    """One space: each model and kind, raw and centred."""
    columns = ("layer", "against", "states", "images", "pairs", "cosine match", "cosine other")
    table = empty_table(title, "model", *columns, *SIGNS.values(), "overlap of chance", "AUROC of text alone")
    previous = ""
    for cell in cells:
        if not (cell.headline and cell.pooling == pooling and cell.space == space):
            continue
        counts = (str(cell.images), f"{cell.pairs}" + (f" (+{cell.undefined} undefined)" if cell.undefined else ""))
        means = (_plain(cell.mean_match), _plain(cell.mean_other))
        measures = (interval(cell.measured[name].interval, name == "d") for name in SIGNS)
        if previous and previous != cell.model:
            table.add_section()
        chance = _plain(cell.overlap_of_chance)
        alone = "–" if cell.text_alone is None else interval(cell.text_alone.interval)
        table.add_row(cell.model, cell.layer, cell.kind, cell.form, *counts, *means, *measures, chance, alone)
        previous = cell.model
    return table


def difference_table(differences: Sequence[Difference], pooling: Pooling, space: str) -> Table:
    """One space: each pair of models and kind."""
    table = empty_table(f"{space}: difference, first less second, over the same images", "first", "second", "against",
                        "states", *SIGNS.values())  # fmt: skip
    for one in differences:
        if one.pooling == pooling and one.space == space:
            gains = (interval(one.gains[name], True) for name in SIGNS)
            table.add_row(one.first, one.second, one.kind, one.form, *gains)
    return table


def _plain(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.3f}"
