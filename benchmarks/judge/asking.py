"""What every command with a judge does: where the calls are kept, and what is said when verdicts are lacking."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from agevlm.errors import DataError
from benchmarks.judge.cases import Case
from benchmarks.judge.judging import Judged, judge_cases
from benchmarks.judge.log import FILE, JudgeLog
from benchmarks.judge.options import JudgeSettings
from benchmarks.remarks import ANSWERS_MISSING


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
    with JudgeLog(path) as log:
        return judge_cases(cases, settings.choice, log, max_calls=settings.max_calls, say=notes.print)


def check_judged(judged: Judged, allow_partial: bool, notes: Console) -> int:
    """Remarks on answers without a verdict; the exit code: 3 if the judge failed on some and that was not allowed."""
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
        f"{failed} distinct answers were not judged ({judged.trouble}); the other readings stand, and the same "
        "command (or agevlm-eval score with this --judge) goes on",
        style="yellow",
    )
    return 0 if allow_partial else ANSWERS_MISSING
