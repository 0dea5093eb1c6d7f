"""Figures of a report at the width of a column: one look, both forms, nothing written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.figures import encoded, shortened, style
from reports.document import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawn

WIDTH = 3.4
"""Inches: a column of a two-column paper."""
TICKS = 7.5
SIZES = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": TICKS,
    "ytick.labelsize": TICKS,
    "legend.fontsize": 7.5,
    "figure.titlesize": 8,
    "axes.linewidth": 0.7,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 4,
}
"""Points."""
MARKERS = "osD^vPX*"
"""Told apart without colours too."""


@contextlib.contextmanager
def column_style() -> Iterator[Any]:
    """Draw within this: `analysis.figures.style` in the sizes of a column."""
    with style() as seaborn:
        import matplotlib as mpl

        mpl.rcParams.update(SIZES)
        yield seaborn


def finished(drawn: Drawn, id: str, title: str, alt: str, note: str = "") -> Figure:
    """The figure of a report; to be called within `column_style`."""
    for axes in drawn.axes:
        # Ticks may be made only when a figure is written, which is done in the style of all figures.
        axes.tick_params(labelsize=TICKS, pad=2, grid_linewidth=SIZES["grid.linewidth"])
    engine = drawn.get_layout_engine()
    if engine is not None:  # once for both forms: it is most of the time that a figure takes
        engine.execute(drawn)
        drawn.set_layout_engine("none")
    png, svg = encoded(drawn)
    return Figure(id, title, alt, png, svg, note)


def places(count: int, span: float = 0.6) -> Sequence[float]:
    """Where each of so many models stands beside a tick, from the left."""
    return [0.0] if count == 1 else [float(x) for x in np.linspace(-span / 2, span / 2, count)]


Look = Mapping[str, Any]
Scored = Sequence[Mapping[str, Any] | None]


def dots(axes: Axes, at: Sequence[float], rows: Scored, score: str, look: Look) -> None:
    """Values with their intervals in per cent over x; what is not defined is left out."""
    place, value, reach = _reaches(at, rows, score)
    axes.errorbar(place, value, yerr=reach, **BARS, **look)


def strokes(axes: Axes, at: Sequence[float], rows: Scored, score: str, look: Look) -> None:
    """The same from left to right, beside y."""
    place, value, reach = _reaches(at, rows, score)
    axes.errorbar(value, place, xerr=reach, **BARS, **look)


BARS: Look = {"linestyle": "none", "capsize": 2, "elinewidth": 1.1}


def _reaches(at: Sequence[float], rows: Scored, score: str) -> tuple[Any, Any, Any]:
    """Places, values and how far the limits lie below and above, (2, n)."""
    found = [(x, row) for x, row in zip(at, rows, strict=True) if row is not None and row.get(score) is not None]
    value, low, high = (
        np.array([np.nan if row.get(name) is None else 100 * row[name] for _, row in found], float)
        for name in (score, f"{score}_low", f"{score}_high")
    )
    # No bar where there are no limits.
    return [x for x, _ in found], value, np.maximum(np.nan_to_num(np.vstack([value - low, high - value])), 0)


def looks(seaborn: Any, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Colour, marker and label of each run."""
    colours = seaborn.color_palette(n_colors=max(len(labels), 1))
    return [
        {"color": colour, "marker": MARKERS[k % len(MARKERS)], "label": plain(label)}
        for k, (colour, label) in enumerate(zip(colours, labels, strict=True))
    ]


def plain(label: str) -> str:
    """A label as a legend shows it: short, and with nothing that matplotlib leaves out."""
    text = shortened(label, 34)
    return f" {text}" if text.startswith("_") else text
