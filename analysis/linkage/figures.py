"""Pictures of the scores: AUROC of every signal, and what hiding does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.figures import COLUMN, figure, save, shortened, style
from analysis.linkage.effects import KINDS
from analysis.linkage.signals import SIGNALS
from analysis.linkage.targets import TARGETS, Target

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Content = Mapping[str, Any]
Models = Mapping[str, Content]
"""By name, as in scores.json."""
WAY_NAMES = {"keys": "hidden from attention", "surround": "painted, mean colour", "diffusion": "painted, diffusion"}


def draw(models: Models, folder: Path) -> list[Path]:
    """`linkage-auroc` and `linkage-causal` as PNG and SVG; what there is nothing to show of is not drawn."""
    drawn = {"linkage-auroc": aurocs(models, TARGETS), "linkage-causal": hiding(models)}
    return [path for name, one in drawn.items() if one is not None for path in save(one, folder / name)]


def aurocs(models: Models, targets: Sequence[Target]) -> Figure | None:
    """AUROC of every signal, a column for each target that has any; None where none has.

    Args:
        models: of scores.json.
        targets: to be drawn.
    """
    known = {(name, t.name): _known(own, t) for name, own in models.items() for t in targets}
    shown = [t for t in targets if any(known[name, t.name] for name in models)]
    rows = [s for s in SIGNALS if any(s.column in own for own in known.values())]
    if not shown:
        return None
    with style() as seaborn:
        colours = seaborn.color_palette()
        made = figure(2.4 + 2.3 * len(shown), 1.6 + 0.34 * len(rows))
        panels = made.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for panel, target in zip(panels, shown, strict=True):
            for k, name in enumerate(models):
                for row, signal in enumerate(rows):
                    ranked = known[name, target.name].get(signal.column)
                    if ranked is None:
                        continue
                    at = row + (k - (len(models) - 1) / 2) * 0.8 / len(models)
                    permuted = ranked["permuted"]
                    panel.plot(_numbers(permuted, "low", "high"), [at, at], color="0.85", lw=4, zorder=1)
                    _point(panel, ranked["auroc"], at, colours[k % len(colours)])
            panel.axvline(0.5, color="0.5", lw=1, zorder=0)
            panel.set_xlim(-0.03, 1.03)
            place = "center" if len(shown) > 1 else "right"  # over the signals' names, if there is but one
            panel.set_title(f"{target.name}\n({target.said})", fontsize="small", loc=place)
            panel.set_xlabel("AUROC")
        panels[0].set_yticks(range(len(rows)), [s.label for s in rows], fontsize="small")
        panels[0].invert_yaxis()
        handles = [
            panels[0].plot([], [], "o", color=colours[k % len(colours)], label=shortened(name))[0]
            for k, name in enumerate(models)
        ]
        handles.append(panels[0].plot([], [], color="0.85", lw=4, label="dealt out at random")[0])
        columns = min(4 if len(shown) > 1 else 2, len(handles))
        made.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize="small")
        return made


def _known(model: Content, target: Target) -> dict[str, Content]:
    """The signals that are ranked."""
    return {c: r for c, r in model["targets"][target.name]["signals"].items() if r["why_not"] is None}


def _numbers(interval: Content, *parts: str) -> NDArray[np.float64]:
    """Of a value with its limits, NaN where undefined."""
    return np.array([interval[part] for part in parts], np.float64)


def _point(panel: Any, interval: Content, at: float, colour: Any) -> None:
    if interval["low"] is not None:
        panel.plot(_numbers(interval, "low", "high"), [at, at], color=colour, lw=1.2, zorder=2)
    panel.plot(_numbers(interval, "value"), [at], "o", color=colour, ms=3.5, zorder=3)


def hiding(models: Models) -> Figure | None:
    """What hiding does, a column for each model in which anything was hidden; None where nothing was."""
    shown = {name: own["causal"] for name, own in models.items() if own["causal"]["curves"]}
    if not shown:
        return None
    with style() as seaborn:
        colours = seaborn.color_palette()
        made = figure(max(COLUMN, 4.2 * len(shown)), 8.2)
        grid = made.subplots(2, len(shown), sharey="row", squeeze=False)
        for panel, (name, causal) in zip(grid[0], shown.items(), strict=True):
            for k, kind in enumerate(KINDS):
                for at, way in enumerate(causal["ways"].values()):
                    if (mean := way["drop"].get(kind)) is not None:
                        _bar(panel, mean, at + (k - 1.5) * 0.2, colours[k])
            panel.axhline(0, color="0.5", lw=1)
            names = [WAY_NAMES[how].replace(", ", ",\n").replace("from ", "from\n") for how in causal["ways"]]
            panel.set_xticks(range(len(names)), names, fontsize="small")
            asked = causal["questions"].get("hidden", 0)
            panel.set_title(f"{shortened(name)}\n{asked} objects answered yes", fontsize="small")
        grid[0][0].set_ylabel("drop of the yes-margin (nats)")
        named = {kind: grid[0][0].plot([], [], "o", color=colours[k])[0] for k, kind in enumerate(KINDS)}
        for panel, causal in zip(grid[1], shown.values(), strict=True):
            for (name, points), line in zip(causal["curves"].items(), ("o-", "o:"), strict=False):
                for kind, colour in (("attended", colours[1]), ("random", colours[2])):
                    shares = [0.0, *(100 * point["share"] for point in points)]
                    low, value, high = np.array(
                        [(0.0,) * 3, *(_numbers(point["drop"][kind], "low", "value", "high") for point in points)]
                    ).T
                    said = f"{kind} cells, {name} objects"
                    panel.plot(shares, value, line, color=colour, ms=4, label=said)
                    panel.fill_between(shares, low, high, color=colour, alpha=0.2, lw=0)
            panel.set_xlabel("cells hidden from attention (%)")
        grid[1][0].set_ylabel("drop of the yes-margin (nats)")
        # No one panel need have all the lines.
        for panel in grid[1]:
            named |= {said: line for line, said in zip(*panel.get_legend_handles_labels(), strict=True)}
        columns = 2 if len(shown) == 1 else 4
        made.legend(named.values(), named.keys(), loc="outside lower center", ncols=columns, fontsize="small")
        return made


def _bar(panel: Any, mean: Content, at: float, colour: Any) -> None:
    if mean["low"] is not None:
        panel.plot([at, at], _numbers(mean, "low", "high"), color=colour, lw=1.4)
    panel.plot([at], _numbers(mean, "value"), "o", color=colour, ms=5)
