"""What a run prints: tables from the content of scores.json, and the pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.grounding.measures import SCORES
from analysis.grounding.nulls import NULLS, SINK_IMAGES
from analysis.grounding.records import HEADLINE, KINDS

Content = Mapping[str, Any]
TITLES = {
    "iou": "IoU, area-matched",
    "dice": "soft Dice",
    "pointing": "pointing game",
    "mass": "mass inside",
    "lift": "mass over area",
    "auroc": "AUROC",
}


def tables(content: Content) -> Iterable[Table | str]:
    """All tables, in order, with what a reader must know between them."""
    models = {name: held for name, held in content["models"].items() if "headline" in held}
    for name, held in models.items():
        yield _headline(name, held)
        yield _remarks(held)
    yield _compared("by query (IoU, area-matched; mean over layers)", "query", models, "queries", KINDS)
    yield _compared("by share of the image that the mask covers", "mask", models, "sizes")
    yield _compared("by group; words of attribute, relation and negation name no region", "group", models, "groups")
    yield _layers(models)
    yield _chosen(models)
    if any(held["answers"] for held in models.values()):
        yield _answers(models)
    if any(held["noise"] for held in models.values()):
        yield _noise(models)
    if content["differences"]:
        yield _differences(content["differences"])
    yield (
        f"Intervals: 95 %, {content['draws']} draws of images, seed {content['seed']}. Attention of the phrase's last "
        f"token ({HEADLINE}) unless said otherwise, mean over heads and layers. corrected: (score - null) / (ceiling - "
        "null) against the strongest null. Attention shows where information can flow, not why an answer was given."
    )


def _headline(name: str, held: Content) -> Table:
    table = Table(title=f"{name}: attention against masks", title_justify="left")
    columns = ("score", "value", *NULLS, "ceiling", "corrected", "n", "images")
    for column in columns:
        table.add_column(column, justify="left" if column == "score" else "right")
    for score, cell in held["headline"].items():
        table.add_row(
            TITLES.get(score, f"IoU, {score[4:]} of the largest" if "@" in score else score),
            between(cell),
            *(number(cell["nulls"][null]) for null in NULLS),
            number(cell["ceiling"]),
            _corrected(cell),
            str(cell["n"]),
            str(cell["images"]),
            end_section=score == SCORES[-1],
        )
    return table


def _remarks(held: Content) -> str:
    facts, grids = held["facts"], ", ".join(f"{grid} ({n})" for grid, n in held["grids"].items())
    lines = [
        f"grid {grids}: its best IoU with these masks {number(held['best_iou_of_the_grid'])}; masks cover "
        f"{percent(held['mask_share'])} of the image on average. Of the query's attention {percent(facts['on_image'])} "
        f"lies on the image; of that to the grid {percent(facts['padding'])} on padding, {_sinks(facts)}; entropy "
        f"{number(facts['entropy']['value'])} of an even spread's"
    ]
    if lacking := held["headline_looks"] - held["headline"]["iou"]["n"]:
        lines.append(f"no score: {lacking} of {held['headline_looks']} regions, without any attention on the image")
    for why, ids in held["left_out"].items():
        lines.append(f"not scored: {len(ids)} regions, {why}: {', '.join(ids[:3])}{', ...' * (len(ids) > 3)}")
    if held["images_failed"]:
        lines.append(f"not scored: {len(held['images_failed'])} images, first {held['images_failed'][0]}")
    return "\n".join(lines)


def _sinks(facts: Content) -> str:
    if facts["sinks"]["value"] is None:
        return f"sinks are told from {SINK_IMAGES + 1} images on"
    return f"{percent(facts['sinks'])} on {number(facts['sink_cells']['value'], 1)} sinks"


def _compared(title: str, first: str, models: Content, part: str, order: Iterable[str] = ()) -> Table:
    table = Table(title=title, title_justify="left")
    columns = (first, "model", "n", "IoU", "corrected", "mass inside", "area null", "AUROC", "pointing")
    for column in columns:
        table.add_column(column, justify="left" if column in (first, "model") else "right")
    names = list(order) or list(dict.fromkeys(key for held in models.values() for key in held[part]))
    for key in names:
        rows = [(name, held[part][key]) for name, held in models.items() if key in held[part]]
        for place, (name, cells) in enumerate(rows):
            table.add_row(
                key if place == 0 else "",
                Text(name),
                str(cells["iou"]["n"]),
                between(cells["iou"]),
                _corrected(cells["iou"]),
                between(cells["mass"]),
                number(cells["mass"]["nulls"]["uniform"]),
                between(cells["auroc"]),
                between(cells["pointing"]),
                end_section=place == len(rows) - 1,
            )
    return table


def _layers(models: Content) -> Table:
    table = Table(title="by layer", title_justify="left")
    columns = ("model", "layer", "IoU", "others", "corrected", "mass inside", "AUROC", "on image", "padding", "sinks")
    for column in columns:
        table.add_column(column, justify="left" if column in ("model", "layer") else "right")
    for name, held in models.items():
        layers = list(held["by_layer"].items())
        for place, (layer, cells) in enumerate(layers):
            table.add_row(
                Text(name) if place == 0 else "",
                layer,
                between(cells["iou"]),
                number(cells["iou"]["nulls"]["others"]),
                _corrected(cells["iou"]),
                number(cells["mass"]["value"]),
                number(cells["auroc"]["value"]),
                *(percent(cells["facts"][fact]) for fact in ("on_image", "padding", "sinks")),
                end_section=place == len(layers) - 1,
            )
    return table


def _chosen(models: Content) -> Table:
    table = Table(title="chosen on one half of the images, reported on the other", title_justify="left")
    for column in ("model", "what", "chosen", "IoU", "corrected", "mean over layers, same half"):
        table.add_column(column, justify="left" if column in ("model", "what", "chosen") else "right")
    for name, held in models.items():
        chosen = held["chosen"]
        if "left_out" in chosen:
            table.add_row(Text(name), chosen["left_out"], "", "", "", "", end_section=True)
            continue
        mean, best, at = chosen["mean_layer"]["iou"], chosen["scores"]["iou"], chosen["threshold_iou"]
        images = f"{chosen['tuning_images']} + {chosen['tested_images']} images"
        table.add_row(Text(name), "layer", chosen["layer"], between(best), _corrected(best), between(mean))
        table.add_row(images, "threshold", f"{chosen['threshold']:g} of the largest", between(at), _corrected(at), "")
        if chosen["head"] is not None:
            head = chosen["head"]
            table.add_row("", "head", f"layer {head['layer']}, head {head['head']}", between(head["iou"]), "", "")
        table.add_section()
    return table


def _answers(models: Content) -> Table:
    table = Table(title="answers to the same questions, where the right one is known", title_justify="left")
    columns = ("group", "model", "n", "accuracy", "where yes is right", "where no is right", "said yes", "neither")
    for column in columns:
        table.add_column(column, justify="left" if column in ("group", "model") else "right")
    groups = list(dict.fromkeys(group for held in models.values() for group in held["answers"]))
    for group in groups:
        rows = [(name, held["answers"][group]) for name, held in models.items() if group in held["answers"]]
        for place, (name, cells) in enumerate(rows):
            table.add_row(
                group if place == 0 else "",
                Text(name),
                str(cells["questions"]),
                *(between(cells[key]) for key in ("accuracy", "accuracy_where_yes", "accuracy_where_no")),
                number(cells["yes_ratio"]["value"]),
                str(cells["neither"]),
                end_section=place == len(rows) - 1,
            )
    return table


def _noise(models: Content) -> Table:
    table = Table(title="against distorted masks: score, and its change on the same regions", title_justify="left")
    columns = ("noise", "model", "lost", "IoU with the true mask", *(TITLES[score] for score in SCORES))
    for column in columns:
        table.add_column(column, justify="left" if column in ("noise", "model") else "right")
    for noise in dict.fromkeys(noise for held in models.values() for noise in held["noise"]):
        for name, model in models.items():
            held = model["noise"][noise]
            if "scores" not in held:
                table.add_row(noise, Text(name), str(held["lost"]), held["left_out"])
                continue
            moved = (
                f"{number(held['scores'][score]['value'])}  {_signed(held['change'].get(score))}" for score in SCORES
            )
            table.add_row(noise, Text(name), str(held["lost"]), number(held["agreement"]), *moved)
        table.add_section()
    return table


def _signed(cell: Content | None) -> str:
    """A change with its limits."""
    if cell is None or cell["value"] is None:
        return "–"
    limits = "" if cell["low"] is None else f" [{cell['low']:+.3f}, {cell['high']:+.3f}]"
    return f"{cell['value']:+.3f}{limits}"


def _differences(pairs: Content) -> Table:
    table = Table(title="differences on the same regions, paired", title_justify="left")
    for column in ("pair", "n", *(TITLES[score] for score in SCORES)):
        table.add_column(column, justify="left" if column == "pair" else "right")
    for name, held in pairs.items():
        table.add_row(Text(name), str(held["n"]), *(between(held[score]) if score in held else "" for score in SCORES))
    return table


def number(value: float | None, digits: int = 3) -> str:
    """A value, or a dash where it is not defined."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: Any) -> str:
    """A share, of a value or of a cell, in percent."""
    share = value["value"] if isinstance(value, Mapping) else value
    return "–" if share is None else f"{100 * share:.1f} %"


def between(cell: Content, digits: int = 3) -> str:
    """A value with its limits."""
    if cell["value"] is None:
        return "–"
    if cell["low"] is None:
        return number(cell["value"], digits)
    return f"{cell['value']:.{digits}f} [{cell['low']:.{digits}f}, {cell['high']:.{digits}f}]"


def _corrected(cell: Content) -> str:
    """Against the strongest null, with its name."""
    strongest = cell["strongest"]
    return "–" if strongest is None else f"{between(cell['corrected'][strongest], 2)} ({strongest})"


def show(content: Content, console: Console) -> None:
    """Print all tables."""
    for one in tables(content):
        console.print(one, markup=False, soft_wrap=isinstance(one, str))
