"""From run folders to a `Report`. Which parts there are, and in which order."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from reports.document import Gallery, Report, Section
from reports.opened import Run, open_runs
from reports.sections import summary

Part = Callable[[Sequence[Run]], Section | None]
PARTS = (
    "pope",
    "cvbench",
    "controls",
    "bias",
    "lmms",
    "compared",
    "published",
    "similarity",
    "grounding",
    "padding",
    "linkage",
    "signs",
    "provenance",
)
"""Modules of `reports.sections`, each with a function `section`; the summary, made of what they found, stands first."""


def assemble(
    folders: Sequence[Path],
    *,
    title: str | None,
    made: str,
    command: str,
    gallery: Callable[[Sequence[Run]], Gallery | None],
) -> Report:
    """Read the runs and make all parts.

    Args:
        folders: run folders, in the order in which models are shown.
        title: of the page; None for the names of the models.
        made: the time to be stamped.
        command: that makes the report again.
        gallery: makes the questions to browse.

    Raises:
        RunFolderError: none of the folders can be opened.
        DataError: a run's scores are not as that kind of run writes them.
    """
    runs, left_out = open_runs(folders)
    warnings = [*(f"left out: {why}" for why in left_out), *(f"{r.label}: {one}" for r in runs for one in r.remarks)]
    parts = [found for name in PARTS if (found := _part(name)(runs)) is not None]
    sections = [summary.section(runs, [one for part in parts for one in part.findings]), *parts]
    title = title or " · ".join(dict.fromkeys(name for run in runs for name in run.models))
    return Report(title, made, command, tuple(warnings), tuple(sections), gallery(runs))


def _part(name: str) -> Part:
    part: Part = importlib.import_module(f"reports.sections.{name}").section
    return part
