"""The figure of failure signs: every measure of every model beside its threshold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analysis.failure_signs.showing import MARKS
from analysis.figures import COLUMN, encoded, figure, shortened, style
from reports.document import Figure, printed
from reports.opened import Run

if TYPE_CHECKING:
    import matplotlib.figure

Reading = Mapping[str, Any]
ROW = 0.24
"""Inches."""
FILLED = {"present": "full", "absent": "none", "undecided": "left"}


def sign_if(one: Reading, name: str) -> str:
    """On which side of the threshold a sign lies."""
    return f"{MARKS[one['side']]} {printed(one[name], 'number')}"


def figures(prefix: str, run: Run) -> Iterator[Figure]:
    """Of one run; none where nothing is measured."""
    readings = [one for one in (run.scores or {})["readings"] if one["value"] is not None]
    if not readings:
        return
    png, svg = encoded(_drawn(readings))
    present = [f"{one['model']}: {one['measure']}" for one in readings if one["verdict"] == "present"]
    yield Figure(
        f"{prefix}-values",
        "Signs of failure: values beside thresholds",
        f"Each measure of each model with its interval, beside the threshold. Present: {'; '.join(present) or 'none'}.",
        png,
        svg,
        "The shaded side of the dashed threshold is the sign's. Full marks: present; empty: absent; half: undecided. "
        "Lines: 95 % intervals. The table of thresholds says what each measure is.",
    )


def _drawn(readings: Sequence[Reading]) -> matplotlib.figure.Figure:
    """A panel for each measure, a row and a colour in it for each model."""
    models, measures = (list(dict.fromkeys(one[name] for one in readings)) for name in ("model", "measure"))
    rows = -(-len(measures) // 2)
    with style() as seaborn:
        palette = seaborn.color_palette()
        colours = {model: palette[k % len(palette)] for k, model in enumerate(models)}
        drawn = figure(COLUMN, rows * (0.95 + ROW * len(models)) + 0.25 * len(models) + 0.2)
        panels = drawn.subplots(rows, 2, squeeze=False).ravel()
        for panel, measure in zip(panels, measures, strict=False):
            _panel(panel, [one for one in readings if one["measure"] == measure], models, colours)
        for panel in panels[len(measures) :]:
            panel.set_axis_off()
        handles = [
            panels[0].plot([], [], "o-", color=colours[model], label=shortened(str(model)))[0] for model in models
        ]
        drawn.legend(handles=handles, loc="outside lower center", fontsize="small")
        return drawn


def _panel(panel: Any, readings: Sequence[Reading], models: Sequence[str], colours: Mapping[str, Any]) -> None:
    one = readings[0]
    for reading in readings:
        row, colour = models.index(reading["model"]), colours[reading["model"]]
        if reading["low"] is not None:
            panel.plot([reading["low"], reading["high"]], [row, row], color=colour, lw=2)
        fill = FILLED.get(reading["verdict"], "left")
        face = "white" if fill == "none" else colour
        panel.plot(
            [reading["value"]], [row], "o", ms=6, color=colour, fillstyle="left" if fill == "left" else "full",
            markerfacecolor=face, markerfacecoloralt="white", zorder=4,
        )  # fmt: skip
    panel.axvline(one["threshold"], color="0.2", lw=1.2, ls="--")
    low, high = panel.get_xlim()
    side = (one["threshold"], high) if one["side"] == "above" else (low, one["threshold"])
    panel.axvspan(*side, color="0.5", alpha=0.15, lw=0, zorder=0)
    panel.set(xlim=(low, high), ylim=(len(models) - 0.5, -0.5))
    panel.set_title(f"{one['measure']}\nsign if {sign_if(one, 'threshold')}", loc="left", fontsize="small")
    panel.set_yticks([])
    panel.tick_params(axis="x", labelsize="small")
    panel.locator_params(axis="x", nbins=3)
    panel.grid(visible=False, axis="y")
