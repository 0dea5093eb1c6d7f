"""Padding: how much attention lies on it, and what it does to answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from analysis.figures import encoded
from analysis.padding.answers import GONE
from analysis.padding.figure import TITLES, profile
from analysis.padding.looking import QUERIES
from analysis.padding.score import ALL, NON_SQUARE, SQUARE
from reports.document import NONE, Cell, Figure, Section, Table, interval, number, printed
from reports.opened import Run
from reports.sections.inside import Content, Drawn, Looks, numbers, side, texts, verdict

NAME = "padding"
TEXT = (
    "How much of a model's attention lies on padding, and what does padding do to its answers? The same images as they "
    "are (native: the model's own processor pads, crops or squashes), letterboxed to a square, squashed to it and "
    "cropped, with the same POPE questions. Square images are the same picture under all conditions: the numbers are "
    "of images that are not square, unless said otherwise.",
    "What it does not show: attention is not use. Padding that is looked at may be read as nothing; the rows with "
    "padding hidden say whether answers depend on it, not how. A canvas changes more than padding: a colour that was "
    "never trained with is new to the model, squashing changes shapes, cropping changes what is seen.",
)
RATIO = (
    "Attention on padding: of the attention to the image's cells, the share on padding. Over its share of the cells: "
    "that divided by the share of the cells that are padding; 1 is what attention gives to padding that knows no "
    "difference between picture and padding. squash has no padding: the same places, where they hold image."
)
PAIRED = "Paired by question. Established: the whole interval lies on one side of 0; else a tie."
FLIPS = (
    "to yes, to no, to wrong, to right: different questions whose answer changed so. p: McNemar's exact test on wrong "
    "and right; it takes questions as independent, which questions about one image are not: read the interval first."
)
MARGIN = "margin: log p(yes) - log p(no) of the first token, towards the right one, in nats."


def section(runs: Sequence[Run]) -> Section | None:
    """Attention on padding, answers by condition, answers with padding hidden, differences; ratio by layer."""
    looks = Looks.among(runs, NAME)
    if looks is None:
        return None
    items: list[Table | Drawn] = [*_attention(looks), *_answers(looks), *_rest(looks), *looks.figures(_figures)]
    return Section(NAME, "Padding", [*TEXT, *looks.lacking], items)


def _attention(looks: Looks) -> Iterator[Table]:
    yield from looks.table(
        "images",
        "Images, and how much padding they need, % of a square around them",
        numbers("images", "square", "not square", "least", "median", "most"),
        _shapes,
        ("least, median, most: of the images that are not square.",),
    )
    yield from looks.table(
        "",
        "Attention on padding, mean over layers and heads",
        [
            *texts("model", "condition", "token that looks"),
            *numbers("questions", "left out", "images", "cells that are padding, %", "attention on padding, %"),
            *numbers("over its share of the cells", "the same, cells all padding"),
            *texts("padding gets"),
            *numbers("attention on the image's cells, %"),
        ],
        _attended,
        (
            RATIO,
            "left out: questions whose object is no token of the prompt, or whose token gives the image no attention.",
            "padding gets more or less than uniform attention where the whole interval lies on that side of 1.",
        ),
    )


def _shapes(content: Content) -> Iterator[list[Cell | str]]:
    shapes = content["shapes"]
    counts = [number(shapes[name], unit="count") for name in ("images", "square", "non_square")]
    yield [*counts, *(number(shapes[name]) for name in ("least", "median", "most"))]


def _attended(content: Content) -> Iterator[list[Cell | str]]:
    for row in content["attention"]:
        if row["group"] == NON_SQUARE and row["layer"] is None:
            found = row["attended"]
            yield [
                str(row["checkpoint"]),
                _condition(row["condition"]),
                TITLES[row["query"]],
                number(found["n"], unit="count"),
                number(found["without_query"] + found["without_attention"], unit="count"),
                number(found["images"], unit="count"),
                number(found["cells"]),
                interval(found["share"], "percent"),
                interval(found["ratio"]),
                interval(found["empty_ratio"]),
                side(found["ratio"], 1.0, "more", "less", "as much as uniform"),
                interval(found["visual"], "percent"),
            ]


def _condition(name: str) -> str:
    return "squash (same places)" if name == "squash" else str(name)


def _answers(looks: Looks) -> Iterator[Table]:
    yield from looks.table(
        "answers",
        "Answers by condition, % of questions (POPE's protocol default)",
        [
            *texts("model", "condition", "images shown"),
            *numbers("questions", "images", "accuracy", "F1", "yes ratio", "missing", "neither yes nor no"),
        ],
        _scores,
        (
            "Questions that stand in several splits count in each, as POPE pools them. crop: without the questions "
            f"whose object is known to be cropped away (under {printed(GONE, 'percent')} % of it left).",
        ),
    )
    changes = [
        *texts("model", "condition"),
        *numbers("questions", "accuracy", "F1", "yes ratio", "margin, nats"),
        *texts("accuracy is"),
        *numbers("to yes", "to no", "to wrong", "to right", "p"),
    ]
    yield from looks.table(
        "changes",
        "Answers: change against the images as they are, points",
        changes,
        partial(_changes, part="answers"),
        (PAIRED, FLIPS, MARGIN),
    )
    yield from looks.table(
        "hidden",
        "Answers with padding hidden from the text: change against padding visible, points",
        changes,
        partial(_changes, part="hidden"),
        (
            "Cells without any image are masked as keys for all text. Both sides are decided by the likelier of yes "
            "and no as the first token; what visual tokens took from padding stays.",
            PAIRED,
            FLIPS,
            MARGIN,
        ),
    )


def _scores(content: Content) -> Iterator[list[Cell | str]]:
    for row in content["answers"]:
        if row["group"] in (NON_SQUARE, SQUARE, ALL):
            found = row["compared"]
            yield [
                str(row["checkpoint"]),
                str(row["condition"]),
                {NON_SQUARE: "not square", SQUARE: "square", ALL: "all"}[row["group"]],
                *(number(found[name], unit="count") for name in ("n", "images")),
                *(interval(found["scores"][name], "percent") for name in ("accuracy", "f1", "yes_ratio")),
                *(number(found[name], unit="count") for name in ("missing", "unparsed")),
            ]


def _changes(content: Content, part: str) -> Iterator[list[Cell | str]]:
    for row in content[part]:
        if row["group"] != NON_SQUARE or row["condition"] == row["against"]:
            continue
        found = row["compared"]
        yield [
            str(row["checkpoint"]),
            str(row["condition"]),
            number(found["n"], unit="count"),
            *(interval(found["change"][name], "points") for name in ("accuracy", "f1", "yes_ratio")),
            interval(found["margin"], "signed"),
            verdict(found["change"]["accuracy"]),
            *(number(found[name], unit="count") for name in ("to_yes", "to_no", "to_wrong", "to_right")),
            number(found["mcnemar"], unit="number"),
        ]


def _rest(looks: Looks) -> Iterator[Table]:
    yield from looks.table(
        "cropped",
        "Objects that a crop leaves out, and how often they are affirmed",
        [
            *texts("model"),
            *numbers("objects with a mask", "of these cropped away", "said yes before, %", "said yes after, %"),
            *numbers("objects without a mask"),
        ],
        _cropped,
        ("Their label says yes; the cropped picture does not show them. Without a mask one may be cut off unnoticed.",),
    )
    yield from looks.table(
        "absent",
        "Objects that are not there, images as they are: said yes, % of questions",
        [*texts("model"), *numbers("questions", "images", "said yes", "neither yes nor no")],
        lambda content: (
            [
                str(row["checkpoint"]),
                *(number(row[name], unit="count") for name in ("questions", "images")),
                interval(row["yes"], "percent"),
                number(row["unparsed"], unit="count"),
            ]
            for row in content.get("absent", ())
        ),
        ("All images, square ones too. Answers that are neither are not counted as yes.",),
    )
    yield from looks.table(
        "differences",
        "Padding: differences between models on the same questions",
        [
            *texts("model", "less", "condition", "what"),
            *numbers("questions", "images", "difference"),
            *texts("the first is"),
        ],
        _differences,
        (
            "ratio: attention on padding over its share of the cells; accuracy and its change against native in "
            "points.",
            PAIRED,
        ),
    )


def _cropped(content: Content) -> Iterator[list[Cell | str]]:
    for row in content["cropped"]:
        counts = [number(row[name], unit="count") for name in ("known", "gone")]
        yes = [number(row[name]) for name in ("yes_native", "yes_crop")]
        yield [str(row["checkpoint"]), *counts, *yes, number(row["unknown"], unit="count")]


def _differences(content: Content) -> Iterator[list[Cell | str]]:
    for row in content["differences"]:
        what = str(row["what"])
        yield [
            *(str(row[name]) for name in ("checkpoint", "minus", "condition")),
            f"ratio, {TITLES.get(what.removeprefix('ratio '), what)}" if what.startswith("ratio ") else what,
            *(number(row[name], unit="count") for name in ("n", "images")),
            interval(row["difference"], "signed" if what.startswith("ratio ") else "points"),
            verdict(row["difference"]),
        ]


def _figures(prefix: str, run: Run) -> Iterator[Figure]:
    attention = (run.scores or {})["attention"]
    for query in QUERIES:
        own = [row for row in attention if row["query"] == query]
        drawn = profile(own, [query])
        if drawn is None:
            continue
        png, svg = encoded(drawn)
        means = [r for r in own if r["group"] == NON_SQUARE and r["layer"] is None and r["condition"] == "native"]
        found = "; ".join(f"{r['checkpoint']} {interval(r['attended']['ratio'])}" for r in means)
        yield Figure(
            f"{prefix}-layers-{query}",
            f"Attention on padding by layer, {TITLES[query]}",
            "Attention on padding over its share of the cells, by layer and condition. Mean over layers, images as "
            f"they are: {found or NONE}.",
            png,
            svg,
            "Dotted: 1, uniform attention. Bands: 95 % intervals over images.",
        )
