"""What every command with a judge does: where the calls are kept, and what is said when verdicts are lacking."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from agevlm.errors import AgeVlmError, DataError
from benchmarks.judge.cases import Case
from benchmarks.judge.judging import Judged, judge_cases
from benchmarks.judge.log import FILE, JudgeLog
from benchmarks.judge.options import JudgeSettings, keep_options
from benchmarks.remarks import ANSWERS_MISSING
from benchmarks.run_folder import RunFolder


def read_by_judge(cases: Iterable[Case], settings: JudgeSettings, run: Path | None, notes: Console) -> Judged:
    """Have answers read.

    Args:
        cases: the answers.
        settings: the judge.
        run: the run folder, which keeps the calls unless the settings say where; None where there is none.
        notes: for remarks (stderr).

    Raises:
        DataError: there is no place for the calls.
        RunFolderError: their log cannot be written.
        CheckpointError: the judge is not there.
    """
    path = settings.log or (run / FILE if run is not None else None)
    if path is None:
        raise DataError("these answers are in no run folder; say where the judge's calls are to be kept: --judge-log")
    with JudgeLog(path) as log, judging_progress(notes) as advance:
        return judge_cases(cases, settings.choice, log, max_calls=settings.max_calls, say=notes.print, advance=advance)


def judge_run(cases: Iterable[Case], settings: JudgeSettings, run: RunFolder, notes: Console) -> Judged:
    """Have a run's answers read, after writing down by whom: `agevlm-eval judge RUN` goes on with it.

    Raises:
        RunFolderError, CheckpointError: as `read_by_judge`.
    """
    keep_options(run, settings)
    try:
        return read_by_judge(cases, settings, run.path, notes)
    except (AgeVlmError, KeyboardInterrupt):
        notes.print(f"the scores without a judge are written. To finish the judging: {how_to_go_on(run.path)}")
        raise


@contextmanager
def judging_progress(notes: Console) -> Iterator[Callable[[int, int], None]]:
    """A bar that appears with the first verdict; gives what to call with (settled, total)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes, disable=not notes.is_terminal, transient=True) as bar:
        task = bar.add_task("judged", total=None, visible=False)
        yield lambda settled, total: bar.update(task, completed=settled, total=total, visible=True)


def how_to_go_on(run: Path | None) -> str:
    """The command that finishes the judging."""
    return "the same command" if run is None else f"agevlm-eval judge {shlex.quote(str(run))}"


def check_judged(judged: Judged, allow_partial: bool, notes: Console, run: Path | None = None) -> int:
    """Remarks on answers without a verdict; the exit code: 3 if the judge failed on some and that was not allowed.

    `run` is the folder that `agevlm-eval judge` can finish; None where there is none.
    """
    capped, undecided, failed = (judged.count(state) for state in ("over the cap", "undecided", "not judged"))
    if undecided:
        notes.print(f"{undecided} distinct answers are undecided: the judge's replies were no verdict", style="yellow")
    if capped:
        notes.print(
            f"{capped} distinct answers are undecided: --judge-max-calls was reached; a larger one goes on",
            style="yellow",
        )
    if not failed:
        return 0
    notes.print(
        f"{failed} distinct answers were not judged ({judged.trouble}); all else stands. To finish the judging: "
        f"{how_to_go_on(run)}",
        style="yellow",
    )
    return 0 if allow_partial else ANSWERS_MISSING
