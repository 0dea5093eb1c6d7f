"""`agevlm-eval failure-signs`. Heavy imports happen inside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from agevlm.terminal import BATCH_SIZE, CHECKPOINT, CKPTS, JSON, consoles, with_options
from benchmarks.options import DRAWS, FRESH, SEED

FILE = click.Path(path_type=Path)
SCENES = "scenes for models of the scenes world"


@click.command("failure-signs")
@CKPTS
@click.option("--captions", type=FILE, metavar="FILE", help="COCO-style captions.json, for similarity.")
@click.option("--pairs", metavar="scenes[:N][@PIXELS]|FILE", help=f"Or pairs, as `similarity` takes them.  [{SCENES}]")
@click.option(
    "--questions",
    multiple=True,
    metavar="FILE|DIR|HUB_ID|scenes",
    help=f"POPE questions, for padding and hallucination, repeatable.  [{SCENES}]",
)
@click.option(
    "--regions",
    metavar="FILE|DIR|scenes[:N][@PIXELS]",
    help=f"Phrases with masks, as `grounding` takes them.  [{SCENES}]",
)
@click.option("--images", type=FILE, help="Folder of the images of all these.")
@click.option(
    "--base",
    metavar="FOLDER|ORG/NAME",
    help="The language model that training began with, for checkpoints without a record of their own.",
)
@click.option("--texts", type=FILE, metavar="FILE", help="Texts for the language check, one a line.  [a few of ours]")
@click.option(
    "--use", type=FILE, multiple=True, metavar="DIR", help="A finished run of similarity, padding or grounding."
)
@click.option("--threshold", "thresholds", multiple=True, metavar="MEASURE=VALUE", help="Set a threshold, repeatable.")
@click.option("--fail-on-sign", is_flag=True, help="Exit with 1 if any sign is present.")
@with_options(*CHECKPOINT, BATCH_SIZE)
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(2), help="So many seeded images an analysis."
)
@click.option("--out", type=FILE, help="Run folder.  [runs/failure-signs-MODELS]")
@with_options(FRESH, DRAWS, SEED, JSON)
def failure_signs(**options: Any) -> None:
    """One table of the paper's failure signatures, each with a threshold and a verdict.

    Similarity overlap, attention collapse to padding, loss of language ability, masks of abstract phrases, and
    hallucination beside them. What is missing of the analyses is run on a small sample, in sub-folders of the run
    folder; the same command goes on where a killed one stopped.

    \b
    agevlm-eval failure-signs --ckpt scenes/age-vlm --ckpt scenes/ca-baseline --ckpt scenes/concat
    agevlm-eval failure-signs --ckpt DIR --base meta-llama/Llama-3.2-1B --captions captions.json --images val2017
    """
    from agevlm.vlm.choice import ModelChoice
    from analysis.failure_signs.running import SignsSettings, find_signs
    from analysis.failure_signs.signs import set_thresholds

    same = ("pairs", "captions", "regions", "questions", "images", "base", "texts", "use", "fail_on_sign")
    shared = ("out", "fresh", "limit", "seed", "draws", "json_out")
    settings = SignsSettings(
        models=ModelChoice.several(options),
        thresholds=set_thresholds(options["thresholds"]),
        **{name: options[name] for name in (*same, *shared)},
    )
    console, notes = consoles()
    sys.exit(find_signs(settings, console, notes))
