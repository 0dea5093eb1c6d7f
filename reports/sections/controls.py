"""What is left of a score when the image is taken away or changed, and what no image at all is worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.controls import IMAGE
from benchmarks.pope.rows import FLOOR, POOLED
from benchmarks.remarks import HIGH_UNPARSED
from reports.document import NONE, Cell, Column, Section, Table, flat, number
from reports.opened import Run, reading
from reports.sections import cvbench, pope
from reports.sections.side_by_side import (
    Asked,
    Row,
    asked_by_version,
    differing,
    intervals_note,
    told,
    version_id,
)

SHOWN = {
    IMAGE: "the image",
    "blind": "no image at all",
    "blank": "uniform grey",
    "shuffled": "the image, its patches shuffled",
    "other-image": "another image of the data",
}


def section(runs: Sequence[Run]) -> Section | None:
    """Controls and floors beside the answers about the image; None without a run that has either."""
    tables: list[Table] = []
    words: list[str] = []
    for benchmark in ("pope", "cvbench"):
        found = asked_by_version(runs, benchmark)
        for version, asked in found.items():
            for one in asked:
                with reading(one.run):
                    words += _told(one)
            tables += _TABLES[benchmark](list(found), version, asked)
    if not tables:
        return None
    return Section(
        "controls",
        "Controls and floors: does the image help?",
        (
            "A control asks the same questions and shows something else than the image; a floor answers without any "
            "model. What the image adds is the accuracy with it less that under the control, paired by question. It is "
            "established where its whole 95 % interval lies above 0; else it is a tie, and the score may be made of "
            "what the questions alone give away.",
            *words,
        ),
        tables,
    )


def _row(one: Asked, condition: str) -> Row | None:
    """The row that stands for a whole condition: all questions pooled, or the main number of CV-Bench."""
    if one.run.benchmark == "pope":
        return pope.row_of(one, pope.main_split(one, POOLED), condition)
    return cvbench.row_of(one, cvbench.main_score(one), condition)


def _told(one: Asked) -> Iterator[str]:
    """What the image adds, in words."""
    name = one.titled
    controls = [c for c in one.conditions if c != IMAGE and not c.startswith(FLOOR)]
    if not controls:
        yield f"{one.label}, {name}: no control was run (`--control blind` adds one to the same run folder)."
    for control in controls:
        row = _row(one, control)
        if row is None or row.get("gain_accuracy") is None:
            yield f"{one.label}, {name}: no question was answered both with the image and {control}."
            continue
        found = told(row["gain_accuracy"], row["gain_accuracy_low"], row["gain_accuracy_high"])
        verdict = {
            "higher, established": "the image helps, established",
            "lower, established": "the image makes it worse, established",
            "no interval": "from too few images to say",
        }.get(found, "a tie: it is not shown that the image helps")
        gain = flat(row, "gain_accuracy", "points")
        unread = row["unparsed"] / row["n"] if row["n"] else 0.0
        doubt = (
            f"; but {number(unread)} % of the answers under {control} could not be read and count as wrong, so the "
            "gain overstates what the image adds: the floors are the better measure"
        )
        verdict += doubt if unread > HIGH_UNPARSED else ""
        yield f"{one.label}, {name}: {gain} points over {control} ({SHOWN.get(control, control)}): {verdict}."


def _verdict(row: Row) -> str:
    if "gain_accuracy" not in row:
        return NONE
    found = told(row["gain_accuracy"], row.get("gain_accuracy_low"), row.get("gain_accuracy_high"))
    return {"higher, established": "established", "lower, established": "makes it worse, established"}.get(found, found)


def _conditions(asked: Sequence[Asked]) -> list[str]:
    """The image, controls, then floors."""
    found = list(dict.fromkeys(c for one in asked for c in one.conditions))
    return sorted(found, key=lambda c: (c != IMAGE, c.startswith(FLOOR)))


GAIN, HELPS = "gain, points", "the image helps"
GAIN_NOTE = (
    "gain: accuracy with the image less accuracy under this control, paired by question, with its interval. The image "
    "helps, established, where that lies above 0."
)


def _pope(versions: Sequence[str], version: str, asked: Sequence[Asked]) -> Iterator[Table]:
    apart = differing(asked)
    columns = [Column("shown", False), Column("model", False), *apart.columns, Column("n")]
    columns += [Column(name) for name in ("accuracy", "F1", "yes ratio", "unparsed", GAIN)] + [Column(HELPS, False)]
    rows = []
    for condition in _conditions(asked):
        for one in asked:
            if (row := _row(one, condition)) is not None:
                cells = [Cell(condition), Cell(one.label), *apart.cells(one), number(row["n"], unit="count")]
                cells += [flat(row, score) for score in ("accuracy", "f1", "yes_ratio")]
                cells += [number(row["unparsed"], unit="count"), flat(row, "gain_accuracy", "points")]
                rows.append([*cells, Cell(_verdict(row))])
    rows = _floors_once(rows)
    splits = ", ".join(sorted({pope.split_name(pope.main_split(one, POOLED)) for one in asked}))
    yield Table(
        version_id("controls-pope", versions, version),
        f"{asked[0].titled}, controls and floors; % of questions",
        columns,
        rows,
        (f"{apart.note} {splits}.", intervals_note(asked), GAIN_NOTE, UNREAD, FLOORS_POPE),
    )
    splits_there = [s for s in pope.splits_of(asked) if s not in pope.SPLITS_NAMED]
    gains = [
        [Cell(condition), Cell(one.label), *apart.cells(one)]
        + [flat(pope.row_of(one, split, condition) or {}, "gain_accuracy", "points") for split in splits_there]
        for condition in _conditions(asked)
        for one in asked
        if any("gain_accuracy" in row for row in one.of(condition))
    ]
    if gains and len(splits_there) > 1:
        yield Table(
            version_id("controls-pope-splits", versions, version),
            f"{asked[0].titled}, what the image adds to accuracy in each split; points of %",
            [Column("over", False), Column("model", False), *apart.columns, *map(Column, splits_there)],
            gains,
            (apart.note, intervals_note(asked), "Paired by question: only those answered with the image and without."),
        )


def _cvbench(versions: Sequence[str], version: str, asked: Sequence[Asked]) -> Iterator[Table]:
    apart = differing(asked)
    columns = [Column("shown", False), Column("model", False), *apart.columns, Column("number", False), Column("n")]
    columns += [Column(name) for name in ("accuracy", "chance", "unparsed", GAIN)] + [Column(HELPS, False)]
    rows = []
    for condition in _conditions(asked):
        for one in asked:
            for name in dict.fromkeys((cvbench.main_score(one), "2D", "3D")):
                if (row := cvbench.row_of(one, name, condition)) is not None:
                    cells = [Cell(condition), Cell(one.label), *apart.cells(one), Cell(name)]
                    cells += [number(row["n"], unit="count"), flat(row, "accuracy"), number(row["chance"])]
                    cells += [number(row["unparsed"], unit="count"), flat(row, "gain_accuracy", "points")]
                    rows.append([*cells, Cell(_verdict(row))])
    rows = _floors_once(rows)
    yield Table(
        version_id("controls-cvbench", versions, version),
        f"{asked[0].titled}, controls and floors; % of questions",
        columns,
        rows,
        (
            apart.note,
            intervals_note(asked),
            GAIN_NOTE,
            UNREAD,
            "floor: answers to the questions that the model answered, without any model: the letter that is most often "
            "right in other images, and the option's text that is.",
        ),
    )


UNREAD = (
    "Answers that could not be read (unparsed) count as wrong under a control too: where they are many, the control is "
    "worth less than the model could do blind."
)
FLOORS_POPE = (
    "floor: answers to the questions that the model answered, without any model: always yes, always no, and "
    "object-prior, the more frequent label of the same object's name in other images. Gains over floors are not "
    "paired: compare the accuracies."
)


def _floors_once(rows: Sequence[list[Cell]]) -> list[list[Cell]]:
    """A floor needs no model: rows that are the same for all runs stand once."""
    found: dict[tuple[object, ...], list[Cell]] = {}
    for place, row in enumerate(rows):
        floor = row[0].text.startswith(FLOOR)
        key = (row[0], *row[2:]) if floor else (place,)
        found[key] = [row[0], Cell("no model"), *row[2:]] if key in found else row
    return list(found.values())


_TABLES = {"pope": _pope, "cvbench": _cvbench}
