"""Padding scores for people: tables in a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.padding.answers import GONE, Compared
from analysis.padding.looking import QUERIES
from analysis.padding.score import ALL, NON_SQUARE, SQUARE, AnswerRow, Scores
from benchmarks.statistics.clusters import Interval
from benchmarks.tables import empty_table, percent

QUERY_NAMES = {"object": "object word", "last": "last token"}


def print_scores(console: Console, scores: Scores) -> None:
    """Attention on padding, answers, answers with padding hidden, crops, checkpoints against the first."""
    console.print(_shapes(scores), markup=False, soft_wrap=True)
    if scores.attention:
        console.print(_attention(scores))
    if scores.answers:
        console.print(_answers(scores))
    if scores.hidden:
        console.print(_hidden(scores))
    for line in _cropped(scores):
        console.print(line, markup=False, soft_wrap=True)
    if scores.differences:
        console.print(_differences(scores))


def _shapes(scores: Scores) -> str:
    shapes = scores.shapes
    line = f"{shapes.images} images: {shapes.square} square (no padding, the same in every condition), "
    line += f"{shapes.non_square} not"
    if shapes.non_square:
        line += (
            f"; these need {100 * (shapes.least or 0):.0f} to {100 * (shapes.most or 0):.0f} % of a square as padding "
            f"(median {100 * (shapes.median or 0):.0f} %)"
        )
    return line


def number(interval: Interval, sign: bool = False) -> str:
    """Value and 95% interval on two lines; a dash where undefined."""
    if math.isnan(interval.value):
        return "–"
    plus = "+" if sign else ""
    value = f"{interval.value:{plus}.2f}"
    if math.isnan(interval.low):
        return value
    dash = " … " if sign else "–"
    return f"{value}\n[dim]{interval.low:{plus}.2f}{dash}{interval.high:{plus}.2f}[/dim]"


def _attention(scores: Scores) -> Table:
    columns = ["n\nimages", "cells that are\npadding %"]
    for query in QUERIES:
        columns += [
            f"{QUERY_NAMES[query]}:\non padding %",
            "ratio",
            "ratio, cells\nall padding",
            "on the image's\ncells %",
        ]
    table = empty_table(
        "Attention on padding · images that are not square · mean over layers", "checkpoint\n  condition", *columns
    )
    rows = [r for r in scores.attention if r.group == NON_SQUARE and r.layer is None]
    for name in dict.fromkeys(r.checkpoint for r in rows):
        table.add_row(f"[bold]{escape(name)}[/bold]")
        own = [r for r in rows if r.checkpoint == name]
        for condition in dict.fromkeys(r.condition for r in own):
            by_query = {r.query: r.attended for r in own if r.condition == condition}
            one = next(iter(by_query.values()))
            squashed = condition == "squash"
            cells = [f"{one.n}\n{one.images}", f"{100 * one.cells:.1f}"]
            for query in QUERIES:
                found = by_query.get(query)
                if found is None:
                    cells += ["–"] * 4
                    continue
                shares = [percent(found.share), number(found.ratio), number(found.empty_ratio), percent(found.visual)]
                cells += shares
            table.add_row(f"  {condition}{' (same places)' * squashed}", *cells, style="dim" if squashed else None)
        table.add_section()
    caption = [
        "ratio: share of the attention to the image's cells that lies on padding, over the share of cells that are "
        "padding; 1 is uniform attention",
        "cells that are partly image count by their padded part; 'cells all padding' leaves them out",
        "squash has no padding: the same places, where they hold image",
        "95% intervals over images",
    ]
    lost = [r.attended for r in rows if r.attended.without_query or r.attended.without_attention]
    if lost:
        caption.append(
            f"left out at most {max(a.without_query for a in lost)} questions whose object is no token of the prompt, "
            f"{max(a.without_attention for a in lost)} whose query gives the image no attention"
        )
    table.caption = "\n".join(caption)
    return table


def _answers(scores: Scores) -> Table:
    table = _change_table("Answers · images that are not square · POPE's protocol `default`", "against native")
    for name, rows in _by_checkpoint(scores.answers):
        table.add_row(f"[bold]{escape(name)}[/bold]")
        for row in rows:
            native = row.condition == row.against
            if row.group == NON_SQUARE:
                table.add_row(f"  {row.condition}", *_cells(row.compared, native))
            elif native and row.group in (SQUARE, ALL):
                table.add_row(f"  {row.condition}, {row.group} images", *_cells(row.compared, native), style="dim")
        table.add_section()
    table.caption = (
        f"crop: without the questions whose object is known to be cropped away (under {100 * GONE:.0f} % of it left)\n"
        "questions that stand in several splits count in each, as POPE pools them; flips and McNemar's exact p "
        "count each once\nmargin: log p(yes) - log p(no) of the first token, towards the right one, in nats\n"
        "changes in points, paired by question; 95% intervals over images"
    )
    return table


def _hidden(scores: Scores) -> Table:
    table = _change_table(
        "Padding hidden · cells without any image are masked as keys for the text · images that are not square",
        "against visible",
    )
    for name, rows in _by_checkpoint(scores.hidden):
        table.add_row(f"[bold]{escape(name)}[/bold]")
        for row in rows:
            if row.group == NON_SQUARE:
                table.add_row(f"  {row.condition}", *_cells(row.compared, False))
        table.add_section()
    table.caption = "both by the likelier of yes and no as the first token; what visual tokens took from padding stays"
    return table


def _change_table(title: str, against: str) -> Table:
    return empty_table(
        title,
        "checkpoint\n  condition",
        "n\nimages",
        "accuracy",
        "F1",
        "yes ratio",
        f"accuracy\n{against}",
        f"F1\n{against}",
        f"yes ratio\n{against}",
        f"margin\n{against}",
        "flips\n→ yes / → no",
        "→ wrong / → right\nMcNemar p",
        "missing\nunparsed",
    )


def _cells(compared: Compared, alone: bool) -> list[str]:
    """The cells of a row; without changes where a condition stands alone."""
    values = [percent(compared.scores[s]) for s in ("accuracy", "f1", "yes_ratio")]
    changes = [""] * 6
    if not alone:
        changes = [percent(compared.change[s], sign=True) for s in ("accuracy", "f1", "yes_ratio")]
        changes.append(number(compared.margin, sign=True))
        changes.append(f"{compared.to_yes} / {compared.to_no}")
        changes.append(f"{compared.to_wrong} / {compared.to_right}\np {compared.mcnemar:.2g}")
    return [f"{compared.n}\n{compared.images}", *values, *changes, f"{compared.missing}\n{compared.unparsed}"]


def _by_checkpoint(rows: Sequence[AnswerRow]) -> list[tuple[str, list[AnswerRow]]]:
    return [(name, [r for r in rows if r.checkpoint == name]) for name in dict.fromkeys(r.checkpoint for r in rows)]


def _cropped(scores: Scores) -> list[str]:
    lines = []
    for row in scores.cropped:
        if not row.known:
            text = f"no mask of any of {row.unknown} objects is known: some may be cropped away unnoticed"
        else:
            text = f"of {row.known} objects that are there, a crop leaves out {row.gone}"
            if row.gone and row.yes_native is not None and row.yes_crop is not None:
                text += f"; of these {100 * row.yes_native:.0f} % are affirmed before the crop"
                text += f", {100 * row.yes_crop:.0f} % after"
            if row.unknown:
                text += f"; of {row.unknown} more it is not known"
        lines.append(f"{row.checkpoint}: {text}")
    return lines


def _differences(scores: Scores) -> Table:
    whats = list(dict.fromkeys(r.what for r in scores.differences))
    heads = [what.replace("ratio ", "ratio of attention\n") for what in whats]
    first = scores.differences[0].minus
    table = empty_table(
        f"Minus {escape(first)} · images that are not square · paired", "checkpoint\n  condition", *heads
    )
    for name in dict.fromkeys(r.checkpoint for r in scores.differences):
        table.add_row(f"[bold]{escape(name)}[/bold]")
        own = [r for r in scores.differences if r.checkpoint == name]
        for condition in dict.fromkeys(r.condition for r in own):
            found = {r.what: r for r in own if r.condition == condition}
            cells = []
            for what in whats:
                row = found.get(what)
                cell = "" if row is None else percent(row.difference, sign=True)
                cells.append(number(row.difference, sign=True) if row is not None and "ratio" in what else cell)
            table.add_row(f"  {condition}", *cells)
        table.add_section()
    table.caption = "accuracy in points; its change is that of the condition against native; 95% intervals over images"
    return table
