"""Figures of the lean to yes and of the reliability of P(yes)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from analysis.figures import figure
from benchmarks.pope.rows import MEAN, POOLED
from reports.document import Figure, printed
from reports.sections.bias_numbers import BINS, Lean, Reliability
from reports.sections.drawing import WIDTH, column_style, dots, finished, looks, places
from reports.sections.side_by_side import Asked

ENOUGH = 30
"""Questions of a bin whose share is drawn with its interval and joined to its neighbours'."""
NAMES = ("lean", "false_yes", "missed")


def lean_figure(id: str, made: Sequence[tuple[Asked, Mapping[str, Lean]]]) -> Figure:
    """Yes ratio by split beside the share of yes labels; below, false yes and missed."""
    splits = list(dict.fromkeys(s for _, by_split in made for s in by_split))
    with column_style() as seaborn:
        drawn = figure(WIDTH, 3.6 + 0.14 * len(made))
        above, below = drawn.subplots(2, 1, sharex=True)
        for x, split in enumerate(splits):
            share = next((by_split[split].labels for _, by_split in made if split in by_split), float("nan"))
            label = "share of yes labels" if x == 0 else None
            above.hlines(100 * share, x - 0.4, x + 0.4, color="0.4", linestyle="--", lw=1.1, label=label)
        looked = looks(seaborn, [one.label for one, _ in made])
        for shift, (one, by_split), look in zip(places(len(made)), made, looked, strict=True):
            rows = {row["split"]: row for row in one.of() if row["split"] != MEAN}
            at = [x + shift for x in range(len(splits))]
            dots(above, at, [rows.get(split) for split in splits], "yes_ratio", look)
            flat = [_flat(by_split[split]) if split in by_split else None for split in splits]
            gap = 0.12 / len(made)
            dots(below, [x - gap for x in at], flat, "false_yes", {**look, "label": None})
            dots(below, [x + gap for x in at], flat, "missed", {**look, "label": None, "markerfacecolor": "white"})
        for fill, label in (("0.3", "false yes (absent, answered yes)"), ("white", "missed (present, answered no)")):
            below.plot([], [], "o", color="0.3", markerfacecolor=fill, label=label)
        above.set_ylabel("yes ratio, %")
        below.set_ylabel("share, %")
        below.set_ylim(bottom=0)
        below.set_xticks(range(len(splits)), splits)
        below.set_xlabel("split")
        for axes in (above, below):
            axes.grid(visible=False, axis="x")
        handles, labels = (
            a + b for a, b in zip(above.get_legend_handles_labels(), below.get_legend_handles_labels(), strict=True)
        )
        drawn.legend(handles, labels, loc="outside lower center", ncols=1)
        return finished(
            drawn,
            id,
            f"{made[0][0].titled}, lean to yes; bars: 95 % intervals over images",
            _lean_alt(made),
            "Above: answers counted as yes, of all. Below: filled, of the questions whose label is no; hollow, of "
            "those whose label is yes.",
        )


def _flat(lean: Lean) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, one in zip(NAMES, lean.values, strict=True):
        for ending, value in (("", one.value), ("_low", one.low), ("_high", one.high)):
            found[name + ending] = None if np.isnan(value) else value
    return found


def _lean_alt(made: Sequence[tuple[Asked, Mapping[str, Lean]]]) -> str:
    said = []
    for one, by_split in made:
        lean = by_split.get(POOLED) or next(iter(by_split.values()), None)
        if lean is not None:
            said.append(
                f"{one.label}: lean {lean.lean.text} points, false yes {lean.false_yes.text} %, missed "
                f"{lean.missed.text} %"
            )
    return f"Yes ratios by split beside the share of yes labels. {'; '.join(said)}."


def reliability_figure(id: str, curves: Sequence[tuple[Asked, Reliability]]) -> Figure:
    """Share of the label yes over P(yes), and below how many questions have which P(yes)."""
    with column_style() as seaborn:
        drawn = figure(WIDTH, 3.9 + 0.14 * len(curves))
        above, below = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.plot([0, 1], [0, 1], color="0.4", linestyle="--", lw=1.1, label="calibrated")
        for (_, curve), look in zip(curves, looks(seaborn, [one.label for one, _ in curves]), strict=True):
            seen = np.array([[o.value, o.low, o.high] for o in curve.observed])
            there = curve.bins.count > 0
            enough = curve.bins.count >= ENOUGH
            x, (value, low, high) = curve.bins.mean_probability, seen.T
            reach = np.maximum(np.nan_to_num(np.vstack([value - low, high - value])), 0)
            # What is not defined breaks the line.
            drawn_at = np.where(enough, value, np.nan)
            above.errorbar(x, drawn_at, yerr=reach, linestyle="-", elinewidth=0.8, **look)
            few = there & ~enough
            quiet = {**look, "label": None, "alpha": 0.45, "markersize": 2.5, "markerfacecolor": "white"}
            above.plot(x[few], value[few], linestyle="none", **quiet)
            below.stairs(np.where(there, curve.bins.count, np.nan), curve.bins.edges, color=look["color"], lw=1.1)
        above.set_ylabel("share with label yes")
        above.set_ylim(-0.03, 1.03)
        below.set_yscale("log")
        below.set_ylim(bottom=0.7)
        ticks = [10**k for k in range(int(np.log10(max(c.bins.count.max() for _, c in curves))) + 1)]
        below.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
        below.minorticks_off()
        below.set_ylabel("questions")
        below.set_xlabel("P(yes) of the first answer token")
        below.set_xlim(0, 1)
        drawn.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=1)
        return finished(
            drawn,
            id,
            f"{curves[0][0].titled}, reliability of P(yes); bars: 95 % intervals over images",
            _reliability_alt(curves),
            f"{BINS} bins of equal width over all splits; a point stands at its bin's mean P(yes). Small hollow "
            f"points: bins of fewer than {ENOUGH} questions, which say next to nothing. Below: how many questions "
            "have which P(yes), on a logarithmic scale.",
        )


def _reliability_alt(curves: Sequence[tuple[Asked, Reliability]]) -> str:
    said = []
    for one, curve in curves:
        row = next((r for r in one.of(how="default") if r["split"] == POOLED), None) or next(
            iter(one.of(how="default")), {}
        )
        ends = float((curve.bins.count[0] + curve.bins.count[-1]) / curve.bins.count.sum())
        said.append(
            f"{one.label}: calibration error {printed(row.get('ece'), 'number')}, {printed(ends, 'percent')} % of the "
            "questions in the first or last bin"
        )
    return f"Share of yes labels over P(yes), beside the diagonal of a calibrated model. {'; '.join(said)}."
