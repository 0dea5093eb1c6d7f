"""The click command of lmms-eval's tasks. Heavy imports happen inside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from agevlm.terminal import CKPT, JSON, MODEL, consoles, with_options


def _print_task_files(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from benchmarks.lmms.command import TASK_FILES

        click.echo(TASK_FILES)
        context.exit()


@click.command()
@click.option("--tasks", required=True, metavar="NAME,NAME...", help="lmms-eval's tasks, groups or tags.")
@CKPT
@click.option(
    "--include-path",
    "include",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder of further task files, repeatable; ours (agevlm_*) are always there.",
)
@click.option("--join-images", is_flag=True, help="Put several images of a question side by side into one.")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many documents of each task.")
@click.option("--gen-kwargs", default="", metavar="KEY=VALUE,...", help="Generation settings over the tasks' own.")
@click.option(
    "--bootstrap", default=1000, show_default=True, type=click.IntRange(0), help="lmms-eval's bootstrap draws."
)
@with_options(*MODEL)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [runs/lmms-MODEL-TASKS]")
@JSON
@click.option("--allow-partial", is_flag=True, help="Score requests without an answer as empty answers.")
@click.option(
    "--print-include-path",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_task_files,
    help="Print where our own task files are, for lmms-eval's --include_path, and exit.",
)
def lmms(**options: Any) -> None:
    """Run lmms-eval's tasks on a model, in a process of its own, and file the results.

    Needs the extra `lmms`. Each image is encoded once for all its questions, and every answer is on disk before the
    next image: the same command goes on where a killed one stopped.

    \b
    agevlm-eval lmms --tasks mmvp,realworldqa --ckpt llava-hf/llava-1.5-7b-hf --dtype bfloat16
    agevlm-eval lmms --tasks blink --join-images --ckpt DIR
    agevlm-eval lmms --tasks agevlm_pope,agevlm_cvbench --ckpt DIR
    agevlm-eval lmms --tasks my_task --include-path tasks/ --ckpt DIR
    """
    from agevlm.errors import DataError
    from agevlm.vlm.choice import ModelChoice
    from benchmarks.lmms.command import LmmsSettings, run_lmms

    tasks = tuple(dict.fromkeys(name.strip() for name in options["tasks"].split(",") if name.strip()))
    if not tasks:
        raise DataError("--tasks names no task")
    settings = LmmsSettings(
        model=ModelChoice.of(options),
        chat_template=options["chat_template"],
        tasks=tasks,
        include=options["include"],
        join_images=options["join_images"],
        limit=options["limit"],
        gen_kwargs=options["gen_kwargs"],
        bootstrap=options["bootstrap"],
        out=options["out"],
        json_out=options["json_out"],
        allow_partial=options["allow_partial"],
    )
    sys.exit(run_lmms(settings, *consoles()))
