"""Attention on padding layer by layer, as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.padding.canvas import NATIVE
from analysis.padding.looking import QUERIES
from analysis.padding.score import NON_SQUARE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

TITLES = {"object": "object word", "last": "last token"}


def profile(attention: Sequence[Row], queries: Sequence[str] = QUERIES) -> Figure | None:
    """Ratio of attention on padding to the share of padded cells, by layer; one panel for each checkpoint and query.

    Args:
        attention: rows of scores.json.
        queries: to be drawn.

    Returns:
        None where no layer of any checkpoint sees padding.
    """
    from analysis.figures import figure, shortened, style

    rows = [
        r
        for r in attention
        if r["group"] == NON_SQUARE and r["layer"] is not None and r["attended"]["ratio"]["value"] is not None
    ]
    if not rows:
        return None
    names = list(dict.fromkeys(r["checkpoint"] for r in rows))
    conditions = list(dict.fromkeys(r["condition"] for r in rows))
    with style() as seaborn:
        colours = dict(zip(conditions, seaborn.color_palette(n_colors=len(conditions)), strict=True))
        drawn = figure(4.2 * len(queries), 0.8 + 2.7 * len(names))
        panels = drawn.subplots(len(names), len(queries), sharey=True, squeeze=False)
        for name, line in zip(names, panels, strict=True):
            for query, axes in zip(queries, line, strict=True):
                own = [r for r in rows if r["checkpoint"] == name and r["query"] == query]
                for condition in conditions:
                    _line(axes, [r for r in own if r["condition"] == condition], condition, colours[condition])
                axes.axhline(1.0, color="0.3", linewidth=1, linestyle=":")
                axes.set_title(f"{shortened(name, 26)} · {TITLES[query]}")
                layers = sorted({r["layer"] for r in own})
                if layers and len(layers) <= 12:
                    axes.set_xticks(layers)
            line[0].set_ylabel("attention on padding\n÷ uniform")
        for axes in panels[-1]:
            axes.set_xlabel("layer")
        # Panels share the axis: to be set when all is drawn.
        panels[0][0].set_ylim(bottom=0)
        # No one panel need have all the lines.
        named = {n: h for p in panels.flat for h, n in zip(*p.get_legend_handles_labels(), strict=True)}
        labels = [label for label in map(_label, conditions) if label in named]
        columns = min(len(labels), 3 if len(queries) > 1 else 2)
        handles = [named[label] for label in labels]
        drawn.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize="small")
        return drawn


def _label(condition: str) -> str:
    return "squash: same places,\nimage there" if condition == "squash" else condition


def _line(axes: Any, rows: Sequence[Row], condition: str, colour: Any) -> None:
    if not rows:
        return
    # Lines that coincide (a model that pads with the mean itself) must both be seen.
    squashed, native = condition == "squash", condition == NATIVE.name
    layers = [r["layer"] for r in rows]
    low, value, high = (
        np.array([r["attended"]["ratio"][part] for r in rows], np.float64) for part in ("low", "value", "high")
    )
    axes.plot(
        layers, value, color=colour, label=_label(condition), marker="o", markersize=4,
        linestyle="--" if squashed else ":" if native else "-", linewidth=3 if native else 1.8,
        zorder=4 if native else 3,
    )  # fmt: skip
    axes.fill_between(layers, low, high, color=colour, alpha=0.18, linewidth=0)
