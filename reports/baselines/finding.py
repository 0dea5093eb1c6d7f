"""What `agevlm-eval baselines` shows, from run folders and files of published results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agevlm.errors import DataError, RunFolderError
from reports.baselines.beside import Chosen, arrange
from reports.baselines.measured import measured
from reports.baselines.parts import left_out_text, section_of
from reports.baselines.scored_rows import open_rows
from reports.baselines.tables import plain
from reports.document import Section
from reports.opened import Run, named, open_runs
from reports.published import UNDEFINED, Published, load


@dataclass(frozen=True)
class Found:
    """Tables, the same as plain rows, and what else is to be said."""

    section: Section
    printed: Section
    """What a terminal shows: without figures of which nobody says what they are, unless they were asked for."""
    unprinted: str
    """What it does not show, and where that is; empty where it shows all."""
    rows: list[dict[str, Any]]
    remarks: list[str]


def find(runs: Sequence[Path], chosen: Chosen, files: Sequence[Path]) -> Found:
    """Read runs and published results, and set them beside each other.

    With runs and no benchmark chosen, tables are of what was measured; where nothing was, of all that is published.

    Raises:
        RunFolderError: none of the folders can be opened.
        DataError: a run's scores or a file of published results are damaged, or nothing is left to show.
    """
    opened, unreadable = _opened(runs)
    found, left_out = measured(opened)
    remarks = [f"left out: {why}" for why in unreadable] + [f"{r.label}: {one}" for r in opened for one in r.remarks]
    remarks += left_out_text(left_out)
    rows = chosen.published(_rows(files))
    groups = arrange(chosen.measured(found), rows)
    if not any(group.measured or group.published for group in groups):
        raise DataError("no published result is of that benchmark, metric and size; see docs/published.md")
    if found and not chosen.benchmarks:
        of = {one.benchmark for one in found}
        groups = [group for group in groups if group.benchmark in of]
    shown = [group for group in groups if group.published or (group.measured and chosen.metrics)]
    alone = [f"{group.benchmark} {group.metric}" for group in groups if group.measured and group not in shown]
    if alone:
        remarks.append(f"Measured, and published by nobody in the list on these questions: {', '.join(alone)}.")
    printed = [group for group in shown if group.metric not in UNDEFINED or chosen.metrics] or shown
    left = sum(len(group.published) for group in shown if group not in printed)
    asking = " and ".join(f'--metric "{name}"' for name in sorted(UNDEFINED))
    unprinted = (
        f"Not printed here: {left} figures of which nobody says what they are. They are in --out, --csv and --json, "
        f"and under {asking}."
    )
    return Found(
        section_of(shown, remarks),
        section_of(printed, remarks),
        unprinted if left else "",
        [row for group in shown for row in plain(group)],
        remarks,
    )


def _opened(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Run folders, then files of rows, and why others were left out."""
    runs: list[Run] = []
    left_out: list[str] = []
    folders = [path for path in paths if not path.is_file()]
    for path in dict.fromkeys(path.resolve() for path in paths if path.is_file()):
        try:
            runs.append(open_rows(path))
        except RunFolderError as error:
            left_out.append(str(error))
    if folders:
        try:
            opened, unreadable = open_runs(folders)
            runs, left_out = [*opened, *runs], [*unreadable, *left_out]
        except RunFolderError as error:
            left_out.append(str(error))
    if paths and not runs:
        raise RunFolderError("; ".join(left_out))
    return named(runs), left_out


def _rows(files: Sequence[Path]) -> list[Published]:
    """Those of the package and of one's own; one's own take the place of others of the same figure."""
    rows: dict[tuple[str, ...], Published] = {}
    for path in (None, *files):
        for row in load(path):
            rows[row.model, row.benchmark, row.split, row.metric, row.source] = row
    return list(rows.values())
