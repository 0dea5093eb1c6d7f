"""`agevlm-eval padding`. Heavy imports happen inside."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from agevlm.terminal import BATCH_SIZE, CHECKPOINT, CKPTS, JSON, consoles, with_options
from benchmarks.options import DRAWS, FRESH, IMAGES, LIMIT, MAX_NEW_TOKENS, PARTIAL, SCENES, SEED

HUB_POPE = "lmms-lab/POPE"


@click.command()
@CKPTS
@click.option(
    "--questions",
    multiple=True,
    metavar="FILE|DIR|HUB_ID|scenes",
    help=f"POPE questions as `pope` takes them, repeatable.  [{HUB_POPE}; scenes for models of the scenes world]",
)
@IMAGES
@click.option("--split", "splits", multiple=True, metavar="NAME", help="Only this split, repeatable.  [all]")
@click.option(
    "--annotations",
    type=click.Path(path_type=Path),
    help="COCO-style instances of the images: tells which objects a crop cuts off. (Scenes bring their own masks.)",
)
@click.option(
    "--prompt", default="default", show_default=True, metavar="default|official|FILE", help="Prompt template."
)
@click.option(
    "--mode",
    "modes",
    multiple=True,
    type=click.Choice(["letterbox", "squash", "crop"]),
    help="How to make images square beside `native`, repeatable.  [all]",
)
@click.option(
    "--colour",
    "colours",
    multiple=True,
    type=click.Choice(["black", "mean", "grey", "edge"]),
    help="Of letterbox padding, repeatable.  [black and mean]",
)
@with_options(LIMIT, MAX_NEW_TOKENS, *CHECKPOINT, BATCH_SIZE)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [runs/padding-MODELS-DATA]")
@with_options(FRESH, DRAWS, SEED, JSON, PARTIAL)
def padding(**options: Any) -> None:
    """How much attention lies on padding, and what padding does to answers.

    Every image is shown as it is, letterboxed on black and on the mean colour, squashed and cropped; its POPE questions
    are asked each time, and once more with padding hidden from the text. The same command goes on where a killed one
    stopped.

    \b
    agevlm-eval padding --ckpt scenes/age-vlm --ckpt scenes/ca-baseline --ckpt scenes/concat
    agevlm-eval padding --ckpt llava-hf/llava-1.5-7b-hf --dtype bfloat16 --split adversarial --limit 100
    """
    from agevlm.vlm.choice import ModelChoice
    from analysis.padding.canvas import COLOURS, MODES
    from analysis.padding.command import PaddingSettings, run_padding
    from benchmarks.prompts import load_prompt

    names = options["ckpts"]
    of_scenes = all(name.startswith("scenes/") for name in names)
    same = ("images", "splits", "annotations", "max_new_tokens", "limit", "seed", "draws", "out", "fresh", "json_out")
    settings = PaddingSettings(
        models=ModelChoice.several(options),
        questions=options["questions"] or (SCENES if of_scenes else HUB_POPE,),
        prompt=load_prompt(options["prompt"]),
        modes=tuple(mode for mode in MODES if mode in options["modes"]) or MODES,
        colours=tuple(colour for colour in COLOURS if colour in options["colours"]) or COLOURS[:2],
        allow_partial=options["allow_partial"],
        **{name: options[name] for name in same},
    )
    console, notes = consoles()
    sys.exit(run_padding(settings, console, notes))
