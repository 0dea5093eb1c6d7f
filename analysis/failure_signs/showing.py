"""The table of signs, and what a reader must know of it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from analysis.failure_signs.signs import Reading
from benchmarks.tables import empty_table

STYLES = {"present": "red", "absent": "green", "undecided": "yellow", "not measured": "dim"}
MARKS = {"above": ">", "below": "<"}


def show(readings: Sequence[Reading], limit: int | None, draws: int, console: Console) -> None:
    """Print one table: every sign of every model."""
    table = empty_table("Failure signs", "sign\n  what is measured", "value", "sign if", "verdict", "on", "note")
    for column in table.columns[3:]:
        column.justify = "left"
    for model in dict.fromkeys(one.model for one in readings):
        table.add_row(f"[bold]{escape(model)}[/bold]")
        sign = None
        for one in (reading for reading in readings if reading.model == model):
            if one.threshold.sign != sign:
                sign = one.threshold.sign
                table.add_row(f"{sign}")
            style = STYLES[one.verdict]
            table.add_row(
                f"  {escape(one.threshold.says)}",
                escape(value_of(one)),
                f"{MARKS[one.threshold.side]} {one.threshold.value:g}",
                f"[{style}]{one.verdict}[/{style}]",
                escape(one.measurement.n),
                escape(one.measurement.note),
            )
        table.add_section()
    console.print(table)
    sample = "all images" if limit is None else f"at most {limit} images for each analysis that was run here (--limit)"
    console.print(
        f"95 % intervals over images (language: over texts), {draws} draws; {sample}. present, absent: the whole "
        "interval lies on that side of the threshold. undecided: it holds the threshold. Thresholds are ours "
        "(--threshold); the paper names the signs and gives none. A sign that is absent here may be present in other "
        "data.",
        markup=False,
        soft_wrap=True,
    )


def value_of(reading: Reading) -> str:
    """Value with its limits in one line; a dash where there is none."""
    found = reading.measurement
    if found.value is None:
        return "–"
    limits = "" if found.low is None or found.high is None else f" [{found.low:.3f}, {found.high:.3f}]"
    return f"{found.value:.3f}{limits}"
