"""Scores of a POPE run folder: read, by a judge too where one is wanted, written and printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from agevlm.errors import AgeVlmError
from benchmarks.judge.asking import check_judged, judge_run
from benchmarks.judge.cases import JUDGED
from benchmarks.judge.judging import Judged
from benchmarks.judge.options import JudgeSettings
from benchmarks.judge.share import print_share, to_json
from benchmarks.launch import say_tally
from benchmarks.pope.answers import load_run
from benchmarks.pope.judged import cases_of, judged_protocol, shares
from benchmarks.pope.protocols import Protocol
from benchmarks.pope.result import check_result, print_result
from benchmarks.pope.rows import Answered, Scores
from benchmarks.pope.score import score
from benchmarks.run import Tally
from benchmarks.run_folder import RunFolder


def report(
    folder: RunFolder,
    protocols: Sequence[Protocol],
    judge: JudgeSettings | None,
    *,
    draws: int,
    seed: int,
    json_out: str | None,
    allow_partial: bool,
    console: Console,
    notes: Console,
    total: Tally,
) -> int:
    """Score the folder, write scores.json, print. Returns the exit code.

    Args:
        folder: the run.
        protocols: the protocols without a judge; the first leads.
        judge: who reads answers beside them; None: nobody.
        draws: bootstrap draws.
        seed: of the intervals.
        json_out: see `print_result`.
        allow_partial: whether missing answers and verdicts leave the exit code 0.
        console: of tables.
        notes: of remarks.
        total: what this launch asked.
    """
    answered = load_run(folder.path)
    names = [one.name for one in protocols]
    scored: dict[str, Any] = {"settings": {"draws": draws, "seed": seed, "level": 0.95, "protocols": names}}
    scores = score(answered, protocols, draws=draws, seed=seed)
    # Before any judge is asked: what it may fail to do takes nothing away.
    _write(folder, scored, scores)
    code = 0
    if judge is None:
        print_result(scores, protocols, json_out, console)
    else:
        try:
            judged = judge_run(cases_of(answered, judge.which), judge, folder, notes)
        except AgeVlmError:
            print_result(scores, protocols, json_out, console)
            raise
        every = (*protocols, judged_protocol(judged, judge.which))
        scores = score(answered, every, draws=draws, seed=seed)
        share = [
            {"data_version": version, **to_json(judged, judge.which, JUDGED[judge.which], found)}
            for version, found in shares(answered, judged, judge.which).items()
        ]
        _write(folder, {**scored, "judge": share}, scores)
        print_result(scores, every, json_out, console)
        if json_out != "-":
            print_shares(answered, judged, judge.which, console)
        code = check_judged(judged, allow_partial, notes, folder.path)
    say_tally(total, folder, notes)
    return check_result(scores, allow_partial, notes) or code


def print_shares(answered: Sequence[Answered], judged: Judged, which: str, console: Console) -> None:
    """The judge's share, a table for each data set."""
    for version, found in shares(answered, judged, which).items():
        print_share(judged, which, JUDGED[which], "default", found, console, f" · data {version}")


def _write(folder: RunFolder, head: dict[str, Any], scores: Scores) -> None:
    folder.write_json("scores.json", {**head, **scores.to_json()})
