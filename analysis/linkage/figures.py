"""Pictures of the scores: AUROC of every signal, and what hiding does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from analysis.figures import figure, save, shortened, style
from analysis.linkage.effects import KINDS, Mean
from analysis.linkage.score import LinkageScores, ModelScores
from analysis.linkage.signals import SIGNALS
from analysis.linkage.targets import TARGETS, Target
from benchmarks.statistics.clusters import Interval

WAY_NAMES = {"keys": "hidden from attention", "surround": "painted, mean colour", "diffusion": "painted, diffusion"}


def draw(scores: LinkageScores, folder: Path) -> list[Path]:
    """`linkage-auroc` and `linkage-causal` as PNG and SVG; what there is nothing to show of is not drawn."""
    paths = []
    shown = [t for t in TARGETS if any(_ranked(m, t) for m in scores.models)]
    with style() as seaborn:
        colours = seaborn.color_palette()
        if shown:
            paths += save(_aurocs(scores, shown, colours), folder / "linkage-auroc")
        hidden = [m for m in scores.models if m.causal.curves]
        if hidden:
            paths += save(_causal(hidden, colours), folder / "linkage-causal")
    return paths


def _ranked(model: ModelScores, target: Target) -> list[str]:
    return [c for c, r in model.targets[target.name].signals.items() if r.why_not is None]


def _aurocs(scores: LinkageScores, shown: list[Target], colours: Any) -> Any:
    columns = [s for s in SIGNALS if any(s.column in _ranked(m, t) for m in scores.models for t in shown)]
    models = scores.models
    made = figure(2.4 + 2.3 * len(shown), 1.6 + 0.34 * len(columns))
    panels = made.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for panel, target in zip(panels, shown, strict=True):
        for k, model in enumerate(models):
            for row, signal in enumerate(columns):
                ranked = model.targets[target.name].signals.get(signal.column)
                if ranked is None or ranked.why_not is not None:
                    continue
                at = row + (k - (len(models) - 1) / 2) * 0.8 / len(models)
                panel.plot([ranked.permuted.low, ranked.permuted.high], [at, at], color="0.85", lw=4, zorder=1)
                _point(panel, ranked.auroc, at, colours[k % len(colours)])
        panel.axvline(0.5, color="0.5", lw=1, zorder=0)
        panel.set_xlim(-0.03, 1.03)
        panel.set_title(f"{target.name}\n({target.said})", fontsize="small")
        panel.set_xlabel("AUROC")
    panels[0].set_yticks(range(len(columns)), [s.label for s in columns], fontsize="small")
    panels[0].invert_yaxis()
    handles = [
        panels[0].plot([], [], "o", color=colours[k % len(colours)], label=shortened(model.name))[0]
        for k, model in enumerate(models)
    ]
    handles.append(panels[0].plot([], [], color="0.85", lw=4, label="dealt out at random")[0])
    made.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
    return made


def _point(panel: Any, interval: Interval, at: float, colour: Any) -> None:
    if np.isfinite(interval.low):
        panel.plot([interval.low, interval.high], [at, at], color=colour, lw=1.2, zorder=2)
    panel.plot([interval.value], [at], "o", color=colour, ms=3.5, zorder=3)


def _causal(models: list[ModelScores], colours: Any) -> Any:
    made = figure(max(6.0, 4.2 * len(models)), 7.6)
    grid = made.subplots(2, len(models), sharey="row", squeeze=False)
    for panel, model in zip(grid[0], models, strict=True):
        for k, kind in enumerate(KINDS):
            for at, way in enumerate(model.causal.ways):
                if (mean := way.drops.get(kind)) is not None:
                    _bar(panel, mean, at + (k - 1.5) * 0.2, colours[k])
        panel.axhline(0, color="0.5", lw=1)
        names = [WAY_NAMES[way.how].replace(", ", ",\n").replace("from ", "from\n") for way in model.causal.ways]
        panel.set_xticks(range(len(names)), names, fontsize="small")
        asked = model.causal.reasons.get("hidden", 0)
        panel.set_title(f"{shortened(model.name)}\n{asked} objects answered yes", fontsize="small")
    grid[0][0].set_ylabel("drop of the yes-margin (nats)")
    handles = [grid[0][0].plot([], [], "o", color=colours[k], label=kind)[0] for k, kind in enumerate(KINDS)]
    grid[0][-1].legend(handles=handles, fontsize="small")
    for panel, model in zip(grid[1], models, strict=True):
        for (name, points), line in zip(model.causal.curves.items(), ("o-", "o:"), strict=False):
            for kind, colour in (("attended", colours[1]), ("random", colours[2])):
                shares = [0.0, *(100 * point.share for point in points)]
                means = [point.drops[kind].interval for point in points]
                said = f"{kind} cells, {name} objects"
                panel.plot(shares, [0.0, *(m.value for m in means)], line, color=colour, ms=4, label=said)
                low, high = [0.0, *(m.low for m in means)], [0.0, *(m.high for m in means)]
                panel.fill_between(shares, low, high, color=colour, alpha=0.2, lw=0)
        panel.set_xlabel("cells hidden from attention (%)")
    grid[1][0].set_ylabel("drop of the yes-margin (nats)")
    grid[1][-1].legend(fontsize="small")
    return made


def _bar(panel: Any, mean: Mean, at: float, colour: Any) -> None:
    if np.isfinite(mean.interval.low):
        panel.plot([at, at], [mean.interval.low, mean.interval.high], color=colour, lw=1.4)
    panel.plot([at], [mean.interval.value], "o", color=colour, ms=5)
