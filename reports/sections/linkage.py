"""Linkage: does looking explain answering?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analysis.figures import encoded
from analysis.linkage.effects import AGAINST, KINDS
from analysis.linkage.figures import WAY_NAMES, aurocs, hiding
from analysis.linkage.signals import BY_COLUMN, SIGNALS
from analysis.linkage.targets import FEWEST, TARGETS
from reports.document import Cell, Figure, Section, Table, interval, number, slug
from reports.opened import Run
from reports.sections.inside import ATTENTION, Content, Drawn, Looks, numbers, side, texts, verdict
from reports.verdicts import NO_INTERVAL

NAME = "linkage"
TEXT = (
    "Does where a model looks tell whether its answer is right, and does the answer come from there? Each POPE "
    "question of an image once, with the attention of the object's word and of the last token, the similarity, the "
    "object's size, what usually comes with it, and the yes-margin: log p(yes) - log p(no) of the first token.",
    f"What it does not show: {ATTENTION} A high AUROC is no cause; the parts that are hidden say more. Hiding cells "
    "from attention leaves what other visual tokens have taken from them; painting over leaves an image that is no "
    "longer natural. Signals that use masks or the prior need annotations: they explain errors, and cannot find them "
    "in new images.",
)
AUROC = (
    "AUROC: chance that a question of the positive class has the larger value; 0.5: the signal tells nothing; below "
    "0.5: smaller values go with the positive class. It is never turned around. "
    f"too few: fewer than {FEWEST} images with, or without, the positive class. constant: the same for every question."
)
DECIDES = (
    "* For hallucinated and missed a positive margin is the answer itself: its AUROC says that the answer follows from "
    "it, and nothing is left for attention to add. false yes and false no do not have this flaw."
)
PARTS = (
    "As many cells as the object touches are hidden: object: its own; attended: those of most attention of the "
    "object's word; random: others, none the object's; moved: the object's shape in another place. Drop: the "
    "yes-margin before less after, in nats; flip: a yes that turns to no."
)


def section(runs: Sequence[Run]) -> Section | None:
    """What tells errors, what attention adds, and what hiding does."""
    looks = Looks.among(runs, NAME)
    if looks is None:
        return None
    items: list[Table | Drawn] = [*_signals(looks), *_hiding(looks), *_differences(looks), *looks.figures(_figures)]
    return Section(NAME, "Looking and answering", [*TEXT, *looks.lacking], items)


COUNTS = ("questions", "images", "present", "absent", "correct", "hallucinated", "missed", "unreadable", "errors")


def _signals(looks: Looks) -> Iterator[Table]:
    yield from looks.table(
        "",
        "Looking and answering: questions",
        [*texts("model"), *numbers(*COUNTS)],
        lambda content: (
            [str(model), *(number(own["counts"][name], unit="count") for name in COUNTS)]
            for model, own in content["models"].items()
        ),
        (
            "Each distinct question of an image once. present, absent: objects that are there or not. hallucinated: "
            "yes among absent ones; missed: no among present ones; unreadable: neither yes nor no, in no score.",
        ),
    )
    yield from looks.table(
        "signals",
        "Which signals tell errors: AUROC",
        [*texts("model", "signal"), *numbers(*(f"{t.name}{' *' * t.margin_decides}" for t in TARGETS))],
        _aurocs,
        (
            AUROC,
            "Positive class: " + "; ".join(f"{t.name}: {t.said}" for t in TARGETS) + ".",
            DECIDES,
            "The first row of a model: questions of the positive class, and all.",
        ),
    )
    yield from looks.table(
        "added",
        "What attention adds to what the answer itself gives away: cross-validated AUROC",
        [
            *texts("model", "target", "base"),
            *numbers("base alone", "with attention", "gain", "gain of attention dealt out at random"),
            *texts("with attention it is"),
        ],
        _added,
        (
            "Logistic models on folds of whole images. prior: log odds of the object by the others in the image. "
            f"too few: fewer than {FEWEST} images with, or without, the positive class.",
            DECIDES,
        ),
    )


def _aurocs(content: Content) -> Iterator[list[Cell | str]]:
    for model, own in content["models"].items():
        targets = [own["targets"][target.name] for target in TARGETS]
        yield [
            str(model),
            "(questions)",
            *(f"{number(t['positives'], unit='count')} of {number(t['n'], unit='count')}" for t in targets),
        ]
        for signal in SIGNALS:
            cells = [_ranked(target["signals"].get(signal.column)) for target in targets]
            if any(map(str, cells)):
                yield [str(model), signal.label, *cells]


def _ranked(ranked: Content | None) -> Cell | str:
    if ranked is None or ranked["why_not"] == "none":
        return ""
    return interval(ranked["auroc"]) if ranked["why_not"] is None else str(ranked["why_not"])


def _added(content: Content) -> Iterator[list[Cell | str]]:
    for model, own in content["models"].items():
        for target in TARGETS:
            for base, one in own["targets"][target.name]["added_by_attention"].items():
                named = f"{base} *" if target.margin_decides and "margin" in base else str(base)
                if one is None:
                    yield [str(model), target.name, named, "too few", "", "", "", NO_INTERVAL]
                    continue
                gains = (interval(one[name], "signed") for name in ("gain", "gain_permuted"))
                plain = (interval(one[name]) for name in ("base", "full"))
                yield [str(model), target.name, named, *plain, *gains, verdict(one["gain"])]


def _hiding(looks: Looks) -> Iterator[Table]:
    against = [f"{kind} - {control}" for kind, controls in AGAINST.items() for control in controls]
    yield from looks.table(
        "hiding",
        "Parts of the image hidden, objects that are there and were answered yes: drop of the yes-margin, nats",
        [
            *texts("model", "way"),
            *numbers("questions", "images", "margin before", *KINDS, *against),
            *texts("the object matters more than random"),
        ],
        lambda content: (
            [
                str(model),
                WAY_NAMES[how],
                *(number(way["margin"][name], unit="count") for name in ("n", "images")),
                interval(way["margin"], "signed"),
                *(_mean(way["drop"], kind) for kind in KINDS),
                *(_mean(way["drop_against"], name) for name in against),
                side(way["drop_against"].get("object - random", _NONE), 0.0, "established", "less", "not shown"),
            ]
            for model, own in content["models"].items()
            for how, way in own["causal"]["ways"].items()
        ),
        (PARTS, "Differences are question by question."),
    )
    yield from looks.table(
        "checked",
        "Parts of the image hidden: which questions",
        [*texts("model", "question"), *numbers("questions")],
        lambda content: (
            [str(model), str(why), number(count, unit="count")]
            for model, own in content["models"].items()
            for why, count in [
                *own["causal"]["questions"].items(),
                ("hidings without a margin, left out", own["causal"]["missing_margins"]),
            ]
        ),
        ("hidden: parts were hidden; the others say why not. too large: no room for a control of its size.",),
    )
    yield from looks.table(
        "flips",
        "Parts of the image hidden: answers that turn from yes to no, % of questions",
        [*texts("model", "way"), *numbers(*KINDS), *numbers(*(f"image hidden, {kind}" for kind in KINDS))],
        lambda content: (
            [
                str(model),
                WAY_NAMES[how],
                *(_mean(way["flips"], kind, "percent") for kind in KINDS),
                *(number(way["share_of_image"].get(kind)) for kind in KINDS),
            ]
            for model, own in content["models"].items()
            for how, way in own["causal"]["ways"].items()
        ),
        (PARTS, "image hidden: mean share of the image, %."),
    )
    yield from looks.table(
        "curve",
        "Cells hidden from attention, most attended first or at random: drop of the yes-margin, nats",
        [
            *texts("model", "answered yes to"),
            *numbers("questions", "cells hidden, %", "attended first", "random", "attended - random"),
            *numbers("turned to no, attended, %", "turned to no, random, %"),
        ],
        _curve,
        ("Of the cells that hold image. absent objects: hallucinations.",),
    )


_NONE: Content = {"value": None, "low": None, "high": None}


def _mean(held: Content, name: str, unit: str = "signed") -> Cell:
    return interval(held.get(name, _NONE), "percent" if unit == "percent" else "signed")


def _curve(content: Content) -> Iterator[list[Cell | str]]:
    for model, own in content["models"].items():
        for name, points in own["causal"]["curves"].items():
            for point in points:
                yield [
                    str(model),
                    f"{name} objects",
                    number(point["attended - random"]["n"], unit="count"),
                    number(point["share"]),
                    *(_mean(point["drop"], kind) for kind in ("attended", "random")),
                    interval(point["attended - random"], "signed"),
                    *(_mean(point["flips"], kind, "percent") for kind in ("attended", "random")),
                ]


def _differences(looks: Looks) -> Iterator[Table]:
    yield from looks.table(
        "differences",
        "Looking and answering: differences of models from the first",
        [*texts("model", "what"), *numbers("difference"), *texts("it is")],
        lambda content: (
            [str(model), _what(what), interval(cell, "signed"), verdict(cell)]
            for model, own in content["differences"].items()
            for what, cell in own.items()
        ),
        (
            "AUROC of a signal for a target, or drop of the yes-margin in nats against a control; the same draws of "
            "images. Of many rows, one in twenty leaves 0 out by chance.",
        ),
    )


def _what(what: str) -> str:
    """Of a difference, in words."""
    first, _, rest = what.partition(": ")
    if first == "causal":
        how, _, which = rest.partition(": ")
        return f"{WAY_NAMES.get(how, how)}: {which}"
    return f"{first}: {BY_COLUMN[rest].label if rest in BY_COLUMN else rest}"


def _figures(prefix: str, run: Run) -> Iterator[Figure]:
    models = (run.scores or {})["models"]
    for target in TARGETS:
        if (drawn := aurocs(models, [target])) is not None:
            png, svg = encoded(drawn)
            yield Figure(
                f"{prefix}-auroc-{slug(target.name)}",
                f"Which signals tell: {target.name} ({target.said})",
                f"AUROC of each signal for {target.name}, with intervals, beside the same values dealt out at random.",
                png,
                svg,
                "Lines: 95 % intervals over images; grey: values dealt out to the questions at random; 0.5 tells "
                "nothing.",
            )
    for number_, (name, own) in enumerate(models.items(), start=1):
        if (drawn := hiding({name: own})) is not None:
            png, svg = encoded(drawn)
            way = next(iter(own["causal"]["ways"].values()), None)
            found = "" if way is None else f" Object less random: {_mean(way['drop_against'], 'object - random')} nats."
            yield Figure(
                f"{prefix}-hiding-{number_}-{slug(str(name))}",
                f"Parts of the image hidden: {name}",
                f"Drop of the yes-margin where the object or what was attended is hidden, beside random cells.{found}",
                png,
                svg,
                "Above: as many cells as the object touches; below: more and more cells, the most attended first. "
                "Lines and bands: 95 % intervals over images.",
            )
