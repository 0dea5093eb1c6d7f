"""The benchmarks' commands. Heavy imports happen inside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from agevlm.terminal import (
    BATCH_SIZE,
    CHAT_TEMPLATE,
    CKPT,
    CONCURRENCY,
    DEVICE,
    DEVICE_MAP,
    DTYPE,
    JSON,
    TIMEOUT,
    chat_template_text,
    consoles,
    write_json,
)
from benchmarks.controls import CONTROLS

HUB_POPE = "lmms-lab/POPE"
SCENES = "scenes"
PROTOCOL = click.option(
    "--protocol",
    "protocols",
    multiple=True,
    metavar="NAME",
    help="Scoring protocol, repeatable; the first leads.  [all]",
)
PARTIAL = click.option("--allow-partial", is_flag=True, help="Exit 0 although answers are missing.")
REPOPE = click.option(
    "--repope", type=click.Path(path_type=Path), help="RePOPE label file or folder: score the same answers on it too."
)
DRAWS = click.option("--draws", default=2000, show_default=True, type=click.IntRange(100), help="Bootstrap draws.")
RESCORE_DRAWS = click.option("--draws", type=click.IntRange(100), help="Bootstrap draws.  [2000, or the run folder's]")
RESCORE_SEED = click.option("--seed", type=click.IntRange(0), help="Seed of the intervals.  [0, or the run folder's]")
SEED = click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Seed of order, limits, controls and intervals.",
)


def _protocols(names: tuple[str, ...]) -> tuple[Any, ...]:
    from benchmarks.pope.protocols import PROTOCOLS, protocol

    chosen = tuple(protocol(n) for n in dict.fromkeys(names) if n != "all")
    return chosen or tuple(PROTOCOLS.values())


@click.command()
@CKPT
@click.option(
    "--questions",
    multiple=True,
    metavar="FILE|DIR|HUB_ID|scenes",
    help=f"POPE questions in any published form, repeatable; scenes[:IMAGES][@PIXELS] for POPE-Scenes.  [{HUB_POPE}; "
    "scenes for a model of the scenes world]",
)
@click.option(
    "--images", type=click.Path(path_type=Path), help="Folder of the images (not needed with parquet or hub)."
)
@click.option("--split", "splits", multiple=True, metavar="NAME", help="Only this split, repeatable.  [all]")
@REPOPE
@click.option(
    "--prompt", default="default", show_default=True, metavar="default|official|FILE", help="Prompt template."
)
@PROTOCOL
@click.option(
    "--control",
    "controls",
    multiple=True,
    type=click.Choice([*CONTROLS, "all"]),
    help="Ask everything again with the image taken away, repeatable.",
)
@click.option("--limit", type=click.IntRange(1), help="So many seeded images a data set, with all their questions.")
@click.option("--max-new-tokens", default=128, show_default=True, type=click.IntRange(1), help="Per answer.")
@DTYPE
@DEVICE
@DEVICE_MAP
@BATCH_SIZE
@CHAT_TEMPLATE
@CONCURRENCY
@TIMEOUT
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [runs/pope-MODEL-DATA-PROMPT]")
@click.option("--fresh", is_flag=True, help="Start over; an earlier run in the folder is moved aside.")
@click.option("--plan", "plan_only", is_flag=True, help="Say what would be asked, time and disk; load no weights.")
@click.option(
    "--verify", default=0, type=click.IntRange(0), metavar="N", help="Check N images' answers against plain generate."
)
@DRAWS
@SEED
@JSON
@PARTIAL
def pope(plan_only: bool, **options: Any) -> None:
    """Ask a model POPE's yes/no questions and score its answers.

    Every image is encoded once for all its questions, every distinct (image, prompt) pair is asked once, and every
    answer is on disk before the next image: the same command goes on where a killed one stopped.

    \b
    agevlm-eval pope
    agevlm-eval pope --ckpt llava-hf/llava-1.5-7b-hf --dtype bfloat16
    agevlm-eval pope --ckpt DIR --questions POPE/output/coco --images val2014 --control blind
    agevlm-eval pope --ckpt openai:http://localhost:8000/v1#NAME
    """
    from agevlm.vlm.choice import ModelChoice
    from benchmarks.pope.command import run_pope, show_plan
    from benchmarks.pope.settings import PopeSettings
    from benchmarks.prompts import load_prompt

    controls = options["controls"]
    settings = PopeSettings(
        model=ModelChoice(
            options["ckpt"],
            options["dtype"],
            options["device"],
            options["batch_size"],
            chat_template_text(options["chat_template"]),
            options["device_map"],
            concurrency=options["concurrency"],
            timeout=options["timeout"],
        ),
        questions=options["questions"] or (SCENES if options["ckpt"].startswith("scenes/") else HUB_POPE,),
        images=options["images"],
        splits=options["splits"],
        repope=options["repope"],
        prompt=load_prompt(options["prompt"]),
        protocols=_protocols(options["protocols"]),
        controls=CONTROLS if "all" in controls else controls,
        max_new_tokens=options["max_new_tokens"],
        limit=options["limit"],
        seed=options["seed"],
        draws=options["draws"],
        out=options["out"],
        fresh=options["fresh"],
        verify=options["verify"],
        json_out=options["json_out"],
        allow_partial=options["allow_partial"],
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
    """
    from agevlm.errors import DataError
    from benchmarks.answer_files import is_run_folder
    from benchmarks.pope.answers import load_answered, load_run, remarks
    from benchmarks.pope.questions import load_questions
    from benchmarks.pope.relabelled import with_repope
    from benchmarks.pope.result import check_result, print_result
    from benchmarks.pope.score import score as score_answers
    from benchmarks.run_folder import RunFolder

    protocols = _protocols(options["protocols"])
    console, notes = consoles()
    paths, given = options["answers"], {k: options[k] for k in ("seed", "draws") if options[k] is not None}
    if missing := [str(p) for p in paths if not p.exists()]:
        raise DataError(f"answers {', '.join(missing)}: no such file or folder")
    if any(is_run_folder(p) for p in paths):
        if len(paths) > 1 or options["questions"]:
            raise DataError("a run folder is scored by itself, and knows its questions: give it alone")
        answered = load_run(paths[0])
        given = {**RunFolder(paths[0]).scoring_settings(), **given}
    elif not options["questions"]:
        raise DataError("these answers carry no labels; give the questions they answer with --questions FILE|DIR")
    else:
        sets = load_questions(options["questions"])
        answered = load_answered(paths, sets)
        for remark in remarks(answered, sets):
            notes.print(remark)
    if options["repope"] is not None:
        answered = with_repope(answered, options["repope"])
    scores = score_answers(answered, protocols, **given)
    print_result(scores, protocols, options["json_out"], console)
    sys.exit(check_result(scores, options["allow_partial"], notes))


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
