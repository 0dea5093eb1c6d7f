"""Run folders opened for a report: their manifests and scores, what is wrong with them, names that tell them apart.

Scores are those of scores.json where they are of the answers that are there; else POPE and CV-Bench are scored here, in
memory, from the answers. Nothing is written.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agevlm.errors import DataError, RunFolderError
from reports.held import Held, check_rows, held, judged, scores_of, without_judged
from reports.runs.files import in_use, manifest_of, printable
from reports.runs.headline import FIELD, headlines
from reports.runs.listing import INNER, Left, State, left_told, look_at, scored_last, scores_in
from reports.runs.printing import remark_lines

SCORES = "scores.json"


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path
    label: str
    """Unique among runs of a kind in a report: the model, and the folder where that does not tell two apart."""
    benchmark: str
    """pope, cvbench, lmms, similarity, grounding, padding, linkage or failure-signs; or one that is not known here."""
    manifest: Mapping[str, Any]
    scores: Mapping[str, Any] | None
    """None where there are none."""
    remarks: Sequence[str] = ()
    """What is wrong with it, for the top of the report."""
    held: Held | None = field(default=None, repr=False, compare=False)
    """Questions and answers of POPE and CV-Bench; None for other runs, and where they cannot be read."""

    @property
    def models(self) -> tuple[str, ...]:
        """As they were named: one of a benchmark's run, several of an analysis."""
        many = self.manifest.get("models")
        if isinstance(many, dict):
            return tuple(map(str, many))
        return (str(_model(self.manifest) or "not stated"),)


class UnusableRun(DataError):
    """A file of a run that is not as that kind of run writes it.

    Attributes:
        folder: of the run.
    """

    def __init__(self, folder: Path, message: str) -> None:
        super().__init__(message)
        self.folder = folder


@contextlib.contextmanager
def reading(run: Run, file: str = SCORES) -> Iterator[None]:
    """Read what a file of a run holds within this, and do nothing else: errors of other things would be mistaken.

    Raises:
        UnusableRun: it is not as that kind of run writes it.
    """
    try:
        yield
    except (
        RunFolderError,
        LookupError,
        TypeError,
        AttributeError,
        ValueError,
        ArithmeticError,
        StopIteration,
    ) as error:
        why = str(error) if isinstance(error, RunFolderError) else f"{type(error).__name__}: {error}"
        raise UnusableRun(
            run.folder,
            f"{run.folder / file}: damaged or of another version ({why}); give the run's command again, or leave the "
            "run out",
        ) from error


def open_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Open run folders in their order; a folder that is no run stands for the runs directly below it, by name.

    Returns:
        The runs, and why others were left out, one line each.

    Raises:
        RunFolderError: none can be opened.
    """
    runs: list[Run] = []
    left_out: list[str] = []
    found: dict[Path, None] = {}
    for path in folders:
        try:
            found |= dict.fromkeys(_runs_at(path.resolve()))
        except OSError as error:
            left_out.append(printable(f"{path.resolve()}: cannot be read: {error.strerror}"))
    for folder in found:
        try:
            runs.append(_opened(folder))
        except RunFolderError as error:
            left_out.append(printable(str(error)))
    if not runs:
        raise RunFolderError("; ".join(left_out) or "no run folder given")
    return named(runs), left_out


def _runs_at(folder: Path) -> list[Path]:
    """The folder itself; of one that is no run the folders in it that are, training runs aside."""
    if (folder / "run.json").exists() or not folder.is_dir():
        return [folder]
    inner = sorted(path for path in folder.iterdir() if path.name not in INNER and (path / "run.json").is_file())
    return [path for path in inner if _may_be_run(path)] or [folder]


def _may_be_run(folder: Path) -> bool:
    """Whether to open it: a training run has a manifest too, which names no benchmark."""
    try:
        return "benchmark" in manifest_of(folder)
    except RunFolderError:
        return True


def _opened(folder: Path) -> Run:
    manifest = manifest_of(folder)
    if not isinstance(manifest.get("benchmark"), str):
        raise RunFolderError(f"{folder / 'run.json'}: names no benchmark: no run of agevlm-eval")
    benchmark = manifest["benchmark"]
    remarks: list[str] = []
    scores = _scores(folder, benchmark, remarks)
    found: Held | None = None
    if benchmark in FIELD:
        damage: list[str] = []
        try:
            found = held(folder, manifest, damage)
        except RunFolderError as error:
            rest = "there are no numbers" if scores is None else "its numbers are those of its scores.json, unchecked"
            remarks.append(f"{error}; {rest}")
        remarks += [*_left(folder, found), *remark_lines(damage)]
        if found is not None:
            scores = _of_what_is_held(folder, manifest, scores, found, damage, remarks)
    else:
        remarks += _state(folder)
    if scores is None and not remarks:
        remarks.append("not scored yet: give the run's command again")
    label = printable(str(_model(manifest) or folder.name))
    return Run(folder, label, benchmark, manifest, scores, tuple(map(printable, remarks)), found)


def _model(manifest: Mapping[str, Any]) -> Any:
    model = manifest.get("model")
    return model.get("ckpt") if isinstance(model, dict) else None


def _scores(folder: Path, benchmark: str, remarks: list[str]) -> Mapping[str, Any] | None:
    """scores.json; None where there is none or it is damaged, which is then said."""
    try:
        scores = scores_in(folder)
        if scores is not None:
            headlines(benchmark, scores)
            check_rows(benchmark, scores)
    except OSError as error:
        remarks.append(f"{folder / SCORES}: cannot be read: {error.strerror}")
    except RunFolderError as error:
        remarks.append(f"{folder}: {error}")
    else:
        return scores
    return None


def _left(folder: Path, found: Held | None) -> list[str]:
    """What is not answered, in words."""
    said = []
    used = in_use(folder)
    if used:
        said.append("in use: a command works on this run now; what stands here is of the answers that were there")
    if found is not None:
        total = found.asked.total()
        if found.missing.total():
            goes_on = "" if used else "; the same command goes on"
            said.append(
                f"incomplete: {found.missing.total():,} of {total:,} questions have no answer "
                f"({_by_condition(found.missing, found.asked)}){goes_on}. Scores are of the answers that are there"
            )
        if found.errors.total():
            said.append(
                f"errors stand in the place of {found.errors.total():,} of {total:,} answers "
                f"({_by_condition(found.errors, found.asked)}): the same command asks them again. They enter no score"
            )
    return said


def _by_condition(counts: Counter[str], asked: Counter[str]) -> str:
    return ", ".join(f"{condition} {count:,} of {asked[condition]:,}" for condition, count in counts.items() if count)


def _of_what_is_held(
    folder: Path,
    manifest: Mapping[str, Any],
    scores: Mapping[str, Any] | None,
    found: Held,
    damage: Sequence[str],
    remarks: list[str],
) -> Mapping[str, Any]:
    """Scores that are of the answers that are there: the run's own, or new ones, which is then said."""
    benchmark = str(manifest["benchmark"])
    if scores is not None and not damage and scored_last(folder) and _as_many(found, left_told(benchmark, scores)):
        return scores
    mine = scores_of(found, manifest, scores)
    if scores is not None and without_judged(scores) == mine["rows"]:
        return scores
    why = "it has none that can be used" if scores is None else "its scores.json is not of the answers that are there"
    names = ", ".join(mine["settings"][f"{FIELD[benchmark]}s"])
    remarks.append(f"scored here, in memory, because {why}; under {names}")
    if scores is not None and (lost := judged(scores)):
        remarks.append(
            f"left out, because only a judge can make it: {', '.join(sorted(lost))}; give the command with --judge "
            "again"
        )
    return mine


def _as_many(found: Held, told: Left) -> bool:
    return (found.missing.total(), found.errors.total()) == (told.missing, told.errors)


def _state(folder: Path) -> list[str]:
    """How far a run got that is no benchmark's, if not to its end."""
    listed = look_at(folder)
    if listed is None or listed.state is State.COMPLETE:
        return []
    more = f": {listed.detail}" if listed.detail else ""
    what = {
        State.RESUMABLE: "incomplete; the same command goes on",
        State.FAILED: "some of it failed; the same command tries it again",
        State.UNSCORED: "not scored yet: give the run's command again",
        State.IN_USE: "in use: a command works on this run now",
    }.get(listed.state)
    return [] if what is None else [f"{what}{more}"]  # damage is said where scores are read


def named(runs: Sequence[Run]) -> list[Run]:
    """Labels that differ within a kind of run: with the folder's name, then with as many of its parents as it takes."""
    labels = [run.label for run in runs]
    for depth in range(1, max((len(run.folder.parts) for run in runs), default=0) + 1):
        twins = _twins(runs, labels)
        if not twins:
            break
        for place in twins:
            labels[place] = f"{runs[place].label} ({Path(*runs[place].folder.parts[-depth:])})"
    for place in _twins(runs, labels):  # a model whose name is another's with its folder
        labels[place] = f"{labels[place]} #{place + 1}"
    return [replace(run, label=label) for run, label in zip(runs, labels, strict=True)]


def _twins(runs: Sequence[Run], labels: Sequence[str]) -> list[int]:
    counts = Counter((run.benchmark, label) for run, label in zip(runs, labels, strict=True))
    return [place for place, run in enumerate(runs) if counts[run.benchmark, labels[place]] > 1]
