"""The benchmarks' commands. Heavy imports happen inside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from agevlm.terminal import CKPT, JSON, consoles, write_json
from benchmarks.cvbench.commands import score_cvbench
from benchmarks.judge.options import judge_options, judge_settings
from benchmarks.options import IMAGES, PARTIAL, RESCORE_DRAWS, RESCORE_SEED, run_options, run_settings

HUB_POPE = "lmms-lab/POPE"
PROTOCOL = click.option(
    "--protocol",
    "protocols",
    multiple=True,
    metavar="NAME",
    help="Scoring protocol, repeatable; the first leads.  [all]",
)
REPOPE = click.option(
    "--repope", type=click.Path(path_type=Path), help="RePOPE label file or folder: score the same answers on it too."
)


@click.command()
@CKPT
@click.option(
    "--questions",
    multiple=True,
    metavar="FILE|DIR|HUB_ID|scenes",
    help=f"POPE questions in any published form, repeatable; scenes[:IMAGES][@PIXELS] for POPE-Scenes.  [{HUB_POPE}; "
    "scenes for a model of the scenes world]",
)
@IMAGES
@click.option("--split", "splits", multiple=True, metavar="NAME", help="Only this split, repeatable.  [all]")
@REPOPE
@click.option(
    "--prompt", default="default", show_default=True, metavar="default|official|FILE", help="Prompt template."
)
@PROTOCOL
@judge_options
@run_options("runs/pope-MODEL-DATA-PROMPT")
def pope(plan_only: bool, **options: Any) -> None:
    """Ask a model POPE's yes/no questions and score its answers.

    Every image is encoded once for all its questions, every distinct (image, prompt) pair is asked once, and every
    answer is on disk before the next image: the same command goes on where a killed one stopped.

    \b
    agevlm-eval pope
    agevlm-eval pope --ckpt llava-hf/llava-1.5-7b-hf --dtype bfloat16
    agevlm-eval pope --ckpt DIR --questions POPE/output/coco --images val2014 --control blind
    agevlm-eval pope --ckpt openai:http://localhost:8000/v1#NAME
    agevlm-eval pope --ckpt DIR --judge openai:http://localhost:8000/v1#NAME
    """
    from benchmarks.pope.command import run_pope, show_plan
    from benchmarks.pope.protocols import chosen_protocols
    from benchmarks.pope.settings import PopeSettings
    from benchmarks.prompts import load_prompt

    settings = PopeSettings(
        **run_settings(options, HUB_POPE),
        splits=options["splits"],
        repope=options["repope"],
        prompt=load_prompt(options["prompt"]),
        protocols=chosen_protocols(options["protocols"]),
        judge=judge_settings(options),
    )
    console, notes = consoles()
    if plan_only:
        show_plan(settings, console)
        return
    sys.exit(run_pope(settings, console, notes))


@click.group()
def score() -> None:
    """Score answers that already exist."""


@score.command("pope")
@click.option(
    "--answers",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE|DIR",
    help="LLaVA-style answers, lmms-eval samples, a folder of them, or a run folder; repeatable.",
)
@click.option(
    "--questions",
    multiple=True,
    metavar="FILE|DIR|HUB_ID",
    help="The questions they answer (not needed for a run folder).",
)
@REPOPE
@PROTOCOL
@judge_options
@RESCORE_DRAWS
@RESCORE_SEED
@JSON
@PARTIAL
def score_pope(**options: Any) -> None:
    """Score POPE answers under every published protocol.

    \b
    agevlm-eval score pope --answers answers.jsonl --questions POPE/output/coco
    agevlm-eval score pope --answers llava_pope_test_answers.jsonl --questions llava_pope/
    agevlm-eval score pope --answers runs/pope-...
    agevlm-eval score pope --answers runs/pope-... --judge openai:http://localhost:8000/v1#NAME
    """
    from benchmarks.answer_files import given_answers
    from benchmarks.judge.asking import check_judged, read_by_judge
    from benchmarks.pope.answers import load_answered, load_run, remarks
    from benchmarks.pope.judged import cases_of, judged_protocol
    from benchmarks.pope.protocols import chosen_protocols
    from benchmarks.pope.questions import load_questions
    from benchmarks.pope.relabelled import with_repope
    from benchmarks.pope.report import print_shares
    from benchmarks.pope.result import check_result, print_result
    from benchmarks.pope.score import score as score_answers

    protocols = chosen_protocols(options["protocols"])
    judge = judge_settings(options)
    console, notes = consoles()
    given = {k: options[k] for k in ("seed", "draws") if options[k] is not None}
    run = given_answers(options["answers"], options["questions"])
    if run is not None:
        answered = load_run(run.path)
        given = {**run.scoring_settings(), **given}
    else:
        sets = load_questions(options["questions"])
        answered = load_answered(options["answers"], sets)
        for remark in remarks(answered, sets):
            notes.print(remark)
    if options["repope"] is not None:
        answered = with_repope(answered, options["repope"])
    code = 0
    if judge is not None:
        judged = read_by_judge(cases_of(answered, judge.which), judge, None if run is None else run.path, notes)
        protocols = (*protocols, judged_protocol(judged, judge.which))
        code = check_judged(judged, options["allow_partial"], notes)
    scores = score_answers(answered, protocols, **given)
    print_result(scores, protocols, options["json_out"], console)
    if judge is not None and options["json_out"] != "-":
        print_shares(answered, judged, judge.which, console)
    sys.exit(check_result(scores, options["allow_partial"], notes) or code)


score.add_command(score_cvbench)


@click.command("build-pope")
@click.option("--annotations", required=True, type=click.Path(path_type=Path), help="COCO-style instances file.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the question files.")
@click.option("--num-images", type=click.IntRange(1), help="Sample so many usable images.  [all]")
@click.option(
    "--per-image", default=3, show_default=True, type=click.IntRange(1), help="Positives (and negatives) each."
)
@click.option("--name", help="Name in the files, NAME_pope_SPLIT.json.  [the folder's]")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the sampling.")
@JSON
def build_pope(**options: Any) -> None:
    """Build POPE questions from COCO-style annotations by POPE's own sampling.

    An image is usable if it shows at least PER_IMAGE different categories. Random negatives are drawn from all objects,
    popular ones by frequency, adversarial ones by co-occurrence with the object just asked about.
    """
    from agevlm.data.annotations import load_instances
    from benchmarks.pope.build import build_pope as build
    from benchmarks.pope.build import write_pope
    from benchmarks.pope.types import SPLITS

    console, _ = consoles()
    instances = load_instances(options["annotations"])
    made = build(instances, num_images=options["num_images"], per_image=options["per_image"], seed=options["seed"])
    written = write_pope(made, options["out"], name=options["name"])
    write_json(made.rows(), options["json_out"])
    if options["json_out"] == "-":
        return
    reasons = "".join(f"; {count} {reason}" for reason, count in made.unusable.items())
    drawn = ", ".join(f"{split} {count}" for split, count in made.fallbacks.items() if count)
    each = len(made.questions) // len(SPLITS)
    lines = [
        f"{made.images_total} images: {len(made.usable)} usable{reasons}",
        f"{len(made.questions)} questions about {len(made.sampled)} images, seed {made.seed}: "
        f"{each} in each of {', '.join(SPLITS)}",
        *([f"negatives drawn at random because a list had no absent object left: {drawn}"] if drawn else []),
        *(f"wrote {path}" for path in written),
    ]
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
