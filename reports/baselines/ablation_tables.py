"""An ablation as a table, and as plain rows."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reports.baselines.ablating import Ablation, Mean, Row
from reports.baselines.scored import PERPLEXITY, Metric
from reports.document import NONE, Cell, Column, Listing, Section, Table, Unit, number

TITLE = "Training runs compared"
RUNS_TABLE = "ablation-runs"
OF_FORM = ("loss", "loss/guidance")
"""Metrics that are another quantity under each form of the guidance loss."""
SIGNED: Mapping[Unit, Unit] = {"percent": "points", "number": "signed"}
SAID = ("arm", "stage", "fusion", "steps", "batch_size", "precision", "guidance.", "regions.", "data")
"""What the settings begin with that a note names where all runs share them; all of them stand in a list."""


def section(found: Ablation) -> Section:
    """The table of means, and that of the runs behind them."""
    settings = "\n".join(f"{name}: {text}" for name, text in found.same.items())
    shared = Listing("Settings that all runs share", settings)
    single = all(len(row.runs) == 1 for row in found.rows)
    each = [] if single else [runs_table(found)]
    compared = any(m.over for row in found.rows for name, m in row.over_first.items() if not _another(name, found))
    differences = [difference_table(found)] if compared else []
    return Section("ablation", TITLE, list(found.remarks), [table(found), *differences, *each, shared])


def table(found: Ablation) -> Table:
    """A row for each setting: its seeds, and the mean of each metric with its interval."""
    settings = found.columns or ["runs"]
    columns = [
        *(Column(name, numeric=_numeric(name, found.rows)) for name in settings),
        Column("runs" if found.mixed else "seeds"),
        *(Column(_heading(metric, found.metrics)) for metric in found.metrics),
    ]
    rows = [
        [
            *([Cell(row.settings.get(name, NONE)) for name in found.columns] or [Cell("all")]),
            Cell(str(len(row.runs))),
            *(_cell(row.means.get(metric), metric.unit, row, found) for metric in found.metrics),
        ]
        for row in found.rows
    ]
    return Table(
        "ablation", f"{TITLE}: mean over {'runs' if found.mixed else 'seeds'}", columns, rows, [*_notes(found)]
    )


def difference_table(found: Ablation) -> Table:
    """Each row minus the first, on the seeds that both have."""
    metrics = [metric for metric in found.metrics if not _another(metric, found)]
    columns = [
        *(Column(name, numeric=_numeric(name, found.rows)) for name in found.columns),
        *(Column(_heading(metric, found.metrics).replace(", %", ", points")) for metric in metrics),
    ]
    rows = [
        [
            *(Cell(row.settings.get(name, NONE)) for name in found.columns),
            *(_cell(row.over_first.get(metric), SIGNED[metric.unit], row, found) for metric in metrics),
        ]
        for row in found.rows[1:]
    ]
    notes = [
        "Seed by seed, on the seeds of both and on the same images; intervals as above.",
        "A difference whose interval holds 0 is a tie: these seeds do not tell the two apart, which is not to say that "
        "they are equal. Of many rows and columns some will leave out 0 by chance, which is not corrected for.",
    ]
    return Table("ablation-differences", f"Difference from {_name(found.rows[0])}", columns, rows, notes)


def _another(metric: Metric, found: Ablation) -> bool:
    """Whether it is another quantity in each row."""
    if metric.about:
        return False
    if found.looking and (metric.name in OF_FORM or metric.name.startswith("attention/")):
        return True
    return found.forms and metric.name in OF_FORM


def runs_table(found: Ablation) -> Table:
    """Each run's own numbers."""
    folders = [folder for row in found.rows for folder in row.runs.values()]
    root = Path(os.path.commonpath([folder.parent for folder in folders]))
    names = [*([] if found.mixed else ["seed"]), "run"]
    columns = [
        *(Column(name, numeric=_numeric(name, found.rows)) for name in found.columns),
        *(Column(name, numeric=False) for name in names),
        *(Column(_heading(m, found.metrics)) for m in found.metrics),
    ]
    rows = [
        [
            *(Cell(row.settings.get(name, NONE)) for name in found.columns),
            *([] if found.mixed else [Cell(label)]),
            Cell(f"{folder.relative_to(root)}{label.removeprefix(str(folder)) if found.mixed else ''}"),
            *(number(row.means[m].each.get(label) if m in row.means else None, unit=m.unit) for m in found.metrics),
        ]
        for row in found.rows
        for label, folder in row.runs.items()
    ]
    return Table(RUNS_TABLE, "Each training run by itself", columns, rows, [f"Run folders below {root}."])


def _numeric(name: str, rows: Sequence[Row]) -> bool:
    texts = [row.settings[name] for row in rows if name in row.settings]
    return all(text.replace(".", "", 1).replace("e-", "", 1).isdecimal() for text in texts)


def _heading(metric: Metric, metrics: Sequence[Metric]) -> str:
    """The name; with its data where another column has the name too."""
    name = f"{metric.name}, %" if metric.unit == "percent" else metric.name
    twins = [other for other in metrics if other.name == metric.name]
    return f"{name} ({twins.index(metric) + 1})" if len(twins) > 1 else name


def _cell(mean: Mean | None, unit: Unit, row: Row, found: Ablation) -> Cell:
    if mean is None:
        return Cell(NONE)
    kind = "run" if found.mixed else "seed"
    made = number(mean.interval.value, mean.interval.low, mean.interval.high, unit)
    count, whole = len(mean.each), len(row.runs)
    said = f"{count} of {whole} {kind}s" if count < whole else f"1 {kind}" if count == 1 else ""
    return replace(made, text=f"{made.text} ({said})") if said else made


def _notes(found: Ablation) -> Iterator[str]:
    logged = [metric for metric in found.metrics if not metric.about and metric.name != PERPLEXITY]
    if logged:
        steps = " or ".join(map(str, found.windows))
        yield (
            f"{', '.join(m.name for m in logged)}: of training, on what was trained on, the last row of each log (the "
            f"last {steps} steps or fewer); no loss of held-out data is logged."
        )
    if found.forms and any(metric.name in OF_FORM for metric in logged):
        yield "loss/guidance is another quantity under each guidance.form: compare it within a form alone."
    if found.looking and any(_another(metric, found) for metric in logged):
        yield (
            "loss/guidance and attention/... are measured where each run's guidance looks, against its own regions: "
            f"rows that differ in {', '.join(found.looking)} are not to be compared by them (agevlm-eval grounding "
            "measures all alike)."
        )
    for metric in found.metrics:
        if metric.about:
            yield f"{_heading(metric, found.metrics)}: {metric.about}"
    yield from _interval_notes(found)
    yield from _seed_notes(found)
    if found.mixed:
        yield f"A row is a mean over runs that differ in {', '.join(found.mixed)} too, not over seeds alone."
    if found.lost:
        yield (
            "The run folders of earlier stages are not at hand of all: runs are told apart by the arm and steps of "
            "these stages, not by their other settings."
        )
    own = [name for name in found.following if not name.startswith(("stage ", "model."))]
    if own:
        yield f"These differ as well, and follow from the columns: {', '.join(own)}."
    for what, head in (("of the stages before", "stage "), ("of the model's layout", "model.")):
        if any(name.startswith(head) for name in found.following):
            yield f"Settings {what} differ as well, and follow from the columns."
    same = [f"{name} {text}" for name, text in found.same.items() if name.startswith(SAID)]
    if same:
        yield f"The same in all: {'; '.join(same)}."


def _interval_notes(found: Ablation) -> Iterator[str]:
    kind = "runs" if found.mixed else "seeds"
    for over, how in (
        ("seeds", f"95 % intervals by Student's t over {kind}, which takes their numbers as normal"),
        ("seeds and images", f"95 % intervals by Student's t over {kind} and a bootstrap over the images they share"),
    ):
        metrics = [m for m in found.metrics if any(m in row.means and row.means[m].over == over for row in found.rows)]
        if metrics:
            yield f"{', '.join(_heading(m, found.metrics) for m in metrics)}: {how}."
    counts = {len(mean.each) for row in found.rows for mean in row.means.values()}
    few = [count for count in counts if 1 < count < 5]
    if few:
        yield (
            f"So few {kind} ({' or '.join(map(str, sorted(few)))}) say little of how they differ: intervals are wide "
            "for it."
        )
    if len(found.rows) > 1 and few:
        yield "Intervals are of each row alone: whether two rows differ is not read off them, but off their difference."
    if 1 in counts:
        yield f"One {kind[:-1]} has no interval: nothing is known of how much {kind} differ."


def _seed_notes(found: Ablation) -> Iterator[str]:
    if found.mixed:
        return
    every = list(dict.fromkeys(label for row in found.rows for label in row.runs))
    yield f"Seeds: {', '.join(every)}."
    for row in found.rows:
        if set(row.runs) != set(every):
            yield f"{_name(row)}: seeds {', '.join(row.runs)} alone."


def _name(row: Row) -> str:
    return ", ".join(f"{name} {text}" for name, text in row.settings.items()) or "all"


def plain(found: Ablation) -> list[dict[str, Any]]:
    """The same rows for programs."""
    return [
        {
            "settings": dict(row.settings),
            "runs": {label: str(folder) for label, folder in row.runs.items()},
            "metrics": [_plain(metric, mean) for metric, mean in row.means.items()],
            "minus_first": [_plain(m, mean) for m, mean in row.over_first.items() if not _another(m, found)],
        }
        for row in found.rows
    ]


def _plain(metric: Metric, mean: Mean) -> dict[str, Any]:
    limits = {name: getattr(mean.interval, name) for name in ("value", "low", "high")}
    return {
        "metric": metric.name,
        "about": metric.about,
        **{name: value if math.isfinite(value) else None for name, value in limits.items()},
        "n": len(mean.each),
        "interval_over": mean.over or None,
        "each": dict(mean.each),
    }
