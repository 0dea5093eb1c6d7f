"""What `agevlm-eval cvbench` does, from question files to printed scores."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from rich.console import Console

from benchmarks import preview
from benchmarks.cvbench.answers import load_run
from benchmarks.cvbench.judged import cases_of, judged_reader, print_judged, shares, to_json
from benchmarks.cvbench.questions import part_of_whole
from benchmarks.cvbench.result import check_result, print_result
from benchmarks.cvbench.results import Answered, Results, reading_rows, results
from benchmarks.cvbench.settings import CvBenchSettings, load_data, make_plan, run_folder
from benchmarks.judge.asking import check_judged, read_by_judge
from benchmarks.launch import Job, launch, say_tally
from benchmarks.run import Tally
from benchmarks.run_folder import RunFolder

PROMPT_TOKENS = 80
"""Tokens of a question with its options and the official instruction (rough)."""


def show_plan(settings: CvBenchSettings, console: Console) -> None:
    """`--plan`: what would be asked, how long, how much disk; loads no weights."""
    loaded = load_data(settings)
    plan = make_plan(settings, loaded, settings.model.fingerprint())
    data = {loaded.questions.data_version: loaded.questions.counts}
    preview.show_plan(settings, "cvbench", run_folder(settings), plan, data, console, PROMPT_TOKENS)
    if settings.json_out != "-" and (part := part_of_whole(loaded.questions)) is not None:
        console.print(f"{'remark':17}{part}", soft_wrap=True)


def run_cvbench(settings: CvBenchSettings, console: Console, notes: Console) -> int:
    """Run, resume and score. Returns the exit code.

    Args:
        settings: the options.
        console: for tables (stdout).
        notes: for progress and remarks (stderr).
    """

    def prepare() -> Job:
        loaded = load_data(settings)
        folder = run_folder(settings)
        return Job(
            benchmark="cvbench",
            folder=folder,
            data=[
                {
                    "name": loaded.questions.name,
                    "data_version": loaded.questions.data_version,
                    "content_sha256": loaded.questions.content_sha256,
                    "tasks": loaded.questions.counts,
                    "from": list(settings.questions),
                }
            ],
            sources=[loaded.source],
            plan=partial(make_plan, settings, loaded),
            report=lambda total: _report(settings, folder, total, console, notes),
            extra={"ranked": settings.ranked},
            remark=part_of_whole(loaded.questions),
        )

    return launch(settings, prepare, notes)


def _report(settings: CvBenchSettings, folder: RunFolder, total: Tally, console: Console, notes: Console) -> int:
    """Score the folder, write scores.json, print. Returns the exit code."""
    answered = load_run(folder.path)
    main = settings.readers[0].name
    scored = {"settings": {"draws": settings.draws, "seed": settings.seed, "level": 0.95}}
    found = results(answered, settings.readers, draws=settings.draws, seed=settings.seed)
    # Before any judge is asked: what it may fail to do takes nothing away.
    _write(folder, answered, found, scored)
    code = 0
    if settings.judge is not None:
        which = settings.judge.which
        judged = read_by_judge(cases_of(answered, which), settings.judge, folder.path, notes)
        readers = (*settings.readers, judged_reader(judged, which))
        found = results(answered, readers, draws=settings.draws, seed=settings.seed)
        share = shares(answered, found, which)
        _write(folder, answered, found, {**scored, "judge": to_json(judged, which, share)})
        code = check_judged(judged, settings.allow_partial, notes)
    print_result(found, main, settings.json_out, console)
    if settings.judge is not None and settings.json_out != "-":
        print_judged(judged, which, share, console)
    say_tally(total, folder, notes)
    return check_result(found, main, settings.allow_partial, notes) or code


def _write(folder: RunFolder, answered: Answered, found: Results, head: Mapping[str, Any]) -> None:
    folder.write_rows("readings.jsonl", reading_rows(answered, found))
    folder.write_json("scores.json", {**head, **found.to_json()})
