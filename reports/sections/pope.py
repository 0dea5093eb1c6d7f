"""POPE: each split under the protocol that leads, what unreadable answers could change, all protocols side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from benchmarks.pope.protocols import PROTOCOLS
from benchmarks.pope.rows import MEAN, POOLED
from benchmarks.pope.table import HEADLINE
from benchmarks.statistics.scores import SCORES
from reports.document import Cell, Column, Figure, Listing, Section, Table, flat, number
from reports.opened import Run
from reports.sections.judge_share import share_table
from reports.sections.pope_figure import by_split
from reports.sections.side_by_side import (
    UNKNOWN_PROMPTS,
    Asked,
    asked_by_version,
    differing,
    intervals_note,
    version_id,
)

HEADS = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "yes_ratio": "yes ratio",
    "pair_accuracy": "pair accuracy",
}
SPLITS_NAMED = {MEAN: "mean of splits", POOLED: "all questions pooled"}


def section(runs: Sequence[Run]) -> Section | None:
    """POPE's numbers; None without a POPE run that has scores."""
    found = asked_by_version(runs, "pope")
    if not found:
        return None
    items: list[Table | Figure | Listing] = []
    for version, asked in found.items():
        items += _of_version(list(found), version, asked)
    shares = share_table([run for run in runs if run.benchmark == "pope"], "pope")
    return Section(
        "pope",
        "POPE: is the object there?",
        (
            "POPE asks yes/no questions about objects, as a rule half of them in the image. The splits differ in which "
            "absent objects are asked about: random ones, those frequent in the data (popular), or those that often "
            "stand beside what is there (adversarial). Recall falls with objects that the model overlooks, precision "
            "with objects that it makes up. A yes ratio above the share of yes labels is a lean to yes.",
            "How an answer is read as yes or no, and what an unreadable one counts as, is the protocol: the same "
            "answers score differently under each, so numbers may be compared only under the same protocol, prompt "
            "and version of the data.",
        ),
        [*items, *shares],
    )


def _of_version(versions: Sequence[str], version: str, asked: Sequence[Asked]) -> Iterator[Table | Figure | Listing]:
    yield _splits(version_id("pope", versions, version), asked)
    unread = _unread(version_id("pope-unparsed", versions, version), asked)
    if unread is not None:
        yield unread
    yield by_split(version_id("pope-by-split", versions, version), asked)
    if any(len(one.ways) > 1 for one in asked):
        yield _protocols(version_id("pope-protocols", versions, version), asked)


def split_name(split: str) -> str:
    """As tables show it."""
    return SPLITS_NAMED.get(split, split)


def splits_of(asked: Sequence[Asked]) -> list[str]:
    """The splits of all runs, mean and pooled last."""
    found = list(dict.fromkeys(row["split"] for one in asked for row in one.of()))
    return [s for s in found if s not in SPLITS_NAMED] + [s for s in (MEAN, POOLED) if s in found]


def main_split(one: Asked, whole: str = MEAN) -> str:
    """Mean or pooled (`whole`); the split itself where there is one alone."""
    names = [row["split"] for row in one.of()]
    return whole if whole in names or not names else names[0]


def _splits(id: str, asked: Sequence[Asked]) -> Table:
    scores = [s for s in HEADS if s in SCORES or any(s in row for one in asked for row in one.of())]
    apart = differing(asked)
    columns = [Column("split", False), Column("model", False), *apart.columns, Column("n")]
    columns += [Column(HEADS[s]) for s in scores] + [Column("unparsed"), Column("missing")]
    rows = []
    for split in splits_of(asked):
        for one in asked:
            if (row := one.row(split)) is not None:
                cells = [Cell(split_name(split)), Cell(one.label), *apart.cells(one), number(row["n"], unit="count")]
                cells += [flat(row, s) for s in scores]
                rows.append([*cells, *(number(row[c], unit="count") for c in ("unparsed", "missing"))])
    return Table(
        id,
        f"{asked[0].titled}, % of questions; 95 % intervals over images",
        columns,
        rows,
        (
            f"{apart.note} {_images(asked)}",
            intervals_note(asked),
            "n: questions with an answer. unparsed: answers read as neither yes nor no; the protocol says what they "
            "count as. missing: questions without an answer, in no number. F1 of the mean row is the mean of the "
            "splits' F1, that of the pooled row is of all their questions together.",
        ),
    )


def _images(asked: Sequence[Asked]) -> str:
    counts = {max((row["images"] for row in one.of()), default=0) for one in asked}
    return f"{', '.join(f'{n:,}' for n in sorted(counts))} images."


def _unread(id: str, asked: Sequence[Asked]) -> Table | None:
    """What the unreadable answers could change, where there are any; the default protocol has the bounds."""
    rows = []
    for split in splits_of(asked):
        for one in asked:
            row = one.row(split, how="default")
            if row is None or not row["unparsed"] or row.get("f1_if_unparsed_wrong") is None:
                continue
            cells = [Cell(split_name(split)), Cell(one.label), number(row["unparsed"], unit="count")]
            cells.append(number(row["unparsed"] / row["n"] if row["n"] else None))
            for score in ("accuracy", "f1"):
                cells += [
                    number(row.get(f"{score}{bound}")) for bound in ("_if_unparsed_wrong", "", "_if_unparsed_right")
                ]
            rows.append(cells)
    if not rows:
        return None
    bounds = [f"{name}{bound}" for name in ("accuracy", "F1") for bound in (", all wrong", "", ", all right")]
    return Table(
        id,
        f"{asked[0].titled}, what answers read as neither yes nor no could change; % of questions",
        [Column("split", False), Column("model", False), Column("unparsed"), Column("of n"), *map(Column, bounds)],
        rows,
        (
            f"Data version {asked[0].version}; protocol `default`. Whatever the unreadable answers meant, accuracy and "
            "F1 lie between the two bounds: all of them wrong, all of them right.",
        ),
    )


def _protocols(id: str, asked: Sequence[Asked]) -> Table:
    """The same answers under every protocol; mean of the splits."""
    apart = differing(asked, way=False)
    ways = [w for w in PROTOCOLS if any(w in one.ways for one in asked)]
    ways += list(dict.fromkeys(w for one in asked for w in one.ways if w not in ways))
    undecided = any(row.get("undecided") for one in asked for row in one.rows)
    columns = [Column("protocol", False), Column("model", False), *apart.columns]
    columns += [Column(n) for n in ("counted", "unparsed", "read otherwise", "accuracy", "F1")]
    columns += [Column("undecided"), Column("F1, undecided wrong"), Column("F1, undecided right")] * undecided
    rows, marked = [], set()
    for way in ways:
        for one in asked:
            row = one.row(main_split(one), how=way)
            if row is None:
                continue
            name, marks = _marked(way, one.prompt)
            marked |= marks
            cells = [Cell(name), Cell(one.label), *apart.cells(one)]
            cells += [number(row[c], unit="count") for c in ("counted", "unparsed", "differs_from_default")]
            cells += [flat(row, "accuracy"), flat(row, "f1")]
            if undecided:
                # Bounds are of splits and of all pooled, not of the mean.
                whole = one.row(main_split(one, POOLED), how=way) or {}
                cells.append(number(row.get("undecided"), unit="count"))
                cells += [flat(whole, f"f1_if_undecided_{bound}") for bound in ("wrong", "right")]
            rows.append(cells)
    splits = {split_name(main_split(one)) for one in asked}
    notes = [
        f"{apart.note} {', '.join(sorted(splits))}. {_images(asked)}",
        intervals_note(asked),
        "The same answers, read and counted by each protocol. counted: answers in the denominator of accuracy. read "
        "otherwise: answers that `default` reads differently.",
        *(text for mark, text in _MARKS.items() if mark in marked),
    ]
    if undecided:
        notes.append(
            "undecided: answers on which the judge came to no verdict, in no number; the bounds are of all "
            "questions pooled."
        )
    title = f"{asked[0].titled}, the same answers under every protocol; % of questions"
    return Table(id, title, columns, rows, notes)


OWN = ("default", "strict")
"""Protocols of this suite: nobody has published numbers with them."""
_MARKS = {
    "*": "* the protocol's published numbers are made with another prompt than this run's.",
    "†": "† reads the official label too, so it is no reading of the answer alone.",
    "§": "§ the protocol's authors report another row than this one: each split, or all questions pooled.",
}
_APPLIES: dict[str, Callable[[str, str], bool]] = {
    "*": lambda name, prompt: prompt not in UNKNOWN_PROMPTS and PROTOCOLS[name].prompt not in (prompt, None),
    "†": lambda name, _: PROTOCOLS[name].sees_label,
    "§": lambda name, _: name not in OWN and HEADLINE.get(PROTOCOLS[name].aggregate) != MEAN,
}


def _marked(name: str, prompt: str) -> tuple[str, set[str]]:
    """A protocol's name with its marks, and these; a judge's has none, since nothing is published with it."""
    if name not in PROTOCOLS:
        return name, set()
    marks = [mark for mark, holds in _APPLIES.items() if holds(name, prompt)]
    return f"{name} {''.join(marks)}".strip(), set(marks)
