"""Grounding: does attention lie on what is asked about? Every score beside what chance and the grid allow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from analysis.grounding.measures import SCORES
from analysis.grounding.nulls import NULLS
from analysis.grounding.records import KINDS
from analysis.grounding.showing import TITLES
from reports.document import NONE, Cell, Figure, Finding, Section, Table, interval, number
from reports.opened import Run
from reports.sections.grounding_figures import figures, scored
from reports.sections.inside import ATTENTION, BY_ITSELF, Content, Looks, finding, numbers, side, texts, verdict

NAME = "grounding"
QUERIES = {
    "phrase-last": "the phrase's last token",
    "phrase": "mean of the phrase's tokens",
    "last": "last token before the answer",
    "answer": "the answer's first token",
}
ABSTRACT = ("attribute", "relation", "negation")
TEXT = (
    'Does a model look at what it is asked about? Attention of the phrase\'s last token ("dog" in "Is there a dog in '
    'the image?"), mean over heads and layers unless said otherwise, against the mask of the object.',
    f"What it does not show: {ATTENTION} A checkpoint that was trained with masks as its teacher is measured here by "
    "what it was taught.",
)
HOW = (
    "IoU, area-matched: of as many of the most attended cells as cover the mask's area. IoU at t: of the cells with at "
    "least t times the largest attention. Soft Dice: of attention and mask, each made to sum to 1. Pointing game: "
    "chance that a point on the most attended cell lies on the mask. Mass inside: share of the attention on the image "
    "that lies on the mask. Mass over area: that over the mask's share of the image. AUROC: chance that a point of the "
    "mask has more attention than one beside it."
)
NULL = (
    "Nulls: what a map would score that knows nothing of this image. uniform: all cells alike; centre: a Gaussian "
    "around the centre; others: the mean map of all other images; swapped: the map against the mask of another image. "
    "Ceiling: the most that any map on this grid could have. Corrected: (score - null) / (ceiling - null); 0: no "
    "better than the null, 1: nothing could do better."
)
STRONGEST = "Corrected against the strongest null, which is named."
PAIRED = (
    "Paired by region, the same draws of images. Established: the whole interval lies on one side of 0; else a tie."
)


def section(runs: Sequence[Run]) -> Section | None:
    """Scores beside their nulls, by query, size, group and layer; differences; figures."""
    looks = Looks.among(runs, NAME)
    if looks is None:
        return None
    drawn = list(looks.figures(figures))
    scores = [one for one in drawn if isinstance(one, Figure) and one.id.endswith("-scores")]
    layers = [one for one in drawn if one not in scores]
    tables = sorted((*_main(looks), *_parts(looks), *_others(looks)), key=lambda one: one.folded)
    items = [*tables[:1], *scores, *tables[1:], *layers]
    return Section(NAME, "Attention against masks", [*TEXT, *looks.lacking], items, looks.findings(_findings))


def _findings(content: Content) -> Iterator[Finding]:
    for pair, held in content["differences"].items():
        first, second = _pair(pair, content)
        yield finding("grounding: IoU", first, second, held.get("iou", _NOTHING))


def _main(looks: Looks) -> Iterator[Table]:
    yield from looks.table(
        "",
        "Attention against masks, beside nulls and ceiling; phrases that name objects",
        [
            *texts("score", "model"),
            *numbers("value", *NULLS, "ceiling", "corrected"),
            *texts("against", "beyond chance"),
            *numbers("regions", "images"),
        ],
        _scores,
        (HOW, NULL, f"{STRONGEST} beyond chance: the whole interval of the corrected score lies above 0."),
        once=("regions", "images"),
    )
    yield from looks.table(
        "corrected",
        "The same scores corrected for each null and the ceiling",
        [*texts("model", "score"), *numbers(*(f"for {null}" for null in NULLS))],
        lambda content: (
            [model, score_name(score), *(_corrected(cell, null) for null in NULLS)]
            for model, held in scored(content).items()
            for score, cell in held["headline"].items()
        ),
        (NULL,),
        folded=True,
    )
    others = numbers(*(TITLES[s] for s in SCORES if s != "iou"))
    yield from looks.table(
        "differences",
        "Attention against masks: differences between models, first less second, on the same regions",
        [*texts("first", "second"), *numbers("regions", TITLES["iou"]), *texts("IoU of the first is"), *others],
        lambda content: (
            [
                *_pair(pair, content),
                number(held["n"], unit="count"),
                _gap(held, "iou"),
                verdict(held.get("iou", _NOTHING)),
                *(_gap(held, s) for s in SCORES if s != "iou"),
            ]
            for pair, held in content["differences"].items()
        ),
        (PAIRED, BY_ITSELF),
        once=("regions",),
    )
    yield from looks.table(
        "grid",
        "What was looked at, and how the maps are",
        [
            *texts("model", "grid, rows x columns"),
            *numbers("regions", "best IoU of the grid", "mask's share of the image, %", "attention on the image, %"),
            *numbers("of it on padding, %", "of it on sinks, %", "sinks a map", "entropy", "not scored"),
        ],
        _grid,
        (
            "best IoU of the grid: of the best choice of whole cells. Attention on the image: of all that the word "
            "gives to anything. Sinks: cells that draw attention in other images whatever they show; told from 32 "
            "images on. Entropy: 1 is an even spread. not scored: regions without a map.",
        ),
        once=("grid, rows x columns", "regions", "best IoU of the grid", "mask's share of the image, %", "not scored"),
        folded=True,
    )


_NOTHING: Content = {"value": None, "low": None, "high": None}


def score_name(score: str) -> str:
    """A score's name for readers."""
    return TITLES.get(score) or f"IoU at {score.removeprefix('iou@')} of the largest"


def _scores(content: Content) -> Iterator[list[Cell | str]]:
    models = scored(content)
    for score in dict.fromkeys(score for held in models.values() for score in held["headline"]):
        for model, held in models.items():
            if (cell := held["headline"].get(score)) is None:
                continue
            nulls = (number(cell["nulls"][null], unit="number") for null in NULLS)
            ceiling = number(cell["ceiling"], unit="number")
            counts = (number(cell[name], unit="count") for name in ("n", "images"))
            yield [score_name(score), model, interval(cell), *nulls, ceiling, *_strongest(cell), _beyond(cell), *counts]


def _strongest(cell: Content) -> tuple[Cell, str]:
    strongest = cell["strongest"]
    return _corrected(cell, strongest), strongest or NONE


def _pair(name: str, content: Content) -> Sequence[str]:
    """The two models of a difference; a model's own name may hold what stands between them."""
    pairs = itertools.permutations(map(str, content["models"]), 2)
    return next((pair for pair in pairs if " - ".join(pair) == name), (name, NONE))


def _corrected(cell: Content, null: str | None) -> Cell:
    return interval(cell["corrected"].get(null, _NOTHING), "signed")


def _beyond(cell: Content) -> str:
    return side(cell["corrected"].get(cell["strongest"], _NOTHING), 0.0, "yes", "below chance", "not shown")


def _gap(held: Content, score: str) -> Cell:
    return interval(held.get(score, _NOTHING), "signed")


def _grid(content: Content) -> Iterator[list[Cell | str]]:
    for model, held in scored(content).items():
        facts = held["facts"]
        lost = sum(map(len, held["left_out"].values())) + held["headline_looks"] - held["headline"]["iou"]["n"]
        yield [
            model,
            ", ".join(f"{grid} ({count})" for grid, count in held["grids"].items()),
            number(held["headline_looks"], unit="count"),
            number(held["best_iou_of_the_grid"], unit="number"),
            number(held["mask_share"]),
            *(interval(facts[name], "percent") for name in ("on_image", "padding", "sinks")),
            *(interval(facts[name]) for name in ("sink_cells", "entropy")),
            number(lost, unit="count"),
        ]


def _parts(looks: Looks) -> Iterator[Table]:
    """The headline's scores, split up."""
    measures = [
        *numbers("regions", "IoU, area-matched", "IoU corrected"),
        *texts("against"),
        *numbers("mass inside", "mass inside, uniform", "AUROC", "pointing game"),
    ]
    splits: tuple[tuple[str, str, str, Callable[[Content], Iterable[str]], str], ...] = (
        ("queries", "by token that looks", "token", lambda _: KINDS, ""),
        ("sizes", "by share of the image that the mask covers", "mask's share", lambda held: held["sizes"], ""),
        (
            "groups",
            "by kind of word",
            "words of",
            lambda held: held["groups"],
            f"Words of {', '.join(ABSTRACT)} name no region: their masks are those of the objects that they are said "
            "of, and they are in no other table.",
        ),
    )
    for part, how, head, keys, note in splits:
        yield from looks.table(
            part,
            f"Attention against masks {how}",
            [*texts(head, "model"), *measures],
            partial(_split, part=part, keys=keys),
            [*filter(None, (note,)), STRONGEST],
            once=("regions", "mass inside, uniform"),
            folded=part == "queries",
        )
    yield from looks.table(
        "layers",
        "Attention against masks by layer",
        [
            *texts("model", "layer"),
            *numbers("IoU, area-matched", "IoU, others", "IoU corrected"),
            *texts("against"),
            *numbers("mass inside", "AUROC", "on the image, %", "on padding, %", "on sinks, %"),
        ],
        _layers,
        ("mean: of all layers. others: the IoU of the mean map of all other images.", STRONGEST),
        folded=True,
    )


def _split(content: Content, part: str, keys: Callable[[Content], Iterable[str]]) -> Iterator[list[Cell | str]]:
    models = scored(content)
    for key in dict.fromkeys(key for held in models.values() for key in keys(held)):
        for model, held in models.items():
            if key in held[part]:
                iou, mass, auroc, pointing = (held[part][key][score] for score in ("iou", "mass", "auroc", "pointing"))
                count, null = number(iou["n"], unit="count"), number(mass["nulls"]["uniform"], unit="number")
                scores = (interval(iou), *_strongest(iou), interval(mass), null, interval(auroc), interval(pointing))
                yield [QUERIES.get(key, str(key)), model, count, *scores]


def _layers(content: Content) -> Iterator[list[Cell | str]]:
    for model, held in scored(content).items():
        for layer, cells in held["by_layer"].items():
            iou, facts = cells["iou"], cells["facts"]
            yield [
                model,
                str(layer),
                interval(iou),
                number(iou["nulls"]["others"], unit="number"),
                *_strongest(iou),
                interval(cells["mass"]),
                interval(cells["auroc"]),
                *(interval(facts[name], "percent") for name in ("on_image", "padding", "sinks")),
            ]


def _others(looks: Looks) -> Iterator[Table]:
    yield from looks.table(
        "chosen",
        "Layer, threshold and head that are best on half of the images, reported on the other half",
        [
            *texts("model", "what", "chosen"),
            *numbers("IoU", "IoU corrected"),
            *texts("against"),
            *numbers("mean over layers, area-matched IoU", "images chosen on", "images reported on"),
        ],
        _chosen,
        ("The best of many on the same images would look better than it is.", STRONGEST),
        once=("images chosen on", "images reported on"),
        folded=True,
    )
    yield from looks.table(
        "answers",
        "Answers to the same questions, % of questions",
        [
            *texts("words of", "model"),
            *numbers("questions", "right", "right where yes is right", "right where no is right", "said yes"),
            *numbers("neither yes nor no", "failed"),
        ],
        _answers,
        ("What is neither yes nor no counts as wrong; a question that failed is in no share.",),
    )
    yield from looks.table(
        "left-out",
        "Phrases and images without scores",
        [*texts("model", "why"), *numbers("how many"), *texts("first of them")],
        _left_out,
    )
    yield from looks.table(
        "noise",
        "Attention against distorted masks: change of each score on the same regions",
        [
            *texts("distortion", "model"),
            *numbers("regions lost", "IoU of the masks", *(TITLES[s] for s in SCORES)),
        ],
        _noise,
        ("A score that hardly moves says little about where the mask's borders are.", PAIRED),
    )


def _chosen(content: Content) -> Iterator[list[Cell | str]]:
    for model, held in scored(content).items():
        chosen = held["chosen"]
        if "left_out" in chosen:
            yield [model, str(chosen["left_out"]), *[NONE] * 7]
            continue
        images = [number(chosen[f"{half}_images"], unit="count") for half in ("tuning", "tested")]
        mean, head = interval(chosen["mean_layer"]["iou"]), chosen["head"]
        found = [
            ("layer, area-matched IoU", str(chosen["layer"]), chosen["scores"]["iou"]),
            ("threshold", f"{chosen['threshold']:g} of the largest", chosen["threshold_iou"]),
        ]
        if head is not None:
            found.append(("head, area-matched IoU", f"layer {head['layer']}, head {head['head']}", head["iou"]))
        for what, which, cell in found:
            yield [model, what, which, interval(cell), *_strongest(cell), mean, *images]


def _answers(content: Content) -> Iterator[list[Cell | str]]:
    models = content["models"]
    for group in dict.fromkeys(group for held in models.values() for group in held["answers"]):
        for model, held in models.items():
            if group in held["answers"]:
                cells = held["answers"][group]
                shares = ("accuracy", "accuracy_where_yes", "accuracy_where_no", "yes_ratio")
                counts = (number(cells.get(name), unit="count") for name in ("neither", "failed"))
                scores = (interval(cells[name], "percent") for name in shares)
                yield [group, str(model), number(cells["questions"], unit="count"), *scores, *counts]


def _left_out(content: Content) -> Iterator[list[Cell | str]]:
    found = [("all", why, names) for why, names in content["left_out"].items()]
    for model, held in content["models"].items():
        found += [(str(model), str(why), names) for why, names in held["left_out"].items()]
        if held["images_failed"]:
            found.append((str(model), "images that could not be looked at", held["images_failed"]))
    for model, why, names in found:
        yield [model, why, number(len(names), unit="count"), ", ".join(map(str, names[:3]))]


def _noise(content: Content) -> Iterator[list[Cell | str]]:
    models = scored(content)
    for noise in dict.fromkeys(noise for held in models.values() for noise in held["noise"]):
        for model, own in models.items():
            held = own["noise"][noise]
            change = held.get("change", {})
            counts = number(held["lost"], unit="count"), number(held.get("agreement"), unit="number")
            yield [str(noise), model, *counts, *(interval(change.get(s) or _NOTHING, "signed") for s in SCORES)]
