"""Pictures of a training: curves, accuracy against steps, and where two arms look."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agevlm.appearing import file_appears
from agevlm.geometry import Geometry
from agevlm.scenes.language import ask_existence
from agevlm.vlm.contract import Ask, ProbeSpec, Vlm
from benchmarks.statistics.scores import Floats
from reports.scenes.looks import iou, last_token
from reports.scenes.summary import Summary, read_log, stage_folders
from train.scenes.recipe import STAGES, Recipe
from train.scenes.store import SceneStore

# Okabe and Ito's colours, told apart by colour-blind readers too; line styles tell them apart in grey.
STYLES: Mapping[str, tuple[str, str]] = {
    "age-vlm": ("#0072B2", "-"),
    "ca-baseline": ("#D55E00", "--"),
    "concat": ("#009E73", "-."),
    "concat-unfrozen": ("#CC79A7", ":"),
}
OTHERS = (("#E69F00", "-"), ("#56B4E9", "--"), ("#000000", "-."), ("#F0E442", ":"))
PANELS: Mapping[str, str] = {
    "loss/text": "text loss",
    "loss/guidance": "guidance loss",
    "attention/iou": "IoU of attention, guided samples",
    "gate/attn": "gates of cross-attention, mean size",
}
SPLITS: Mapping[str, str] = {
    "random/accuracy": "random",
    "popular/accuracy": "popular",
    "adversarial/accuracy": "adversarial",
    "cv/accuracy": "CV-Scenes",
    "looks/word_iou": "IoU of the object word",
}
DPI = 130
MOST_BYTES = 400_000
GREY = "0.35"
OUTLINE, HEAT = "#19e3ff", "inferno"
FAINTEST, STRONGEST = 0.1, 0.8


def _style(arms: Sequence[str]) -> dict[str, tuple[str, str]]:
    rest = iter(OTHERS * len(arms))
    return {arm: STYLES.get(arm) or next(rest) for arm in arms}


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _bare(axes: Any, title: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(labelsize=8, length=3, color=GREY)
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)


def _save(figure: Any, out: Path) -> Path:
    """PNG, whole or not at all, of fewer colours where it would be too large."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    for colours in (0, 256, 64):
        if colours:
            picture = Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")
            smaller = io.BytesIO()
            picture.quantize(colours).save(smaller, "PNG", optimize=True)
            buffer = smaller
        if len(buffer.getvalue()) <= MOST_BYTES:
            break
    out.parent.mkdir(parents=True, exist_ok=True)
    with file_appears(out) as unfinished:
        unfinished.write_bytes(buffer.getvalue())
    return out


def _logged(row: Mapping[str, Any], name: str) -> float | None:
    """A metric of a row of a log, or the mean size of those below it (`gate/attn` for `gate/attn/2`)."""
    if row.get(name) is not None:
        return float(row[name])
    below = [abs(v) for k, v in row.items() if k.startswith(f"{name}/") and v is not None]
    return sum(below) / len(below) if below else None


def _smooth(values: Floats) -> Floats:
    """A running mean over a tenth of the curve, centred: batches are noisy."""
    reach = max(0, len(values) // 20)
    return np.array([np.mean(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))])


def training_curves(recipe: Recipe, arms: Sequence[str], out: Path) -> Path | None:
    """Losses, IoU and gates of all arms over their stages, the mean of the seeds; None without any log.

    Stages stand side by side, each as wide as the most steps that an arm spends in it. The lines of arms that share a
    stage lie on each other.
    """
    styles = _style(arms)
    logs = {
        (a, s, k): read_log(run) for a in arms for k in recipe.seeds for s, run in stage_folders(recipe, a, k).items()
    }
    logs = {key: rows for key, rows in logs.items() if rows}
    if not logs:
        return None
    lengths = {s: max((rows[-1]["step"] for (_, t, _), rows in logs.items() if t == s), default=0) for s in STAGES}
    begins = {s: sum(lengths[t] for t in STAGES if t < s) for s in STAGES}
    figure = _figure(10, 5.6)
    grid = figure.subplots(2, 2)
    for axes, (name, title) in zip(grid.flat, PANELS.items(), strict=True):
        _bare(axes, title)
        for arm in arms:
            colour, line = styles[arm]
            for stage in STAGES:
                curves = [_curve(rows, name) for (a, s, _), rows in logs.items() if a == arm and s == stage]
                points: dict[int, list[float]] = {}
                for step, value in (point for curve in curves for point in curve):
                    points.setdefault(step, []).append(value)
                if points:
                    steps = np.array(sorted(points))
                    values = np.array([np.mean(points[step]) for step in steps])
                    axes.plot(begins[stage] + steps, _smooth(values), color=colour, linestyle=line, linewidth=1.5)
        for stage in STAGES:
            if lengths[stage]:
                axes.axvline(begins[stage], color="0.8", linewidth=0.8)
                middle = begins[stage] + lengths[stage] / 2
                axes.text(middle, 0.99, f"{stage}", transform=axes.get_xaxis_transform(), **_SMALL)
        axes.set_xlim(0, sum(lengths.values()))
    for axes in grid[1]:
        axes.set_xlabel("steps; numbers above: stages", fontsize=8)
    _legend(figure, styles)
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    return _save(figure, out)


_SMALL = {"fontsize": 7.5, "color": GREY, "ha": "center", "va": "top"}


def _curve(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(row["step"], value) for row in rows if (value := _logged(row, name)) is not None]


def _legend(figure: Any, styles: Mapping[str, tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=colour, linestyle=line, linewidth=1.8) for colour, line in styles.values()]
    figure.legend(lines, list(styles), loc="upper left", ncols=len(styles), frameon=False, fontsize=9)


def accuracy_by_steps(summary: Summary, out: Path) -> Path | None:
    """Accuracy and IoU after so many steps of stage 4, bands for the 95 % intervals; None without any."""
    if not summary.steps:
        return None
    styles = _style(list(summary.steps))
    shown = [name for name in SPLITS if any(name in found for own in summary.steps.values() for found in own.values())]
    columns = min(3, len(shown))
    figure = _figure(3.4 * columns, 2.6 * math.ceil(len(shown) / columns) + 0.5)
    grid = np.atleast_1d(figure.subplots(math.ceil(len(shown) / columns), columns)).ravel()
    for axes, name in zip(grid, shown, strict=False):
        _bare(axes, SPLITS[name])
        for arm, own in summary.steps.items():
            steps = [step for step, found in own.items() if name in found]
            value, low, high = ([100 * own[s][name][key] for s in steps] for key in ("value", "low", "high"))
            colour, line = styles[arm]
            axes.plot(steps, value, color=colour, linestyle=line, linewidth=1.5, marker="o", markersize=3)
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xlabel("steps of stage 4", fontsize=8)
        axes.set_ylabel("%", fontsize=8)
    for axes in grid[len(shown) :]:
        axes.axis("off")
    _legend(figure, styles)
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    return _save(figure, out)


# --- where arms look -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """A model to look through."""

    name: str
    vlm: Vlm
    threshold: float
    """Of the object word's attention: `word_threshold` of its scores.json."""


def sheet_objects(store: SceneStore, count: int) -> list[tuple[int, str]]:
    """The first scenes with three or more categories; scene number k shows its category number k, counted around."""
    scenes = [i for i, facts in enumerate(store.facts) if len(facts.present) >= 3][:count]
    return [(i, store.facts[i].present[k % len(store.facts[i].present)]) for k, i in enumerate(scenes)]


def attention_sheet(store: SceneStore, arms: Sequence[Arm], out: Path, count: int = 8) -> Path:
    """For a few test scenes: the picture with the object's outline, and each arm's attention for the object's word."""
    objects = sheet_objects(store, count)
    pairs = 2 if len(objects) > 3 else 1
    across = 1 + len(arms)
    lines = [objects[k : k + pairs] for k in range(0, len(objects), pairs)]
    heights = [PANEL * max(store.facts[i].height / store.facts[i].width for i, _ in line) for line in lines]
    heights = [min(PANEL * 1.1, high) for high in heights]
    width = pairs * across * PANEL + (pairs - 1) * GAP
    height = HEAD + sum(heights) + len(lines) * CAPTION
    figure = _figure(width, height)
    top = HEAD
    for row, (line, high) in enumerate(zip(lines, heights, strict=True)):
        for column, (image, name) in enumerate(line):
            left = column * (across * PANEL + GAP)
            boxes = [
                ((left + n * PANEL + AIR) / width, 1 - (top + high) / height, (PANEL - 2 * AIR) / width, high / height)
                for n in range(across)
            ]
            titles = ["image and region", *(arm.name for arm in arms)]
            for n, title in enumerate(titles if row == 0 else []):
                middle = left + (n + 0.5) * PANEL
                figure.text(middle / width, 1 - 0.13 / height, title, fontsize=9, ha="center", va="center")
            _scene(figure, boxes, store, image, name, arms)
        top += high + CAPTION
    return _save(figure, out)


PANEL, CAPTION, GAP, HEAD, AIR = 1.62, 0.3, 0.2, 0.26, 0.03
"""Inches."""


def _scene(figure: Any, boxes: Sequence[Any], store: SceneStore, image: int, name: str, arms: Sequence[Arm]) -> None:
    picture, mask = store.image(image), store.mask(image, store.facts[image].having(name))
    axes = figure.add_axes(boxes[0])
    axes.imshow(picture)
    _end(axes, mask, name)
    for box, arm in zip(boxes[1:], arms, strict=True):
        attention, geometry = look_at(arm.vlm, store, image, name)
        axes = figure.add_axes(box)
        axes.imshow(picture.mean(-1), cmap="gray", vmin=-90, vmax=255)
        axes.imshow(_heat(attention, geometry), interpolation="nearest")
        _end(axes, mask, f"IoU {iou(attention, geometry.mask_to_grid(mask), arm.threshold):.2f}")


def look_at(vlm: Vlm, store: SceneStore, image: int, name: str) -> tuple[Floats, Geometry]:
    """Attention of an object's word as it is asked for, mean over layers, and where its cells lie."""
    from PIL import Image

    asked = ask_existence(store.facts[image], name).question
    encoded = vlm.encode([Image.fromarray(store.image(image))])
    probe = vlm.probe(encoded, [Ask(asked.text, 0)], [()], ProbeSpec())[0]
    mean = probe.attention.astype(np.float64).mean(0)
    return mean[last_token(probe, asked.mentions[0].end)], probe.geometry


def _heat(attention: Floats, geometry: Geometry) -> NDArray[np.float64]:
    from matplotlib import colormaps

    heat = np.nan_to_num(geometry.grid_to_image(attention / (float(attention.max()) or 1.0)))
    colours: NDArray[np.float64] = colormaps[HEAT](heat)
    colours[..., 3] = FAINTEST + (STRONGEST - FAINTEST) * heat
    return colours


def _end(axes: Any, mask: NDArray[np.bool_], words: str) -> None:
    height, width = mask.shape
    edge = np.pad(mask, 1).astype(float)
    x, y = np.arange(-1, width + 1).clip(-0.5, width - 0.5), np.arange(-1, height + 1).clip(-0.5, height - 0.5)
    for colour, line in (("black", 2.0), (OUTLINE, 1.0)):
        axes.contour(x, y, edge, levels=[0.5], colors=colour, linewidths=line)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[], aspect="equal", anchor="S")
    for spine in axes.spines.values():
        spine.set_linewidth(0.4)
    axes.set_xlabel(words, fontsize=7.5, labelpad=2)
