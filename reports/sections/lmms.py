"""Tasks of lmms-eval, with its own metrics and standard errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from reports.document import NONE, Cell, Column, Section, Table, number
from reports.opened import Run, reading


def section(runs: Sequence[Run]) -> Section | None:
    """Each task's metrics, runs side by side; None without a run of lmms-eval that has scores."""
    found = [run for run in runs if run.benchmark == "lmms" and run.scores is not None]
    if not found:
        return None
    rows: dict[tuple[str, str, str], list[tuple[Run, Any]]] = {}
    for run in found:
        assert run.scores is not None
        with reading(run):
            for row in run.scores["rows"]:
                rows.setdefault((str(row["task"]), str(row["metric"]), str(row["filter"])), []).append((run, row))
    columns = [Column("task", False), Column("metric", False), Column("better", False), Column("model", False)]
    columns += [Column("n"), Column("value"), Column("standard error"), Column("clustered over images")]
    table = Table(
        "lmms",
        "lmms-eval, each task's metrics as the task scores them",
        columns,
        [_row(task, metric, filtered, *one) for (task, metric, filtered), own in rows.items() for one in own],
        (
            "Metrics have the units of their tasks: many are fractions, some are sums of points. better: which way. n: "
            "documents with a recorded answer. Standard errors are lmms-eval's own; a dash where it has none.",
            *_notes(found),
        ),
    )
    text = "These tasks were run and scored by lmms-eval, on answers that this suite recorded."
    return Section("lmms", "Tasks of lmms-eval", (text,), [table])


def _row(task: str, metric: str, filtered: str, run: Run, row: Any) -> list[Cell]:
    with reading(run):
        error = row["stderr_clt"] if row["stderr"] is None else row["stderr"]
        name = metric if filtered == "none" else f"{metric} ({filtered})"
        better = {True: "higher", False: "lower"}.get(row.get("higher_is_better"), NONE)
        cells = [
            Cell(task),
            Cell(name),
            Cell(better),
            Cell(run.label),
            number(row["n"], unit="count"),
            _value(row["value"]),
        ]
        return [*cells, number(error, unit="number"), number(row["stderr_clustered"], unit="number")]


def _value(value: Any) -> Cell:
    if value is None or isinstance(value, (int, float)):
        return number(value, unit="number")
    text = json.dumps(value)
    return Cell(text if len(text) <= 60 else f"{text[:59]}…")


def _notes(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        manifest = run.manifest
        packages = manifest.get("packages")
        version = packages.get("lmms-eval", "not stated") if isinstance(packages, dict) else "not stated"
        parts = [f"lmms-eval {version}"]
        if manifest.get("limit") is not None:
            parts.append(f"limited to the first {manifest['limit']} documents of each task: no published number")
        if manifest.get("gen_kwargs"):
            parts.append(f"gen_kwargs {manifest['gen_kwargs']}")
        launches = manifest.get("launches")
        last = launches[-1] if isinstance(launches, list) and launches else {}
        missing = last.get("missing") if isinstance(last, dict) else None
        count = missing if isinstance(missing, int) else len(missing or ())
        parts.append(f"{count:,} answers missing")
        yield f"{run.label}: {'; '.join(parts)}."
