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
    version_id,
)
from reports.verdicts import NO_INTERVAL, TIE, side

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
            "what the questions alone give away. Where so many answers under the control could not be read that the "
            "verdict hangs on them, nothing can be told: the floors are the better measure.",
            *words,
        ),
        tables,
    )


def _row(one: Asked, condition: str) -> Row | None:
    """The row that stands for a whole condition: all questions pooled, or the main number of CV-Bench."""
    if one.run.benchmark == "pope":
        return one.row(pope.main_split(one, POOLED), condition)
    return one.row(cvbench.main_score(one), condition)


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
        verdict = {
            HELPED: "the image helps, established",
            HARMED: "the image makes it worse, established",
            UNTOLD: "whether the image helps cannot be told",
            NO_INTERVAL: "from too few images to say",
        }.get(_verdict(one, row), f"{TIE}: it is not shown that the image helps")
        gain = flat(row, "gain_accuracy", "points")
        # Those that make the difference larger than it is.
        at, where = (IMAGE, "about the image") if row["gain_accuracy"] < 0 else (control, f"under {control}")
        if (unread := _unread(_row(one, at) or {})) > HIGH_UNPARSED:
            verdict += f"; {number(unread)} % of the answers {where} could not be read and count as wrong"
        yield f"{one.label}, {name}: {gain} points over {control} ({SHOWN.get(control, control)}): {verdict}."


HELPED, HARMED, UNTOLD = "established", "makes it worse, established", "cannot be told"


def _verdict(one: Asked, row: Row) -> str:
    """Established only where it would be, too, had the answers that could not be read been right."""
    if row.get("gain_accuracy") is None:
        return NONE
    limits = row.get("gain_accuracy_low"), row.get("gain_accuracy_high")
    found = side(row["gain_accuracy"], *limits, HELPED, HARMED, TIE)
    if found == HELPED:
        return HELPED if row["gain_accuracy_low"] > _unread(row) else UNTOLD
    if found == HARMED:
        image = next((r for r in one.of(IMAGE) if all(r.get(k) == row.get(k) for k in ("split", "score"))), {})
        return HARMED if row["gain_accuracy_high"] < -_unread(image) else UNTOLD
    return found


def _unread(row: Row) -> float:
    """How much of an accuracy its unreadable answers could add at most."""
    if not row.get("n"):
        return 0.0
    right = row.get("accuracy_if_unparsed_right")
    return float(max(row["unparsed"] / row["n"], 0.0 if right is None else right - row["accuracy"]))


def _conditions(asked: Sequence[Asked]) -> list[str]:
    """The image, controls, then floors."""
    found = list(dict.fromkeys(c for one in asked for c in one.conditions))
    return sorted(found, key=lambda c: (c != IMAGE, c.startswith(FLOOR)))


GAIN, HELPS = "gain, points", "the image helps"
GAIN_NOTE = (
    "gain: accuracy with the image less accuracy under this control, paired by question, with its interval. The image "
    "helps, established, where that lies above 0, and would still had all answers under the control that could not be "
    "read been right."
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
                rows.append([*cells, Cell(_verdict(one, row))])
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
        + [flat(one.row(split, condition) or {}, "gain_accuracy", "points") for split in splits_there]
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
                if (row := one.row(name, condition)) is not None:
                    cells = [Cell(condition), Cell(one.label), *apart.cells(one), Cell(name)]
                    cells += [number(row["n"], unit="count"), flat(row, "accuracy"), number(row["chance"])]
                    cells += [number(row["unparsed"], unit="count"), flat(row, "gain_accuracy", "points")]
                    rows.append([*cells, Cell(_verdict(one, row))])
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
    "Answers that could not be read (unparsed) count as wrong under a control too, and the gain overstates what the "
    "image adds. cannot be told: they are so many that the verdict hangs on them; compare with the floors."
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
