"""CV-Bench: its numbers under the reading that leads, and under every reading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.controls import IMAGE
from benchmarks.cvbench.readers import READERS
from benchmarks.cvbench.score import OFFICIAL, ROW_MEAN
from benchmarks.judge.cases import JUDGED
from benchmarks.remarks import FEW_IMAGES
from reports.document import NONE, Cell, Column, Figure, Section, Table, flat, number
from reports.opened import Run
from reports.sections.cvbench_figure import by_score
from reports.sections.judge_share import share_table
from reports.sections.side_by_side import (
    UNKNOWN_PROMPTS,
    Asked,
    Row,
    asked_by_version,
    differing,
    intervals_note,
    version_id,
)
from reports.verdicts import TIE, UNDEFINED, side

OTHER_PROMPT = "* the reading's published numbers are made with another prompt than this run's."


def section(runs: Sequence[Run]) -> Section | None:
    """CV-Bench's numbers; None without a run of it that has scores."""
    found = asked_by_version(runs, "cvbench")
    if not found:
        return None
    items: list[Table | Figure] = []
    for version, asked in found.items():
        items += _of_version(list(found), version, asked)
    return Section(
        "cvbench",
        "CV-Bench: counting, relations, depth and distance",
        (
            "CV-Bench asks multiple-choice questions. Its official number is 1/2 ((ADE20K + COCO) / 2 + Omni3D), "
            "the mean of the 2D and the 3D part; it exists only where all three sources were asked. The row mean "
            "counts all questions alike. A reading is the rule that finds the chosen option in an answer, or "
            "(ranked) in the options' log-probabilities; numbers may be compared only under the same one. Chance is "
            "what guessing among each question's options gives.",
        ),
        [*items, *share_table([run for run in runs if run.benchmark == "cvbench"], "cvbench")],
    )


def _of_version(versions: Sequence[str], version: str, asked: Sequence[Asked]) -> Iterator[Table | Figure]:
    yield _scores(version_id("cvbench", versions, version), asked)
    yield by_score(version_id("cvbench-by-score", versions, version), asked)
    if any(len(one.ways) > 1 for one in asked):
        yield _readings(version_id("cvbench-readings", versions, version), asked)


def scores_named(asked: Sequence[Asked]) -> list[str]:
    """The numbers that tables show: sources are left out where there is one alone, which repeats the row mean."""
    names = list(dict.fromkeys(row["score"] for one in asked for row in one.rows))
    sources = [name for name in names if name.startswith("source ")]
    return [name for name in names if len(sources) > 1 or name not in sources]


def main_score(one: Asked) -> str:
    """The official number, or the row mean where there is none."""
    return OFFICIAL if any(row["score"] == OFFICIAL for row in one.rows) else ROW_MEAN


def against_chance(row: Row) -> str:
    """Where the whole interval lies."""
    chance = row["chance"]
    if chance is None:
        return UNDEFINED
    return side(row["accuracy"], row.get("accuracy_low"), row.get("accuracy_high"), "above", "below", TIE, at=chance)


def _scores(id: str, asked: Sequence[Asked]) -> Table:
    apart = differing(asked)
    columns = [Column("number", False), Column("model", False), *apart.columns, Column("n"), Column("images")]
    columns += [Column(name) for name in ("accuracy", "chance")] + [Column("against chance", False)]
    columns += [Column(name) for name in ("unparsed", "if these were right", "missing")]
    rows = []
    for name in scores_named(asked):
        for one in asked:
            if (row := one.row(name)) is not None:
                cells = [Cell(name), Cell(one.label), *apart.cells(one)]
                cells += [number(row[count], unit="count") for count in ("n", "images")]
                cells += [flat(row, "accuracy"), number(row["chance"]), Cell(against_chance(row))]
                cells += [number(row["unparsed"], unit="count"), number(row.get("accuracy_if_unparsed_right"))]
                cells.append(number(row["missing"], unit="count"))
                rows.append(cells)
    return Table(
        id,
        f"{asked[0].titled}, % of questions; 95 % intervals over images",
        columns,
        rows,
        (
            apart.note,
            intervals_note(asked),
            "n: questions with an answer. unparsed: answers in which no option is found; they count as wrong, and "
            "the next column has the number if all had been right. missing: questions without an answer, in no "
            "number.",
            "against chance: above or below where the whole interval is, else a tie. Below: the answers are worse than "
            "guesses, or were not understood.",
            *_few(asked),
        ),
    )


def _few(asked: Sequence[Asked]) -> Iterator[str]:
    """Of the numbers from few images, where there are any."""
    few = {row["score"] for one in asked for row in one.of() if 0 < row["images"] < FEW_IMAGES}
    few &= set(scores_named(asked))
    if few:
        names = ", ".join(name for name in scores_named(asked) if name in few)
        yield f"Of fewer than {FEW_IMAGES} images, and intervals over so few are rough: {names}."


def _readings(id: str, asked: Sequence[Asked]) -> Table:
    """The same answers under every reading: a row for each reading and run."""
    apart = differing(asked, way=False)
    ways = [w for w in READERS if any(w in one.ways for one in asked)]
    ways += list(dict.fromkeys(w for one in asked for w in one.ways if w not in ways))
    names = scores_named(asked)
    undecided = any(row.get("undecided") for one in asked for row in one.rows)
    columns = [Column("reading", False), Column("model", False), *apart.columns, *map(Column, names)]
    published = any(_published(way) for way in ways)
    columns += [Column("published with it", False)] * published
    columns += [Column("unparsed"), Column("if these were right"), Column("missing")]
    columns += [Column("undecided"), Column("if undecided wrong"), Column("if undecided right")] * undecided
    rows = []
    for way in ways:
        for one in asked:
            found = {row["score"]: row for row in one.of(IMAGE, way)}
            if not found:
                continue
            main = main_score(one)
            cells = [Cell(_marked(way, one.prompt)), Cell(one.label), *apart.cells(one)]
            cells += [flat(found.get(name, {}), "accuracy") for name in names]
            cells += [Cell(", ".join(_published(way)) or NONE)] * published
            whole = found.get(ROW_MEAN, {})
            cells += [number(whole.get("unparsed"), unit="count")]
            cells += [
                number(found.get(main, {}).get("accuracy_if_unparsed_right")),
                number(whole.get("missing"), unit="count"),
            ]
            if undecided:
                cells.append(number(whole.get("undecided"), unit="count"))
                cells += [number(found.get(main, {}).get(f"accuracy_if_undecided_{b}")) for b in ("wrong", "right")]
            rows.append(cells)
    mains = ", ".join(dict.fromkeys(map(main_score, asked)))
    return Table(
        id,
        f"{asked[0].titled}, the same answers under every reading; % of questions",
        columns,
        rows,
        (
            apart.note,
            intervals_note(asked),
            f"unparsed: answers in which the reading finds no option; they count as wrong, and the next column has the "
            f"{mains} if all had been right. `ranked` readings take the likeliest option and read no text."
            + (
                " undecided: answers on which a judge came to no verdict, in no number but the bounds."
                if undecided
                else ""
            ),
            *_without(asked),
            "published with it: the numbers that are published with this reading, by its authors."
            if published
            else "Nothing is published with these readings by their authors.",
            *([OTHER_PROMPT] if any("*" in row[0].text for row in rows) else []),
        ),
    )


def _without(asked: Sequence[Asked]) -> Iterator[str]:
    """Readings that had nothing to read."""
    for one in asked:
        lacking = (one.run.scores or {}).get("without") or []
        names = [str(r["reading"]) for r in lacking if isinstance(r, dict) and r.get("condition") == IMAGE]
        if names:
            read = ", ".join(names)
            yield f"{one.label} has no numbers by {read}: its records hold no log-probabilities of all options."


def _marked(way: str, prompt: str) -> str:
    own = READERS[way].prompt if way in READERS else None
    return way + " *" * (own is not None and prompt not in UNKNOWN_PROMPTS and prompt != own)


def _published(way: str) -> tuple[str, ...]:
    """The numbers that the evaluator of a reading reports."""
    return READERS[way].headline if way in READERS else (OFFICIAL,) if way == JUDGED["all"] else ()
