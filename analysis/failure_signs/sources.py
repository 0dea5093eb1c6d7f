"""From the scores of the analyses to measurements. Pure: reads what `scores.json` of a run holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.failure_signs.signs import Measurement

Content = Mapping[str, Any]
NATIVE, BLACK = "native", "letterbox black"
GROUPS = ("attribute", "relation", "negation")
NULL = "others"
"""What chance is for attention: the mean map of other images."""
OLD = "the run folder was scored by an earlier version; give its command again"


def missing(measures: tuple[str, ...], why: str) -> dict[str, Measurement]:
    """Measures that could not be taken."""
    return {name: Measurement(note=why) for name in measures}


SIMILARITY = ("auroc", "auroc-centred", "overlap")
PADDING = ("padding-object", "padding-last", "yes-to-absent")
GROUNDING = GROUPS


def similarity_signs(content: Content, model: str) -> dict[str, Measurement]:
    """Of a similarity run: hidden states after the last self-attention layer, mean pooling, other images' captions."""
    cells = {
        cell["form"]: cell
        for cell in content["cells"]
        if cell["model"] == model
        and cell["headline"]
        and (cell["space"], cell["pooling"], cell["kind"]) == ("hidden", "mean", "other")
    }
    if not cells:
        return missing(SIMILARITY, "the run has no pairs of images with other images' captions")
    raw, centred = cells["raw"], cells["centred"]
    n = f"{raw['images']} images, {raw['pairs']} pairs"
    layer = f"layer {raw['layer']}, mean pooling"
    chance = raw["overlap_of_chance"]
    expected = "" if chance is None else f"; {chance:.2f} is to be expected of no difference"
    return {
        "auroc": _measured(raw["auroc"], n, layer),
        "auroc-centred": _measured(centred["auroc"], n, layer),
        "overlap": _measured(raw["overlap"], n, f"{layer}{expected}; its interval is somewhat too short, prefer AUROC"),
    }


def padding_signs(content: Content, model: str) -> dict[str, Measurement]:
    """Of a padding run: the padding of the model's own processor; where it makes none, black put around images."""
    found = missing(PADDING, "")
    for query, measure in (("object", "padding-object"), ("last", "padding-last")):
        found[measure] = _attended(content, model, query)
    absent = {row["checkpoint"]: row for row in content.get("absent", ())}
    if "absent" not in content:
        found["yes-to-absent"] = Measurement(note=OLD)
    elif model not in absent:
        found["yes-to-absent"] = Measurement(note="no question about an absent object was answered")
    else:
        row = absent[model]
        unread = f"; {row['unparsed']} answers neither yes nor no" if row["unparsed"] else ""
        n = f"{row['images']} images, {row['questions']} questions"
        found["yes-to-absent"] = _measured(row["yes"], n, f"POPE, images as they are{unread}")
    return found


def _attended(content: Content, model: str, query: str) -> Measurement:
    rows = {
        row["condition"]: row["attended"]
        for row in content["attention"]
        if row["checkpoint"] == model and (row["group"], row["query"], row["layer"]) == ("non-square", query, None)
    }
    if not content["shapes"]["non_square"]:
        return Measurement(note="all images are square: none is padded")
    for condition in (NATIVE, BLACK):
        row = rows.get(condition)
        if row is not None and row["ratio"]["value"] is not None:
            own = condition == NATIVE
            how = "the model's own padding" if own else "black padding put around images; the model itself pads none"
            cells = f"{100 * row['cells']:.0f} % of the cells are padding"
            if own and (black := rows.get(BLACK)) is not None and black["ratio"]["value"] is not None:
                # Padding that a model was trained with can be told by its colour.
                cells += f"; with black padding {_limits(black['ratio'])}"
            return _measured(row["ratio"], f"{row['images']} images, {row['n']} questions", f"{how}; {cells}")
    if query == "object" and not any(row["n"] for row in rows.values()):
        return Measurement(note="no token of any prompt holds the object's name")
    return Measurement(note="no image of the run is padded; ask with --mode letterbox --colour black")


def grounding_signs(content: Content, model: str, least: Mapping[str, float]) -> dict[str, Measurement]:
    """Of a grounding run: how far words of attributes, relations and negation stay behind words of objects.

    Args:
        content: of scores.json.
        model: its name there.
        least: by group the gap that is a sign: objects must be looked at by more, or nothing can stay behind them.
    """
    held = content["models"].get(model, {})
    if "groups" not in held:
        return missing(GROUNDING, "no phrase of the run could be looked for")
    if "behind_objects" not in held:
        return missing(GROUNDING, OLD)
    gaps = held["behind_objects"]
    groups = held["groups"]
    found = {}
    for group in GROUPS:
        if group not in groups:
            found[group] = Measurement(note=f"the regions have no {group} words (scenes have)")
            continue
        if group not in gaps:
            found[group] = Measurement(note="the regions have no objects to compare with")
            continue
        objects, own = (groups[name]["iou"]["corrected"].get(NULL) for name in ("object", group))
        n = f"{groups[group]['iou']['images']} images, {groups[group]['iou']['n']} phrases"
        if objects is None or own is None or objects["value"] is None or own["value"] is None:
            found[group] = Measurement(n=n, note="too few images to know chance")
            continue
        note = f"objects {objects['value']:.2f}, {group} {own['value']:.2f}"
        # Where objects themselves are hardly looked at, nothing can stay behind them: no gap is no good sign.
        doubt = objects["low"] is None or objects["low"] <= least[group]
        if doubt:
            note += f"; objects themselves are not looked at by more than {least[group]:g}"
        found[group] = _measured(gaps[group], n, note, doubt)
    return found


def _limits(interval: Content) -> str:
    limits = "" if interval["low"] is None else f" [{interval['low']:.2f}, {interval['high']:.2f}]"
    return f"{interval['value']:.2f}{limits}"


def _measured(interval: Content, n: str, note: str, doubt: bool = False) -> Measurement:
    if interval["value"] is None:
        return Measurement(n=n, note=f"undefined ({note})")
    return Measurement(interval["value"], interval["low"], interval["high"], n, note, doubt)
