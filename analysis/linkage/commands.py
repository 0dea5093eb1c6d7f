"""`agevlm-eval linkage`. Heavy imports happen inside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from agevlm.terminal import BATCH_SIZE, CHECKPOINT, CKPTS, JSON, consoles, with_options
from benchmarks.commands import HUB_POPE
from benchmarks.options import DRAWS, FRESH, IMAGES, LIMIT, PARTIAL, SEED


@click.command()
@CKPTS
@click.option(
    "--questions",
    multiple=True,
    metavar="FILE|DIR|HUB_ID|scenes",
    help=f"POPE questions in any published form, repeatable; scenes[:IMAGES][@PIXELS] for POPE-Scenes.  [{HUB_POPE}; "
    "scenes for models of the scenes world]",
)
@IMAGES
@click.option(
    "--annotations",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="COCO-style instances of the images: masks, sizes, co-occurrence.  [scenes bring theirs; else none]",
)
@click.option("--split", "splits", multiple=True, metavar="NAME", help="Only this split, repeatable.  [all]")
@click.option(
    "--prompt", default="default", show_default=True, metavar="default|official|FILE", help="Prompt template."
)
@click.option("--max-new-tokens", default=16, show_default=True, type=click.IntRange(1), help="Per answer.")
@click.option(
    "--causal-images",
    default=100,
    show_default=True,
    type=click.IntRange(0),
    help="Hide the objects of so many seeded images and ask again; 0 for none.",
)
@click.option(
    "--places", default=3, show_default=True, type=click.IntRange(1), help="Random places to hide for each object."
)
@click.option(
    "--border", default=0, show_default=True, type=click.IntRange(0), help="Cells hidden around the object's, too."
)
@with_options(*CHECKPOINT, BATCH_SIZE)
@LIMIT
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [runs/linkage-MODELS-DATA]")
@FRESH
@DRAWS
@SEED
@JSON
@PARTIAL
def linkage(**options: Any) -> None:
    """Does looking explain answering? One table of questions, what tells errors, and what hiding does.

    Every POPE question is asked once, with the attention of the object's word and of the last token, similarity, object
    size, co-occurrence prior and yes-margin beside the answer. Then the object, the most attended cells and random
    cells are hidden, from attention and in the pixels, and the question is asked again.

    \b
    agevlm-eval linkage --ckpt scenes/age-vlm --ckpt scenes/ca-baseline --ckpt scenes/concat
    agevlm-eval linkage --ckpt llava-hf/llava-1.5-7b-hf --dtype bfloat16 --annotations instances_val2014.json
    """
    from agevlm.vlm.choice import ModelChoice
    from analysis.launch import refuse_closed
    from analysis.linkage.command import LinkageSettings, run_linkage
    from benchmarks.prompts import load_prompt

    models = ModelChoice.several(options)
    refuse_closed(models)
    of_scenes = all(name.startswith("scenes/") for name in options["ckpts"])
    settings = LinkageSettings(
        models=models,
        questions=options["questions"] or ("scenes" if of_scenes else HUB_POPE,),
        prompt=load_prompt(options["prompt"]),
        **{
            name: options[name]
            for name in ("out", "fresh", "limit", "seed", "draws", "json_out", "images", "annotations", "splits")
        },
        **{name: options[name] for name in ("max_new_tokens", "causal_images", "places", "border", "allow_partial")},
    )
    console, notes = consoles()
    sys.exit(run_linkage(settings, console, notes))
