"""`agevlm-eval similarity`. Heavy imports happen inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from agevlm.terminal import BATCH_SIZE, CHECKPOINT, CKPTS, JSON, consoles, with_options

KINDS = ("other", "hard", "word-order", "given")
POOLINGS = ("mean", "max", "last")


@click.command()
@CKPTS
@click.option("--pairs", metavar="scenes[:N][@PIXELS]|FILE", help="Rendered scenes, or a JSONL of pairs.")
@click.option("--annotations", type=click.Path(path_type=Path), help="COCO-style captions.json.")
@click.option("--images", type=click.Path(path_type=Path), help="Folder of the images.  [the JSONL's]")
@click.option("--instances", type=click.Path(path_type=Path), help="COCO-style instances.json: what is in the images.")
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Non-matching texts, repeatable.  [all there are]"
)
@click.option("--texts", type=click.IntRange(1), help="Most matching texts an image, drawn by the seed.  [all]")
@click.option("--prompt", default="{text}", show_default=True, help="The user's text; {text} is the caption.")
@click.option("--pooling", default="mean", show_default=True, type=click.Choice(POOLINGS), help="Of headlines.")
@click.option("--layer", metavar="N|embeddings|norm", help="Of headlines.  [the last self-attention layer]")
@with_options(*CHECKPOINT, BATCH_SIZE)
@click.option("--limit", type=click.IntRange(2), help="So many images, drawn by the seed.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [runs/similarity-MODELS-PAIRS]")
@click.option("--fresh", is_flag=True, help="Start over; an earlier run in the folder is moved aside.")
@click.option("--draws", default=2000, show_default=True, type=click.IntRange(100), help="Bootstrap draws.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of texts, samples and intervals.")
@JSON
def similarity(**options: Any) -> None:
    """Measure whether matching image-text pairs differ from others inside models.

    Cosines of text tokens and visual tokens layer by layer, of what cross-attention brings, and of queries and keys;
    for each image its own captions against another image's, captions with one object swapped, and shuffled words.

    \b
    agevlm-eval similarity --ckpt scenes/age-vlm --ckpt scenes/concat
    agevlm-eval similarity --ckpt A --ckpt B --annotations captions_val2017.json --images val2017 --limit 500
    """
    from agevlm.vlm.choice import ModelChoice
    from analysis.similarity.running import SimilaritySettings, measure_similarity

    models = ModelChoice.several(options)
    same = ("pairs", "annotations", "images", "instances", "kinds", "texts", "prompt", "pooling", "layer")
    shared = ("out", "fresh", "limit", "seed", "draws", "json_out")
    settings = SimilaritySettings(models=models, **{name: options[name] for name in (*same, *shared)})
    measure_similarity(settings, *consoles())
