"""Run folders opened for a report: their manifests and scores, with names that tell them apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agevlm.errors import RunFolderError
from reports.runs.files import manifest_of

SCORES = "scores.json"


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path
    label: str
    """Unique among runs of a kind in a report: the model, and the folder where that does not tell two apart."""
    benchmark: str
    """pope, cvbench, lmms, similarity, grounding, padding, linkage or failure-signs."""
    manifest: Mapping[str, Any]
    scores: Mapping[str, Any] | None
    """None where it was not scored."""
    remarks: Sequence[str] = ()
    """What is wrong with it, for the top of the report."""

    @property
    def models(self) -> tuple[str, ...]:
        """As they were named: one of a benchmark's run, several of an analysis."""
        many = self.manifest.get("models")
        if isinstance(many, dict):
            return tuple(map(str, many))
        return (str(self.manifest.get("model", {}).get("ckpt", "not stated")),)


def open_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Open run folders in their order.

    Returns:
        The runs, and why others were left out, one line each.

    Raises:
        RunFolderError: none can be opened.
    """
    runs: list[Run] = []
    left_out: list[str] = []
    for folder in dict.fromkeys(path.resolve() for path in folders):
        try:
            runs.append(_opened(folder))
        except RunFolderError as error:
            left_out.append(str(error))
    if not runs:
        raise RunFolderError("; ".join(left_out) or "no run folder given")
    return _named(runs), left_out


def _opened(folder: Path) -> Run:
    manifest = manifest_of(folder)
    remarks: list[str] = []
    scores: Mapping[str, Any] | None = None
    try:
        scores = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        remarks.append("not scored yet: give the run's command again")
    except (OSError, ValueError) as error:
        remarks.append(f"{folder / SCORES}: cannot be read ({error}); give the run's command again to score it")
    benchmark = str(manifest.get("benchmark"))
    model = manifest.get("model", {}).get("ckpt")
    return Run(folder, str(model or folder.name), benchmark, manifest, scores, tuple(remarks))


def _named(runs: Sequence[Run]) -> list[Run]:
    """Labels that differ within a kind of run: with the folder's name, then with as many of its parents as it takes."""
    found = list(runs)
    for depth in range(1, max(len(run.folder.parts) for run in runs) + 1):
        counts: dict[tuple[str, str], int] = {}
        for run in found:
            counts[run.benchmark, run.label] = counts.get((run.benchmark, run.label), 0) + 1
        twins = {key for key, count in counts.items() if count > 1}
        if not twins:
            break
        found = [
            replace(run, label=f"{old.label} ({Path(*run.folder.parts[-depth:])})")
            if (run.benchmark, run.label) in twins
            else run
            for run, old in zip(found, runs, strict=True)
        ]
    return found
