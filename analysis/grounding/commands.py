"""The command `agevlm-eval grounding`. Heavy imports happen inside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agevlm.terminal import BATCH_SIZE, CHECKPOINT, CKPTS, JSON, consoles, with_options
from benchmarks.options import DRAWS, FRESH, LIMIT, PARTIAL

if TYPE_CHECKING:
    from agevlm.data.noise import Noise


def _noise(text: str) -> Noise:
    """KIND:LEVEL as noise. Raises DataError where it is none."""
    from agevlm.data.noise import KINDS, Noise
    from agevlm.errors import DataError

    kind, _, level = text.partition(":")
    try:
        return Noise(kind, float(level))
    except ValueError:
        raise DataError(f"--mask-noise {text!r}: give KIND:LEVEL, as in erode:0.3; kinds: {', '.join(KINDS)}") from None


@click.command()
@CKPTS
@click.option(
    "--regions",
    "source",
    metavar="FILE|DIR|scenes[:N][@PIXELS]",
    help="COCO-style instances.json or panoptic.json, RefCOCO-style phrases (JSON or JSONL), a folder of agevlm-train "
    "masks, or rendered scenes.  [scenes]",
)
@click.option("--images", type=click.Path(path_type=Path), help="Folder of the images (not needed with scenes).")
@click.option("--instances", type=click.Path(path_type=Path), help="instances.json that phrases' ann_id refer to.")
@click.option(
    "--segments", type=click.Path(path_type=Path), help="Folder of a panoptic file's PNG files.  [beside it, its name]"
)
@click.option("--split", metavar="NAME", help="Only phrases whose split is this, as RefCOCO's testA.")
@click.option("--prompt", default="default", show_default=True, metavar="default|official|FILE", help="As for pope.")
@click.option("--heads", is_flag=True, help="Score every head, too.")
@click.option("--remove-sinks", is_flag=True, help="Score maps without cells that are looked at in any image.")
@click.option(
    "--mask-noise",
    "noises",
    multiple=True,
    metavar="KIND:LEVEL",
    help="Also score against distorted masks, repeatable: erode, dilate, shift, drop, swap, as in erode:0.3.",
)
@click.option("--max-new-tokens", default=16, show_default=True, type=click.IntRange(1), help="Per answer.")
@click.option(
    "--max-disk",
    default=1000.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    metavar="MB",
    help="Room for a model's maps before compression; fewer layers are kept where it is short.",
)
@LIMIT
@with_options(*CHECKPOINT, BATCH_SIZE)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [runs/grounding-MODELS-REGIONS]")
@FRESH
@PARTIAL
@DRAWS
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="Of limits, halves, nulls and intervals."
)
@JSON
def grounding(**options: Any) -> None:
    """Measure whether a model's attention lies on what is asked about.

    For each phrase with a mask: ask about it, take the attention of the phrase's tokens, of the last token and of the
    answer's to the image, layer by layer, and score it against the mask, beside what maps and masks score that know
    nothing of the image or of the phrase.

    \b
    agevlm-eval grounding --ckpt scenes/age-vlm --ckpt scenes/concat
    agevlm-eval grounding --ckpt llava-hf/llava-1.5-7b-hf --regions instances_val2017.json --images val2017 --limit 500
    """
    from agevlm.vlm.choice import ModelChoice
    from analysis.grounding.run import GroundingSettings, ground
    from analysis.launch import AnalysisSettings

    models = ModelChoice.several(options)
    common = AnalysisSettings(
        models=models,
        **{name: options[name] for name in ("out", "fresh", "limit", "seed", "draws", "json_out")},
    )
    same = ("images", "instances", "segments", "split", "prompt", "heads", "max_new_tokens", "max_disk", "remove_sinks")
    settings = GroundingSettings(
        common=common,
        source=options["source"] or "scenes",
        noises=tuple(_noise(text) for text in options["noises"]),
        allow_partial=options["allow_partial"],
        **{name: options[name] for name in same},
    )
    console, notes = consoles()
    raise SystemExit(ground(settings, console, notes))
