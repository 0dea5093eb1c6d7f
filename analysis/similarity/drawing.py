"""The two figures: how cosines are distributed in each checkpoint, and AUROC layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agevlm.vlm.contract import POOLINGS, Pooling
from analysis.figures import figure, shortened, style
from analysis.similarity.measuring import SPACES
from analysis.similarity.score import FORMS, Records, sides_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
"""A cell as scores.json holds it."""

BINS = (8, 40)
MOST_TICKS = 11
SPACE_NAMES = {
    "hidden": "hidden states",
    "cross_output": "cross-attention output",
    "query_key": "queries and keys",
}


def histograms(records: Sequence[Records], cells: Sequence[Row], pooling: Pooling, form: str) -> Figure:
    """Cosines at the headline layer: a row for each model, a column for each kind, one axis of cosines for all.

    Args:
        records: of each model.
        cells: of scores.json; kinds that are not among them are not drawn.
        pooling: of the cells.
        form: raw or centred.
    """
    main = [c for c in cells if c["headline"] and (c["space"], c["pooling"], c["form"]) == ("hidden", pooling, form)]
    kinds = list(dict.fromkeys(cell["kind"] for cell in main))
    column = POOLINGS.index(pooling)
    with style() as seaborn:
        match, other = seaborn.color_palette()[:2]
        drawn = figure(0.9 + 3.3 * len(kinds), 1.3 + 2.1 * len(records))
        panels = drawn.subplots(len(records), len(kinds), squeeze=False, sharex=True, sharey=False)
        sides = {}
        for one in records:
            for cell in (cell for cell in main if cell["model"] == one.model):
                at = one.layers["hidden"].index(cell["layer"])
                cosines = one.cosines["hidden", form][:, at, column]
                sides[one.model, cell["kind"]] = sides_of(one, cosines, cell["kind"])[0]
        for row, one in zip(panels, records, strict=True):
            values = [
                part for (model, _), own in sides.items() if model == one.model for part in (own.match, own.other)
            ]
            edges = _edges(np.concatenate(values))
            for panel, kind in zip(row, kinds, strict=True):
                cell = next(c for c in main if (c["model"], c["kind"]) == (one.model, kind))
                own = sides[one.model, kind]
                for name, part, colour in (("matching", own.match, match), ("not matching", own.other, other)):
                    look = {"stat": "density", "element": "step", "color": colour, "alpha": 0.35}
                    seaborn.histplot(x=part, bins=edges, label=name, ax=panel, **look)
                panel.set_title(_said(cell), fontsize="small")
                panel.set(yticks=[], xlabel="", ylabel="")
            layer = next(cell["layer"] for cell in main if cell["model"] == one.model)
            row[0].set_ylabel(f"{shortened(one.model, 24)}\nlayer {layer}")
        for panel, kind in zip(panels[-1], kinds, strict=True):
            panel.set_xlabel(f"cosine, against {kind}")
        drawn.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
        drawn.suptitle(f"Image-text similarity of hidden states\n({pooling} pooling, {form})", fontsize="medium")
        return drawn


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of bins, the same for both sides and all kinds of a model: more for more values."""
    if not values.size:
        return np.linspace(-1, 1, 2)
    bins = int(np.clip(2 * np.cbrt(values.size), *BINS))
    return np.linspace(values.min(), max(values.max(), values.min() + 1e-6), bins + 1)


def _said(cell: Row) -> str:
    lines = []
    for name, one in (("AUROC", cell["auroc"]), ("overlap", cell["overlap"])):
        value = f"{name} undefined" if one["value"] is None else f"{name} {one['value']:.2f}"
        lines.append(value if one["low"] is None else f"{value} [{one['low']:.2f}, {one['high']:.2f}]")
    return "\n".join(lines)


def profile(cells: Sequence[Row], pooling: Pooling) -> Figure:
    """AUROC by layer: a row for each model, a column for each space; bands are intervals.

    Args:
        cells: of scores.json; spaces that are not among them are not drawn.
        pooling: of the cells.
    """
    own = [cell for cell in cells if cell["pooling"] == pooling]
    models, kinds = (list(dict.fromkeys(cell[name] for cell in own)) for name in ("model", "kind"))
    spaces = [space for space in SPACES if any(cell["space"] == space for cell in own)]
    lines = {"raw": "-", "centred": "--"}
    with style() as seaborn:
        colours = seaborn.color_palette()
        drawn = figure(0.9 + 3.3 * len(spaces), 1.2 + 2.3 * len(models))
        panels = drawn.subplots(len(models), len(spaces), squeeze=False, sharey=True)
        for row, model in zip(panels, models, strict=True):
            for panel, space in zip(row, spaces, strict=True):
                if model == models[0]:
                    panel.set_title(SPACE_NAMES[space])
                here = [cell for cell in own if (cell["model"], cell["space"]) == (model, space)]
                if not here:
                    panel.axis("off")
                    panel.annotate(f"no {SPACE_NAMES[space]}", (0.5, 0.5), xycoords="axes fraction", ha="center")
                    continue
                _profile(panel, here, dict(zip(kinds, colours, strict=False)), lines)
                panel.set(ylim=(-0.02, 1.02), xlabel="after layer" if space == "hidden" else "in layer")
            row[0].set_ylabel(f"{shortened(model, 24)}\nAUROC")
        columns = 2 if len(spaces) == 1 else 6
        drawn.legend(
            handles=_legend(kinds, colours, lines), loc="outside lower center", ncols=columns, fontsize="small"
        )
        broken = "\n" if len(spaces) == 1 else " "
        drawn.suptitle(f"Matching against non-matching pairs,{broken}{pooling} pooling", fontsize="medium")
        return drawn


def _profile(panel: Any, cells: Sequence[Row], colours: Mapping[str, Any], lines: Mapping[str, str]) -> None:
    """One space of one model."""
    panel.axhline(0.5, color="0.4", linewidth=0.8)
    names = list(dict.fromkeys(cell["layer"] for cell in cells))
    places = np.arange(len(names))
    for kind, colour in colours.items():
        for form in FORMS:
            own = {c["layer"]: c["auroc"] for c in cells if (c["kind"], c["form"]) == (kind, form)}
            if not own:
                continue
            low, value, high = (
                np.array([np.nan if own[n][part] is None else own[n][part] for n in names], np.float64)
                for part in ("low", "value", "high")
            )
            marker = "o" if len(names) < 20 else None
            panel.plot(places, value, lines[form], color=colour, marker=marker, markersize=4)
            panel.fill_between(places, low, high, color=colour, alpha=0.12, linewidth=0)
    step = max(1, -(-len(names) // MOST_TICKS))
    panel.set_xticks(places[::step], [_tick(name) for name in names[::step]], fontsize="small")


def _tick(layer: str) -> str:
    return {"embeddings": "emb"}.get(layer, layer)


def _legend(kinds: Sequence[str], colours: Sequence[Any], lines: dict[str, str]) -> list[Any]:
    from matplotlib.lines import Line2D

    found = [Line2D([], [], color=colour, label=f"against {k}") for k, colour in zip(kinds, colours, strict=False)]
    return [*found, *(Line2D([], [], color="0.2", linestyle=style, label=form) for form, style in lines.items())]
