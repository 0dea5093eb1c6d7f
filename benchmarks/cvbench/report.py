"""Scores of a CV-Bench run folder: read, by a judge too where one is wanted, written and printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from agevlm.errors import AgeVlmError
from benchmarks.cvbench.answers import load_run
from benchmarks.cvbench.judged import cases_of, judged_reader, print_judged, shares
from benchmarks.cvbench.readers import Reader
from benchmarks.cvbench.result import check_result, print_result
from benchmarks.cvbench.results import Answered, Results, reading_rows, results
from benchmarks.judge.asking import check_judged, judge_run
from benchmarks.judge.cases import JUDGED
from benchmarks.judge.options import JudgeSettings
from benchmarks.judge.share import to_json
from benchmarks.launch import say_tally
from benchmarks.run import Tally
from benchmarks.run_folder import RunFolder


def report(
    folder: RunFolder,
    readers: Sequence[Reader],
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
    """Score the folder, write scores.json and readings.jsonl, print. Returns the exit code.

    Args:
        folder: the run.
        readers: the readings without a judge; the first leads.
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
    scored = {"settings": {"draws": draws, "seed": seed, "level": 0.95, "readings": [one.name for one in readers]}}
    found = results(answered, readers, draws=draws, seed=seed)
    # Before any judge is asked: what it may fail to do takes nothing away.
    _write(folder, answered, found, scored)
    code, main = 0, readers[0].name
    if judge is None:
        print_result(found, main, json_out, console)
    else:
        name = JUDGED[judge.which]
        try:
            judged = judge_run(cases_of(answered, judge.which), judge, folder, notes)
        except AgeVlmError:
            print_result(found, main, json_out, console)
            raise
        found = results(answered, (*readers, judged_reader(judged, judge.which)), draws=draws, seed=seed)
        share = shares(answered, found, judge.which)
        _write(folder, answered, found, {**scored, "judge": to_json(judged, judge.which, name, share)})
        print_result(found, main, json_out, console)
        if json_out != "-":
            print_judged(judged, judge.which, share, console)
        code = check_judged(judged, allow_partial, notes, folder.path)
    say_tally(total, folder, notes)
    return check_result(found, main, allow_partial, notes) or code


def _write(folder: RunFolder, answered: Answered, found: Results, head: Mapping[str, Any]) -> None:
    folder.write_rows("readings.jsonl", reading_rows(answered, found))
    folder.write_json("scores.json", {**head, **found.to_json()})
