"""Similarity: do pairs of image and text that match differ from pairs that do not? The paper's Figure 2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analysis.similarity.drawing import SPACE_NAMES
from reports.document import Cell, Figure, Finding, Section, Table, interval, number
from reports.opened import Run
from reports.sections.inside import BY_ITSELF, Content, Looks, finding, numbers, side, texts, verdict
from reports.sections.similarity_figures import AGAINST, figures

NAME = "similarity"
TEXT = (
    "Do matching captions lie nearer to their image than texts that do not match? Figure 2 of the AGE-VLM paper (arXiv "
    "2511.17793) says that in small models with cross-attention they hardly do. Cosines are those of the caption's own "
    "tokens with the visual tokens that text can look at. raw: states as they are; centred: less the mean text state "
    "and the mean visual state, since raw cosines are ruled by directions that all states share. The paper says "
    "neither which layer nor which pooling, nor whether states were centred.",
    "What it does not show: similarity is not understanding, and nothing makes a model keep what it knows in a "
    "direction that text and image share. In a model with cross-attention the visual tokens are never in the text's "
    "own space: a cosine near 0 there says nothing by itself.",
)
MEASURES = (
    "AUROC: chance that a matching pair is more alike than one that does not match, of all images; 0.5: no difference. "
    "told apart: the whole interval lies above 0.5. Paired accuracy: the same within each image; chance 0.5. Overlap: "
    "of the two densities; two samples of one distribution do not overlap fully, see overlap of chance. Cohen's d: "
    "difference of the means in standard deviations; chance 0."
)
CONTROL = (
    "AUROC of the text alone: captions against their changed forms beside an image that they have nothing to do with; "
    "only what AUROC is above that is the image's doing. Another image's caption needs no such control: the same "
    "captions stand on both sides."
)


def section(runs: Sequence[Run]) -> Section | None:
    """Tables of the headline layers, controls and differences; histograms and layer profiles."""
    looks = Looks.among(runs, NAME)
    if looks is None:
        return None
    tables, drawn = list(_tables(looks)), list(looks.figures(figures))
    head = [one for one in tables if one.id == NAME]
    layers = [one for one in drawn if isinstance(one, Figure) and "-layers-" in one.id]
    items = [*head, *(d for d in drawn if d not in layers), *(t for t in tables if t not in head), *layers]
    return Section(NAME, "Image-text similarity", [*TEXT, *looks.lacking], items, looks.findings(_findings))


def _findings(content: Content) -> Iterator[Finding]:
    """Of hidden states against other images' captions, raw and centred: they may part."""
    for one in content["differences"]:
        if (one["pooling"], one["space"], one["kind"]) == (content["pooling"], "hidden", "other"):
            yield finding(f"similarity: AUROC, {one['form']} states", one["first"], one["second"], one["auroc"])


def _tables(looks: Looks) -> Iterator[Table]:
    place = texts("model", "layer", "against", "states")
    signs = numbers("AUROC", "paired accuracy", "overlap", "overlap of chance", "Cohen's d")
    layer = "Hidden states after the last layer of self-attention, before the final norm, unless a layer was chosen."
    yield from looks.table(
        "",
        "Similarity of matching against other pairs, hidden states",
        [*place, *signs, *texts("finding")],
        lambda content: ([*_place(c), *_signs(c)] for c in _headline(content) if c["space"] == "hidden"),
        (MEASURES, layer, BY_ITSELF),
        once=("against",),
    )
    yield from looks.table(
        "attention",
        "Similarity of matching against other pairs where the model looks: cross-attention's output, queries and keys",
        [*texts("space"), *place, *signs, *texts("finding")],
        lambda content: (
            [SPACE_NAMES[c["space"]], *_place(c), *_signs(c)] for c in _headline(content) if c["space"] != "hidden"
        ),
        (MEASURES, "The last layer that has them, unless a layer was chosen.", BY_ITSELF),
        once=("against",),
    )
    yield from looks.table(
        "controls",
        "Similarity: counts, mean cosines, and what the text does by itself",
        [
            *texts("space"),
            *place,
            *numbers("images", "pairs", "undefined", "mean cosine, matching", "mean cosine, other"),
            *numbers("AUROC of the text alone", "AUROC above it"),
        ],
        lambda content: ([SPACE_NAMES[c["space"]], *_place(c), *_controls(c)] for c in _headline(content)),
        (CONTROL, "undefined: pairs without a cosine (a state of length 0, numbers that overflowed)."),
        once=("against", "images", "pairs", "undefined", "AUROC of the text alone", "AUROC above it"),
        folded=True,
    )
    yield from looks.table(
        "left-out",
        "Similarity: images without scores",
        [*texts("why"), *numbers("images")],
        _left_out,
        ("Images are scored where every model could look at them; run.json says what went wrong.",),
    )
    yield from looks.table(
        "differences",
        "Similarity: differences between models, first less second, on the same images",
        [
            *texts("first", "second", "space", "against", "states"),
            *numbers("AUROC"),
            *texts("AUROC of the first is"),
            *numbers("paired accuracy", "overlap", "Cohen's d"),
        ],
        _differences,
        (
            "Paired: the same draws of images. Established: the whole interval lies on one side of 0; else a tie.",
            BY_ITSELF,
        ),
        once=("against",),
    )


def _headline(content: Content) -> Iterator[Content]:
    """The cells of the headline layers and the headline pooling."""
    for cell in content["cells"]:
        if cell["headline"] and cell["pooling"] == content["pooling"]:
            yield cell


def _place(cell: Content) -> list[str]:
    return [str(cell["model"]), f"{cell['layer']}", AGAINST.get(cell["kind"], str(cell["kind"])), str(cell["form"])]


def _signs(cell: Content) -> list[Cell | str]:
    return [
        *(interval(cell[name]) for name in ("auroc", "paired", "overlap")),
        number(cell["overlap_of_chance"], unit="number"),
        interval(cell["d"], "signed"),
        side(cell["auroc"], 0.5, "told apart", "the wrong way round", "not told apart"),
    ]


def _controls(cell: Content) -> list[Cell]:
    counts = (number(cell[name], unit="count") for name in ("images", "pairs", "undefined"))
    means = (number(cell[name], unit="signed") for name in ("mean_match", "mean_other"))
    alone, above = cell["auroc_of_text_alone"], cell["auroc_above_text_alone"]
    none = {"value": None}
    return [*counts, *means, interval(alone or none), interval(above or none, "signed")]


def _left_out(content: Content) -> Iterator[list[Cell | str]]:
    lacking = {f"no text of the kind: {AGAINST.get(kind, kind)}": n for kind, n in content["images_without"].items()}
    lacking["not looked at with every model"] = content["images_not_with_every_model"]
    for why, count in lacking.items():
        if count:
            yield [why, number(count, unit="count")]


def _differences(content: Content) -> Iterator[list[Cell | str]]:
    for one in content["differences"]:
        if one["pooling"] == content["pooling"]:
            names = (str(one["first"]), str(one["second"]), SPACE_NAMES[one["space"]])
            others = (interval(one[name], "signed") for name in ("paired", "overlap", "d"))
            kind = AGAINST.get(one["kind"], str(one["kind"]))
            yield [*names, kind, str(one["form"]), interval(one["auroc"], "signed"), verdict(one["auroc"]), *others]
