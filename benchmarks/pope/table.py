"""POPE scores for people: tables in a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.pope.protocols import PROTOCOLS
from benchmarks.pope.score import IMAGE, MEAN, POOLED, Disagreement, Row, Scores
from benchmarks.statistics.clusters import Interval
from benchmarks.statistics.scores import SCORES

HEADS = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "yes_ratio": "yes ratio",
    "pair_accuracy": "pair accuracy",
    "auroc": "AUROC",
    "ece": "ECE",
}


def percent(interval: Interval | None, *, sign: bool = False, width: int = 1) -> str:
    """Value and 95% interval in per cent on two lines; a dash where undefined."""
    if interval is None or math.isnan(interval.value):
        return "–"
    plus = "+" if sign else ""
    value = f"{100 * interval.value:{plus}.{width}f}"
    if math.isnan(interval.low):
        return value
    dash = " … " if sign else "–"
    return f"{value}\n[dim]{100 * interval.low:{plus}.{width}f}{dash}{100 * interval.high:{plus}.{width}f}[/dim]"


def print_scores(console: Console, scores: Scores, protocols: Sequence[str]) -> None:
    """Per data set: the first protocol's scores with controls and floors, then the protocols side by side."""
    for dataset, version in dict.fromkeys((r.dataset, r.data_version) for r in scores.rows):
        rows = [r for r in scores.rows if (r.dataset, r.data_version) == (dataset, version)]
        main = protocols[0]
        prompt = next((r.prompt for r in rows if not r.condition.startswith("floor:")), "not stated")
        note = f"data {version} · prompt {prompt}"
        leading = [r for r in rows if r.protocol == main or r.condition.startswith("floor:")]
        console.print(_main_table(leading, f"POPE · {note} · protocol {main}"))
        gains = [r for r in rows if "gain_accuracy" in r.scores and r.protocol == main]
        if gains:
            console.print(_gain_table(gains, note))
        if len(protocols) > 1:
            console.print(_protocol_table([r for r in rows if r.condition == IMAGE], prompt, note))
            shown = [d for d in scores.disagreements if d.dataset == dataset]
            if shown:
                console.print(_disagreement_table(shown[:10], protocols))


def _main_table(rows: Iterable[Row], title: str) -> Table:
    rows = list(rows)
    table = Table(title=f"{title} · per cent, 95% interval over images", title_justify="left")
    for head in ("split", "condition"):
        table.add_column(head)
    for head in ("n", "missing", "unparsed"):
        table.add_column(head, justify="right")
    shown = [*SCORES, *(s for s in ("pair_accuracy", "auroc", "ece") if any(s in r.scores for r in rows))]
    for score in shown:
        table.add_column(HEADS[score], justify="right", no_wrap=True)
    for split in dict.fromkeys(r.split for r in rows):
        for row in (r for r in rows if r.split == split):
            missing = str(row.missing) + (f" ({row.errors} errors)" if row.errors else "")
            table.add_row(
                "mean of splits" if split == MEAN else split,
                row.condition,
                str(row.n),
                f"[red]{missing}[/red]" if row.missing else missing,
                str(row.counts["unparsed"]),
                *(percent(row.scores.get(s)) for s in shown),
                style="dim" if row.condition.startswith("floor:") else None,
            )
        table.add_section()
    return table


def _gain_table(rows: Sequence[Row], note: str) -> Table:
    table = Table(title=f"What the image adds · {note} · points of accuracy, paired by question", title_justify="left")
    table.add_column("split")
    table.add_column("gain over")
    table.add_column("accuracy gain", justify="right", no_wrap=True)
    table.add_column("yes ratio under control", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.split, row.condition, percent(row.scores["gain_accuracy"], sign=True), percent(row.scores["yes_ratio"])
        )
    return table


def _protocol_table(rows: Sequence[Row], prompt: str, note: str) -> Table:
    table = Table(title=f"The same answers under every protocol · {note}", title_justify="left")
    for head in ("split", "protocol"):
        table.add_column(head)
    for head in ("n", "unparsed", "differs"):
        table.add_column(head, justify="right")
    for score in SCORES:
        table.add_column(HEADS[score], justify="right", no_wrap=True)
    marked = False
    for split in dict.fromkeys(r.split for r in rows):
        for row in (r for r in rows if r.split == split):
            own = PROTOCOLS[row.protocol]
            other_prompt = own.prompt is not None and own.prompt != prompt
            marked |= other_prompt
            headline = {"mean of F1": MEAN, "pooled": POOLED}.get(own.aggregate)
            name = row.protocol + ("*" if other_prompt else "") + (" ◂" if headline == split else "")
            table.add_row(
                "mean of splits" if split == MEAN else split,
                name,
                str(row.counts["counted"]) if row.protocol == "repope" else str(row.n),
                str(row.counts["unparsed"]),
                str(row.differs),
                *(percent(row.scores[s]) for s in SCORES),
            )
        table.add_section()
    caption = ["differs: answers read otherwise than by default", "◂ the protocol's own headline row"]
    if marked:
        caption.append("* its published numbers are made with another prompt than these answers")
    table.caption = " · ".join(caption)
    table.caption_justify = "left"
    return table


def _disagreement_table(found: Sequence[Disagreement], protocols: Sequence[str]) -> Table:
    from rich.markup import escape

    table = Table(title="Where the protocols part (most frequent answers)", title_justify="left")
    table.add_column("answer", overflow="fold", max_width=48)
    table.add_column("label")
    table.add_column("times", justify="right")
    for name in protocols:
        table.add_column(name)
    for one in found:
        text = one.answer if len(one.answer) <= 200 else one.answer[:200] + "…"
        table.add_row(
            escape(repr(text)), "yes" if one.gold else "no", str(one.count), *(one.readings[p] for p in protocols)
        )
    return table
