"""Figures of grounding: scores against their nulls, and scores by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from analysis.figures import COLUMN, encoded, figure, shortened, style
from analysis.grounding.figures import draw_layers
from analysis.grounding.nulls import NULLS
from analysis.grounding.showing import TITLES
from reports.document import Figure, interval, slug
from reports.opened import Run
from reports.sections.inside import Content

if TYPE_CHECKING:
    import matplotlib.figure

SHOWN = ("iou", "dice", "pointing", "mass", "auroc")
"""Scores from 0 to 1."""
MARKERS = {"uniform": "|", "centre": "^", "others": "s", "swapped": "x"}
ROW = 0.27
"""Inches."""


def scored(content: Content) -> dict[str, Content]:
    """The models that were scored at all."""
    return {str(name): held for name, held in content["models"].items() if "headline" in held}


def figures(prefix: str, run: Run) -> Iterator[Figure]:
    """Of one run: all models' scores against nulls, then each model's scores by layer."""
    models = scored(run.scores or {})
    if not models:
        return
    png, svg = encoded(_against_nulls(models))
    found = "; ".join(f"{name} {interval(held['headline']['iou'])}" for name, held in models.items())
    yield Figure(
        f"{prefix}-scores",
        "Attention against masks: scores beside nulls and ceiling",
        f"Scores of each model with intervals, beside what chance gives. Area-matched IoU: {found}.",
        png,
        svg,
        "Phrases that name objects, mean over heads and layers; lines: 95 % intervals over images. Nulls: maps that "
        "know nothing of the image; ceiling: the most that any map on the grid could have.",
    )
    for number, (name, held) in enumerate(models.items(), start=1):
        png, svg = encoded(draw_layers({name: held}))
        yield Figure(
            f"{prefix}-layers-{number}-{slug(name)}",
            f"Attention against masks by layer: {name}",
            f"IoU, mass inside and AUROC of {name} by layer, beside nulls and the ceiling of the grid.",
            png,
            svg,
            "Band: 95 % interval over images.",
        )


def _against_nulls(models: Mapping[str, Content]) -> matplotlib.figure.Figure:
    """A panel for each score, a row for each model."""
    with style() as seaborn:
        colours = seaborn.color_palette()
        drawn = figure(COLUMN, len(SHOWN) * (0.45 + ROW * len(models)) + 1.1)
        panels = drawn.subplots(len(SHOWN), 1, sharex=True)
        for panel, score in zip(panels, SHOWN, strict=True):
            for row, held in enumerate(models.values()):
                _row(panel, row, held["headline"][score], colours[0])
            panel.set_title(TITLES[score], loc="left", fontsize="small")
            panel.set(xlim=(-0.02, 1.02), ylim=(len(models) - 0.5, -0.5))
            panel.set_yticks(range(len(models)), [shortened(name, 20) for name in models], fontsize="small")
            panel.grid(visible=False, axis="y")
        panels[-1].set_xlabel("score")
        handles, labels = panels[0].get_legend_handles_labels()
        named = dict(zip(labels, handles, strict=True))
        drawn.legend(named.values(), named.keys(), loc="outside lower center", ncols=3, fontsize="small")
        return drawn


def _row(panel: Any, row: int, cell: Content, colour: Any) -> None:
    for null in NULLS:
        if cell["nulls"][null] is not None:
            panel.plot([cell["nulls"][null]], [row], MARKERS[null], color="0.45", ms=6, label=null)
    if cell["ceiling"] is not None:
        panel.plot([cell["ceiling"]] * 2, [row - 0.35, row + 0.35], color="0.1", lw=1.5, label="ceiling of the grid")
    if cell["value"] is not None:
        if cell["low"] is not None:
            panel.plot([cell["low"], cell["high"]], [row, row], color=colour, lw=2)
        panel.plot([cell["value"]], [row], "o", color=colour, ms=5, label="attention")
