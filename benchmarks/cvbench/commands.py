"""CV-Bench's commands. Heavy imports happen inside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from agevlm.terminal import CKPT, JSON, consoles
from benchmarks.judge.options import judge_options, judge_settings
from benchmarks.options import (
    IMAGES,
    PARTIAL,
    RESCORE_DRAWS,
    RESCORE_SEED,
    of_scenes,
    run_options,
    run_settings,
)

HUB = "nyu-visionx/CV-Bench"
READING = click.option(
    "--reading",
    "readings",
    multiple=True,
    metavar="NAME",
    help="Way to read answers, repeatable; the first leads.  [all]",
)


@click.command()
@CKPT
@click.option(
    "--questions",
    multiple=True,
    metavar="FILE|DIR|HUB_ID|scenes",
    help=f"CV-Bench questions in any published form, repeatable; scenes[:IMAGES][@PIXELS] for CV-Scenes.  [{HUB}; "
    "scenes for a model of the scenes world]",
)
@IMAGES
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Only this task, repeatable.  [all]")
@click.option(
    "--prompt",
    metavar="official|plain|lmms-eval|FILE",
    help="Prompt template.  [official; plain for a model of the scenes world]",
)
@READING
@click.option("--rank/--no-rank", "ranked", default=True, show_default=True, help="Rank the options too, if it can.")
@judge_options
@run_options("runs/cvbench-MODEL-DATA-PROMPT")
def cvbench(plan_only: bool, **options: Any) -> None:
    """Ask a model CV-Bench's multiple-choice questions and score its answers.

    Every image is encoded once for all its questions, and every answer is on disk before the next image: the same
    command goes on where a killed one stopped. One run prints every reading of the same answers.

    \b
    agevlm-eval cvbench
    agevlm-eval cvbench --ckpt llava-hf/llava-1.5-7b-hf --dtype bfloat16 --control blind
    agevlm-eval cvbench --ckpt DIR --questions test_2d.parquet --questions test_3d.parquet
    agevlm-eval cvbench --ckpt DIR --questions cv-bench/test_2d.jsonl --images cv-bench
    """
    from benchmarks.cvbench.command import run_cvbench, show_plan
    from benchmarks.cvbench.prompts import load_prompt
    from benchmarks.cvbench.readers import chosen_readers
    from benchmarks.cvbench.settings import CvBenchSettings

    settings = CvBenchSettings(
        **run_settings(options, HUB),
        prompt=load_prompt(options["prompt"] or ("plain" if of_scenes(options) else "official")),
        tasks=options["tasks"],
        readers=chosen_readers(options["readings"]),
        ranked=options["ranked"],
        judge=judge_settings(options),
    )
    console, notes = consoles()
    if plan_only:
        show_plan(settings, console)
        return
    sys.exit(run_cvbench(settings, console, notes))


@click.command("cvbench")
@click.option(
    "--answers",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE|DIR",
    help="JSON lines (idx, text), lmms-eval samples, a folder of them, or a run folder; repeatable.",
)
@click.option(
    "--questions",
    multiple=True,
    metavar="FILE|DIR|HUB_ID",
    help="The questions they answer (not needed for a run folder).",
)
@READING
@judge_options
@RESCORE_DRAWS
@RESCORE_SEED
@JSON
@PARTIAL
def score_cvbench(**options: Any) -> None:
    """Score CV-Bench answers under every reading.

    \b
    agevlm-eval score cvbench --answers answers.jsonl --questions cv-bench/
    agevlm-eval score cvbench --answers samples_cv_bench_2d.jsonl --questions cv-bench/test_2d.parquet
    agevlm-eval score cvbench --answers runs/cvbench-...
    agevlm-eval score cvbench --answers runs/cvbench-... --judge openai:http://localhost:8000/v1#NAME --judge-which all
    """
    from benchmarks.answer_files import given_answers
    from benchmarks.cvbench.answers import load_answered, load_run
    from benchmarks.cvbench.judged import cases_of, judged_reader, print_judged, shares
    from benchmarks.cvbench.prompts import NOT_STATED
    from benchmarks.cvbench.questions import load_all, part_of_whole
    from benchmarks.cvbench.readers import chosen_readers
    from benchmarks.cvbench.result import check_result, print_result
    from benchmarks.cvbench.results import results
    from benchmarks.judge.asking import check_judged, read_by_judge

    readers = chosen_readers(options["readings"])
    judge_wanted = judge_settings(options)
    console, notes = consoles()
    given = {k: options[k] for k in ("seed", "draws") if options[k] is not None}
    run = given_answers(options["answers"], options["questions"])
    if run is not None:
        answered = load_run(run.path)
        given = {**run.scoring_settings(), **given}
    else:
        questions = load_all(options["questions"])
        if (part := part_of_whole(questions)) is not None:
            notes.print(part)
        answered = load_answered(options["answers"], questions)
        if answered.prompt == NOT_STATED:
            notes.print(
                "warning: the answers record no prompts, or none with options, so they were matched by idx alone; make "
                "sure that they answer these questions"
            )
    code = 0
    if judge_wanted is not None:
        cases = cases_of(answered, judge_wanted.which)
        judged = read_by_judge(cases, judge_wanted, None if run is None else run.path, notes)
        readers = (*readers, judged_reader(judged, judge_wanted.which))
        code = check_judged(judged, options["allow_partial"], notes)
    found = results(answered, readers, **given)
    print_result(found, readers[0].name, options["json_out"], console)
    if judge_wanted is not None and options["json_out"] != "-":
        print_judged(judged, judge_wanted.which, shares(answered, found, judge_wanted.which), console)
    sys.exit(check_result(found, readers[0].name, options["allow_partial"], notes) or code)
