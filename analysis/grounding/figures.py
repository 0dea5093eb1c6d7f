"""Pictures of a run: scores by layer beside their nulls, and maps over images with the masks' outlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.Image import Image

from analysis.figures import COLUMN, figure, save, shortened, style
from analysis.grounding.nulls import NULLS
from analysis.grounding.records import HEADLINE, KINDS, Look
from analysis.grounding.results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROFILE = {"iou": "IoU, area-matched", "mass": "mass inside", "auroc": "AUROC"}
DASHES = {"uniform": ":", "centre": "--", "others": "-.", "swapped": (0, (4, 1, 1, 1, 1, 1))}
COLUMNS = 5
PANEL = 1.9
"""Inches."""
FAINTEST, STRONGEST = 0.05, 0.75
OUTLINE = "#19e3ff"


def draw_layers(models: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Each score by layer, one column a model, with its interval, its nulls and its ceiling.

    Args:
        models: by name, as in scores.json.
    """
    with style() as seaborn:
        colour = seaborn.color_palette()[0]
        drawn = figure(max(COLUMN, 3.6 * len(models)), 2.4 * len(PROFILE) + 0.6)
        grid = drawn.subplots(len(PROFILE), len(models), squeeze=False, sharey="row")
        for column, (name, held) in enumerate(models.items()):
            layers = [layer for layer in held["by_layer"] if layer != "mean"]
            for row, (score, title) in enumerate(PROFILE.items()):
                axes = grid[row, column]
                cells = [held["by_layer"][layer][score] for layer in layers]
                places = np.arange(len(layers))
                low, value, high = (_numbers(cell[k] for cell in cells) for k in ("low", "value", "high"))
                axes.fill_between(places, low, high, color=colour, alpha=0.25, linewidth=0)
                axes.plot(places, value, color=colour, marker="o", markersize=4, label="attention")
                for null in NULLS:
                    nulls = _numbers(cell["nulls"][null] for cell in cells)
                    axes.plot(places, nulls, color="0.45", linestyle=DASHES[null], linewidth=1.2, label=null)
                top = _numbers(cell["ceiling"] for cell in cells)
                axes.plot(places, top, color="0.2", linewidth=1, label="ceiling of the grid")
                axes.set_xticks(places[:: max(1, len(places) // 8)], layers[:: max(1, len(places) // 8)])
                if row == 0:
                    axes.set_title(shortened(name))
                if column == 0:
                    axes.set_ylabel(title)
                if row == len(PROFILE) - 1:
                    axes.set_xlabel("layer")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=min(6, 3 * len(models)), fontsize="small")
        return drawn


def _numbers(values: Any) -> Any:
    return np.asarray([np.nan if value is None else value for value in values], np.float64)


@dataclass(frozen=True, eq=False)
class Shown:
    """One look of a contact sheet."""

    image: Image
    look: Look
    score: float
    """Its area-matched IoU."""


ROWS = ("best", "median", "worst")


def examples(results: Results) -> dict[str, list[tuple[str, float]]]:
    """Ids and IoU of the best, the middle and the worst looks of the headline, each of another image where possible."""
    values = results.scored.scores["iou"][:, KINDS.index(HEADLINE), 0]
    order = [k for k in np.argsort(-values, kind="stable") if results.headline[k] and not np.isnan(values[k])]
    middle = [order[place] for place in sorted(range(len(order)), key=lambda place: abs(place - len(order) // 2))]
    found = {}
    for name, ranked in zip(ROWS, (order, middle, order[::-1]), strict=True):
        taken: list[int] = []
        for k in ranked:
            if len(taken) < COLUMNS and results.scored.images[k] not in {results.scored.images[t] for t in taken}:
                taken.append(k)
        found[name] = [(results.scored.ids[k], float(values[k])) for k in taken]
    return found


def draw_sheet(title: str, rows: Mapping[str, Sequence[Shown]], path: Path) -> list[Path]:
    """Maps over images, each with its mask's outline; colours run from 0 to each map's largest cell.

    Args:
        title: of the sheet.
        rows: by `ROWS`.
        path: of the files, without a suffix.
    """
    columns = max(len(row) for row in rows.values())
    with style():
        drawn = figure(PANEL * columns + 0.5, (PANEL + 0.35) * len(rows) + 0.7)
        grid = drawn.subplots(len(rows), columns, squeeze=False)
        for axes in grid.ravel():
            axes.set_axis_off()
        for r, (name, row) in enumerate(rows.items()):
            for c, shown in enumerate(row):
                _overlay(grid[r, c], shown)
                grid[r, c].set_title(f"{name}: {shortened(shown.look.phrase, 18)} {shown.score:.2f}", fontsize=8)
        drawn.suptitle(title, fontsize=9)
        return save(drawn, path)


def _overlay(axes: Any, shown: Shown) -> None:
    from matplotlib import colormaps

    look = shown.look
    geometry, heat = look.geometry, look.maps[KINDS.index(HEADLINE), 0]
    heat = heat / (float(heat.max()) or 1.0)
    colours = colormaps["inferno"](heat)
    colours[..., 3] = FAINTEST + (STRONGEST - FAINTEST) * heat
    x0, y0, _, _ = geometry.cell_box(0, 0)
    _, _, x1, y1 = geometry.cell_box(geometry.rows - 1, geometry.columns - 1)
    whole = (0, geometry.image_width, geometry.image_height, 0)
    axes.imshow(shown.image.convert("L"), extent=whole, cmap="gray", vmin=-60, vmax=255)
    axes.imshow(colours, extent=(x0, x1, y1, y0), interpolation="nearest")
    # A border of nothing, so that masks that touch the image's edge are outlined there, too.
    edged = np.pad(look.mask, 1).astype(np.float64)
    across, down = np.arange(edged.shape[1]) - 0.5, np.arange(edged.shape[0]) - 0.5
    axes.contour(across, down, edged, levels=[0.5], colors=[OUTLINE], linewidths=1)
    axes.set(xlim=(min(0, x0), max(geometry.image_width, x1)), ylim=(max(geometry.image_height, y1), min(0, y0)))
    axes.set_aspect("equal")
