"""CV-Bench scores for people: tables in a terminal, two lines to a row so that they stay narrow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.controls import IMAGE
from benchmarks.cvbench.readers import MAIN, READERS
from benchmarks.cvbench.results import FLOOR, ResultRow, Results
from benchmarks.cvbench.score import OFFICIAL, ROW_MEAN, Disagreement, Score
from benchmarks.cvbench.types import LETTERS, Reading
from benchmarks.judge.cases import JUDGED
from benchmarks.tables import HEADLINE_MARK, answer_table, empty_table, percent, shortened

UNKNOWN_PROMPTS = ("not stated", "mixed", "other")
BELOW = "↓"


def print_results(console: Console, results: Results, main: str) -> None:
    """The leading reading with controls and floors, what the image adds, all readings side by side, where they part."""
    note = escape(f"{results.name} · data {results.data_version} · prompt {results.prompt}")
    lead = [row for row in results.rows if row.reading == main or row.is_floor]
    console.print(_main_table(lead, f"{note} · reading {main}"))
    if any(row.gain is not None for row in lead):
        console.print(_gain_table([row for row in lead if row.gain is not None], note))
    for condition in dict.fromkeys(row.condition for row in results.rows if not row.is_floor):
        rows = [row for row in results.rows if row.condition == condition]
        if len({row.reading for row in rows}) > 1:
            console.print(_readings_table(results, rows, condition, note))
    if results.disagreements:
        console.print(_disagreement_table(results.disagreements[:10]))


def _table(title: str, *columns: str) -> Table:
    """An empty table of numbers by name, never narrower than its title."""
    table = empty_table(title, "number", *columns)
    table.min_width = len(title)
    return table


def _numbers(rows: Sequence[ResultRow]) -> Iterator[tuple[str, dict[str, ResultRow]]]:
    """Each number's name with its rows by condition and reading; a number that repeats the row mean is left out."""
    names = list(dict.fromkeys(row.score.name for row in rows))
    for name in names:
        if name.startswith("source ") and sum(n.startswith("source ") for n in names) == 1:
            continue
        yield name, {f"{r.condition} {r.reading}": r for r in rows if r.score.name == name}


def _cell(score: Score, *, mark: bool = False) -> str:
    value, *rest = percent(score.accuracy).split("\n")
    if score.below_chance:
        value = f"[red]{value}{BELOW}[/red]"
    return "\n".join([value + HEADLINE_MARK * mark, *rest])


def _caption(rows: Sequence[ResultRow]) -> str:
    parts = ["per cent; 95% intervals over images", "chance: guessing among each question's options"]
    parts += [f"{BELOW} below chance"] * any(row.score.below_chance for row in rows)
    return " · ".join(parts)


def _main_table(rows: Sequence[ResultRow], note: str) -> Table:
    columns = list(dict.fromkeys(row.condition for row in rows))
    # A floor's name is two lines, so that the table stays narrow.
    heads = [c.replace(FLOOR, "floor:\n") for c in columns]
    table = _table(note, "n (images)\nmissing / unparsed", *heads, "chance")
    for name, cells in _numbers(rows):
        by_condition = {row.condition: row for row in cells.values()}
        first = next(iter(by_condition.values())).score
        found = (by_condition.get(c) for c in columns)
        values = ["–" if row is None else _cell(row.score) for row in found]
        counts = f"{first.n} ({first.images})\n{first.missing} / {first.unparsed}"
        table.add_row(name, counts, *values, f"{100 * first.chance:.1f}")
    table.caption = _caption(rows)
    return table


def _gain_table(rows: Sequence[ResultRow], note: str) -> Table:
    columns = list(dict.fromkeys(row.condition for row in rows))
    table = _table(f"What the image adds · {note}", *(f"over {c}" for c in columns))
    for name, cells in _numbers(rows):
        by_condition = {row.condition: row.gain for row in cells.values()}
        table.add_row(name, *(percent(by_condition.get(c), sign=True) for c in columns))
    table.caption = "points of accuracy, paired by question; 95% intervals over images"
    return table


def _readings_table(results: Results, rows: Sequence[ResultRow], condition: str, note: str) -> Table:
    """Every number under every reading; below them what each reading could not read, and reads otherwise."""
    counts = {one.reading: one for one in results.readings if one.condition == condition}
    names = [_marked(name, results.prompt) for name in counts]
    what = "The same answers under every reading" + (f", {condition}" if condition != IMAGE else "")
    table = _table(f"{what} · {note}", *(name.replace("-", "-\n", 1) for name in names), "chance")
    for name, cells in _numbers(rows):
        by_reading = {row.reading: row for row in cells.values()}
        values = [_cell(by_reading[one].score, mark=name in _headline(one)) for one in counts]
        table.add_row(name, *values, f"{100 * next(iter(by_reading.values())).score.chance:.1f}")
    table.add_section()
    first = OFFICIAL if any(row.score.name == OFFICIAL for row in rows) else ROW_MEAN
    bounds = {row.reading: _share(row.score.if_unparsed_right) for row in rows if row.score.name == first}
    table.add_row("unparsed", *(str(one.unparsed) for one in counts.values()), "")
    table.add_row(f"{first} if these were right", *(bounds[reading] for reading in counts), "")
    if any(one.undecided for one in counts.values()):
        table.add_row("undecided", *(str(one.undecided) for one in counts.values()), "")
        scores = {row.reading: row.score for row in rows if row.score.name == first}
        for what in ("wrong", "right"):
            values = [_share(getattr(scores[one], f"if_undecided_{what}")) for one in counts]
            table.add_row(f"{first} if undecided {what}", *values, "")
    table.add_row(f"differs from {MAIN}", *(str(one.differs) for one in counts.values()), "")
    caption = [_caption(rows), f"{next(iter(counts.values())).answers} answers"]
    caption += [f"{HEADLINE_MARK.strip()} what the published evaluator reports"] * any(map(_headline, counts))
    caption += ["* its published numbers are made with another prompt"] * any("*" in name for name in names)
    table.caption = " · ".join(caption)
    return table


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def _headline(reading: str) -> tuple[str, ...]:
    if reading == JUDGED["all"]:
        return (OFFICIAL,)
    return READERS[reading].headline if reading in READERS else ()


def _marked(name: str, prompt: str) -> str:
    """A reading's name, with a star where its published numbers are made with another prompt."""
    own = READERS[name].prompt if name in READERS else None
    return name + "*" * (own is not None and prompt not in UNKNOWN_PROMPTS and prompt != own)


def _disagreement_table(found: Sequence[Disagreement]) -> Table:
    table = answer_table("Where the readings part: most frequent answers")
    table.add_column("options", ratio=2)
    table.add_column("times", justify="right")
    table.add_column("read as (rule)", ratio=3)
    for one in found:
        readings: dict[str, list[str]] = {}
        for name, reading in one.readings.items():
            readings.setdefault(_said(reading), []).append(f"{name} ({reading.rule})")
        read = "; ".join(f"[bold]{said}[/bold]: {escape(', '.join(names))}" for said, names in readings.items())
        options = ", ".join(f"{LETTERS[i]} {option}" for i, option in enumerate(one.options))
        table.add_row(escape(repr(shortened(one.answer))), escape(options), str(one.count), read)
    return table


def _said(reading: Reading) -> str:
    if not reading.decided:
        return "undecided"
    return "none" if reading.option is None else LETTERS[reading.option]
