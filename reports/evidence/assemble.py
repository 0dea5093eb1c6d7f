"""From run folders to a `Report`. Which parts there are, and in which order."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from reports.document import Gallery, Report, Section
from reports.opened import Run, UnusableRun, open_runs
from reports.runs.files import printable
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

    A run whose files a part cannot use takes nothing else away: it is shown without its scores, or left out where that
    is not enough, and the warnings name it.

    Args:
        folders: run folders, in the order in which models are shown.
        title: of the page; None for the names of the models.
        made: the time to be stamped.
        command: that makes the report again.
        gallery: makes the questions to browse.

    Raises:
        RunFolderError: none of the folders can be opened.
        UnusableRun: none is left that can be shown.
    """
    runs, left_out = open_runs(folders)
    while True:
        try:
            parts = [found for name in PARTS if (found := _part(name)(runs)) is not None]
            sections = [summary.section(runs, [one for part in parts for one in part.findings]), *parts]
            questions = gallery(runs)
            break
        except UnusableRun as error:
            if all(run.scores is None for run in runs if run.folder == error.folder):
                left_out.append(printable(str(error)))
            runs = list(_without(runs, error))
            if not runs:
                raise
    warnings = [*(f"left out: {why}" for why in left_out), *(f"{r.label}: {one}" for r in runs for one in r.remarks)]
    title = title or " · ".join(dict.fromkeys(name for run in runs for name in run.models))
    return Report(title, made, command, tuple(warnings), tuple(sections), questions)


def _without(runs: Sequence[Run], error: UnusableRun) -> Iterator[Run]:
    """The runs without the scores of the one that cannot be used; without it where it has none."""
    for run in runs:
        if run.folder != error.folder:
            yield run
        elif run.scores is not None:
            yield replace(run, scores=None, remarks=(*run.remarks, f"its scores are left out: {printable(str(error))}"))


def _part(name: str) -> Part:
    part: Part = importlib.import_module(f"reports.sections.{name}").section
    return part
