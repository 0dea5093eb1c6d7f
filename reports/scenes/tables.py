"""A summary as tables: for a terminal, and as Markdown for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.pope.types import SPLITS
from reports.document import NONE, Cell, Column, Table, interval, slug
from reports.scenes.summary import FIRST, SEEING, Summary

Columns = Mapping[str, str]
"""Score -> its heading."""
Row = Sequence[Cell | str]

EXISTENCE: Columns = {
    "random/accuracy": "random",
    "popular/accuracy": "popular",
    "adversarial/accuracy": "adversarial",
    "adversarial/fpr": "adv. false yes",
    "pope/recall": "recall",
    "pope/blind": "blind",
}
KINDS = ("count", "color", "relation", "depth", "distance", "cv")
QUESTIONS: Columns = {f"{kind}/accuracy": "all" if kind == "cv" else kind for kind in KINDS} | {
    "cv/letters": "all, letters",
    "cv/blind": "all, blind",
}
SEEN: Columns = {f"{kind}/{SEEING}": "all" if kind == "cv" else kind for kind in KINDS}
LOOKING: Columns = {
    f"looks/{at}_{name}": f"{at}: {heading}"
    for at in ("word", "answer")
    for name, heading in (("iou", "IoU"), ("mass", "inside"), ("hit", "pointing"), ("on_image", "on image"))
} | {"looks/ceiling": "best IoU", "looks/even": "inside if even"}
HIDING: Columns = {"hiding/without_object": "object hidden", "hiding/without_others": "as much else hidden"}
COMPARED: Columns = {
    "random/accuracy": "random",
    "popular/accuracy": "popular",
    "adversarial/accuracy": "adversarial",
    "relation/accuracy": "relation",
    "cv/accuracy": "CV-Scenes",
    "looks/word_iou": "word: IoU",
    "looks/word_mass": "word: inside",
    "looks/word_hit": "word: pointing",
    "looks/answer_iou": "answer: IoU",
    "looks/answer_mass": "answer: inside",
}


def cell(found: Mapping[str, Any] | None, signed: bool = False) -> Cell:
    """Percent with limits, signed for points; a dash where there is nothing."""
    return Cell(NONE) if found is None else interval(found, "points" if signed else "percent")


def _table(title: str, headings: Sequence[str], rows: Sequence[Row], note: str = "") -> Table:
    """All columns but the first are set as numbers."""
    columns = [Column(heading, numeric=bool(place)) for place, heading in enumerate(headings)]
    cells = [[Cell(one) if isinstance(one, str) else one for one in row] for row in rows]
    return Table(slug(title), title, columns, cells, [note] if note else [])


def tables(summary: Summary) -> list[Table]:
    """All that have a row."""
    found = [
        _scores(summary, "POPE-Scenes, accuracy in %", EXISTENCE, "Ranked yes and no, POPE's own sampling."),
        _scores(
            summary, "CV-Scenes, accuracy in %", QUESTIONS, "Ranked options; letters: options offered as (A), (B)."
        ),
        _scores(
            summary,
            "CV-Scenes, with the image minus without it, in points",
            SEEN,
            "The same model, questions and options, paired question by question.",
            signed=True,
        ),
        _scores(summary, "Where the model looks, in %", LOOKING, _looking_note(summary)),
        _scores(
            summary,
            "Objects that the model says are there: still “yes” in %",
            HIDING,
            "Hidden: the cells of the object and those beside them, from every layer; control: as many other cells.",
        ),
        _table(
            f"{FIRST} minus another arm, in points, on the same images",
            ["arm", *COMPARED.values()],
            [[arm, *(cell(own.get(n), True) for n in COMPARED)] for arm, own in summary.differences.items()],
        ),
        _step_table(summary),
        _step_differences(summary),
        _cost_table(summary),
        _language_table(summary),
    ]
    return [table for table in found if table.rows]


def _scores(summary: Summary, title: str, columns: Columns, note: str, signed: bool = False) -> Table:
    rows = []
    for arm, own in summary.arms.items():
        # All of cross-attention is on the image: nothing that was found out.
        given = summary.attention[arm] == "cross-attention"
        cells = ["all" if given and n.endswith("on_image") else cell(own.get(n), signed) for n in columns]
        rows.append([arm, *cells])
    return _table(title, ["arm", *columns.values()], rows, note)


def _looking_note(summary: Summary) -> str:
    kinds = "; ".join(f"{arm}: {kind}" for arm, kind in summary.attention.items())
    return (
        "As the object's word is read, and at the last token before the answer. IoU of the cells above a threshold "
        "chosen on validation scenes; best IoU: of any choice of cells; inside: share of the attention to the image "
        f"on the object's cells. {kinds}."
    )


def _step_table(summary: Summary) -> Table:
    columns = (*(f"{split}/accuracy" for split in SPLITS), "relation/accuracy", "cv/accuracy", "looks/word_iou")
    rows: list[Row] = [
        [arm, f"{step:,}", *(cell(found.get(name)) for name in columns)]
        for arm, own in summary.steps.items()
        for step, found in own.items()
    ]
    headings = ["arm", "steps", *SPLITS, "relation", "CV-Scenes", "word: IoU"]
    return _table("After so many steps of stage 4, in %", headings, rows)


def _step_differences(summary: Summary) -> Table:
    columns = {name: title for name, title in COMPARED.items() if not name.startswith("looks/answer")}
    rows: list[Row] = [
        [arm, f"{step:,}", *(cell(found.get(name), True) for name in columns)]
        for arm, own in summary.step_differences.items()
        for step, found in own.items()
    ]
    title = f"{FIRST} minus another arm after so many steps of stage 4, in points, on the same images"
    return _table(title, ["arm", "steps", *columns.values()], rows)


def _cost_table(summary: Summary) -> Table:
    rows = []
    for arm, seeds in summary.cost.items():
        stages = sorted({stage for own in seeds.values() for stage in own})
        each = {s: [own[s] for own in seeds.values() if s in own] for s in stages}
        minutes = {s: sum(c["seconds"] for c in found) / len(found) / 60 for s, found in each.items()}
        cells = [f"{each[s][0]['steps']:,} · {minutes[s]:.1f} min" if s in each else NONE for s in (1, 2, 3, 4)]
        rows.append([arm, *cells, f"{sum(minutes.values()):.1f} min"])
    note = "Steps and time by the clock, mean over seeds; a stage that arms share counts for each of them."
    return _table("Cost of training", ["arm", "stage 1", "stage 2", "stage 3", "stage 4", "together"], rows, note)


def _language_table(summary: Summary) -> Table:
    rows = []
    for arm, seeds in summary.language.items():
        for seed, stages in seeds.items():
            for stage, report in stages.items():
                before, after = report.get("perplexity_before"), report.get("perplexity_after")
                same = "every logit the same" if report.get("identical") else f"{report['largest_difference']:.3g}"
                frozen = "frozen" if report.get("frozen") else "trained"
                cells = [f"{v:.1f}" if v is not None else NONE for v in (before, after)]
                rows.append([arm, str(seed), str(stage), frozen, same, *cells])
    headings = ["arm", "seed", "stage", "language model", "largest difference", "perplexity before", "after"]
    return _table("The language model without an image, before and after each stage", headings, rows)


def remarks(summary: Summary) -> list[str]:
    """What a reader of any of the tables must know."""
    counts = {arm: len(seeds) for arm, seeds in summary.seeds.items() if seeds}
    said = []
    if counts:
        said.append(f"{summary.images:,} test scenes; 95 % bootstrap intervals.")
    single = [arm for arm, count in counts.items() if count == 1]
    if single:
        arms = "All arms" if len(single) == len(counts) else ", ".join(single)
        said.append(f"{arms}: one seed, so intervals are over images alone and say nothing of how much seeds differ.")
    several = {arm: count for arm, count in counts.items() if count > 1}
    if several:
        told = ", ".join(f"{arm} {count}" for arm, count in several.items())
        said.append(f"Intervals over seeds and images ({told} seeds); so few seeds make them somewhat too short.")
    if summary.missing:
        said.append(f"Not evaluated: {', '.join(summary.missing)}.")
    return said


def markdown(summary: Summary) -> str:
    """All tables for a page."""
    from reports.writing.tables import markdown as written

    said = "".join(f"{one}\n" for one in remarks(summary))
    return "\n".join([said, *(written(table, 3) for table in tables(summary))])


def rich_tables(summary: Summary) -> list[Any]:
    """All tables for a terminal, and the remarks."""
    from rich.text import Text

    from reports.writing.terminal import terminal_table

    return [*map(terminal_table, tables(summary)), *(Text(said) for said in remarks(summary))]
