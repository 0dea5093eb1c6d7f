"""POPE scores for people: tables in a terminal, two lines to a row so that they stay narrow."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.pope.protocols import PROTOCOLS
from benchmarks.pope.rows import IMAGE, MEAN, POOLED, Disagreement, Row, Scores
from benchmarks.statistics.scores import SCORES
from benchmarks.tables import answer_table, empty_table, percent, shortened

HEADS = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "yes_ratio": "yes ratio",
    "pair_accuracy": "pair acc.",
    "auroc": "AUROC",
    "ece": "ECE",
}
EXTRA = ("pair_accuracy", "auroc", "ece")
UNKNOWN_PROMPTS = ("not stated", "mixed")
HEADLINE = {"mean of F1": MEAN, "pooled": POOLED}
"""The row in which a protocol's own headline number stands, where it is not per split."""


def print_scores(console: Console, scores: Scores, protocols: Sequence[str]) -> None:
    """Per data set: the first protocol's scores with controls and floors, then the protocols side by side."""
    main = protocols[0]
    for version in dict.fromkeys(r.data_version for r in scores.rows):
        rows = [r for r in scores.rows if r.data_version == version]
        prompt = next((r.prompt for r in rows if not r.is_floor), "not stated")
        note = escape(f"data {version} · prompt {prompt}")
        console.print(_main_table([r for r in rows if r.protocol == main or r.is_floor], f"{note} · protocol {main}"))
        gains = [r for r in rows if "gain_accuracy" in r.scores and r.protocol == main]
        if gains:
            console.print(_gain_table(gains, note))
        if len(protocols) > 1:
            console.print(_protocol_table([r for r in rows if r.condition == IMAGE], prompt, note))
            parted = [d for d in scores.disagreements if d.data_version == version]
            if parted:
                console.print(_disagreement_table(parted[:10]))


def _by_split(table: Table, rows: Sequence[Row]) -> Iterator[list[Row]]:
    """The rows of each split in turn, under a line that names it."""
    for split in dict.fromkeys(r.split for r in rows):
        table.add_row(f"[bold]{'mean of splits' if split == MEAN else escape(split)}[/bold]")
        yield [r for r in rows if r.split == split]
        table.add_section()


def _main_table(rows: Sequence[Row], note: str) -> Table:
    shown = [*SCORES, *(s for s in EXTRA if any(s in r.scores for r in rows))]
    table = empty_table(f"POPE · {note}", "split\n  condition", "n\nmissing / unparsed", *(HEADS[s] for s in shown))
    for group in _by_split(table, rows):
        for row in group:
            missing = f"{row.missing} ({row.errors} errors)" if row.errors else str(row.missing)
            counts = f"{row.n}\n{f'[red]{missing}[/red]' if row.missing else missing} / {row.counts['unparsed']}"
            cells = [percent(row.scores.get(s)) for s in shown]
            table.add_row(f"  {row.condition}", counts, *cells, style="dim" if row.is_floor else None)
            if row.counts["unparsed"] and "f1_if_unparsed_right" in row.scores:
                for bound in ("wrong", "right"):
                    values = [row.scores.get(f"{s}_if_unparsed_{bound}") for s in shown]
                    bounds = (percent(v) if v is not None else "" for v in values)
                    table.add_row(f"    if all unparsed were {bound}", "", *bounds)
    table.caption = "per cent; 95% intervals over images"
    return table


def _gain_table(rows: Sequence[Row], note: str) -> Table:
    table = empty_table(
        f"What the image adds · {note}", "split\n  gain over", "accuracy gain", "yes ratio under control"
    )
    for group in _by_split(table, rows):
        for row in group:
            gain = percent(row.scores["gain_accuracy"], sign=True)
            table.add_row(f"  {row.condition}", gain, percent(row.scores["yes_ratio"]))
    table.caption = "points of accuracy, paired by question; 95% intervals over images"
    return table


def _protocol_table(rows: Sequence[Row], prompt: str, note: str) -> Table:
    """Each split under every protocol; protocols that agree to the last digit share a line."""
    columns = ("n\nunparsed / differs", *(HEADS[s] for s in SCORES))
    table = empty_table(f"The same answers under every protocol · {note}", "split\n  protocol", *columns)
    names = {r.protocol: _marked(r.protocol, prompt) for r in rows}
    for group in _by_split(table, rows):
        alike: dict[str, list[Row]] = {}
        for row in group:
            alike.setdefault(repr((row.counts, row.differs, [row.scores[s] for s in SCORES])), []).append(row)
        for same in alike.values():
            row = same[0]
            counts = f"{row.counts['counted']}\n{row.counts['unparsed']} / {row.differs}"
            heads = [
                names[r.protocol]
                + " ◂" * (r.protocol in PROTOCOLS and HEADLINE.get(PROTOCOLS[r.protocol].aggregate) == r.split)
                for r in same
            ]
            label = textwrap.fill(", ".join(heads), 30, initial_indent="  ", subsequent_indent="  ")
            table.add_row(label, counts, *(percent(row.scores[s]) for s in SCORES))
            if undecided := row.counts.get("undecided"):
                for bound in ("wrong", "right"):
                    values = [row.scores.get(f"{s}_if_undecided_{bound}") for s in SCORES]
                    bounds = (percent(v) if v is not None else "" for v in values)
                    table.add_row(f"    if the {undecided} undecided were {bound}", "", *bounds)
    marks = {
        "* its published numbers are made with another prompt": "*",
        "† reads the official label too": "†",
    }
    caption = ["differs: answers read otherwise than by default", "◂ the protocol's own headline row"]
    caption += [text for text, mark in marks.items() if any(mark in name for name in names.values())]
    caption += ["the answers' prompt is not known"] * (prompt in UNKNOWN_PROMPTS)
    table.caption = " · ".join(caption)
    return table


def _marked(name: str, prompt: str) -> str:
    """A protocol's name with the marks that the table's caption explains."""
    own = PROTOCOLS.get(name)
    if own is None:  # a judge's, with which nothing is published
        return name
    return name + "*" * (prompt not in UNKNOWN_PROMPTS and own.prompt != prompt) + "†" * own.sees_label


def _disagreement_table(found: Sequence[Disagreement]) -> Table:
    title = "Where the protocols part: most frequent answers"
    table = answer_table(title)
    table.add_column("label")
    table.add_column("times", justify="right")
    table.add_column("read as", ratio=3)
    for one in found:
        text = shortened(one.answer)
        readings: dict[str, list[str]] = {}
        for protocol, label in one.readings.items():
            readings.setdefault(label, []).append(protocol)
        read = "; ".join(f"[bold]{label}[/bold]: {', '.join(names)}" for label, names in readings.items())
        table.add_row(escape(repr(text)), "yes" if one.gold else "no", str(one.count), read)
    return table
