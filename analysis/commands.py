"""The analyses' commands. Heavy imports happen inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from agevlm.terminal import CHECKPOINT, CKPT, JSON, consoles, with_options


@click.command()
@CKPT
@click.option("--image", required=True, type=click.Path(path_type=Path), help="The image file.")
@click.option("--question", required=True, help="What to ask about it, as it is.")
@click.option(
    "--word",
    "words",
    multiple=True,
    metavar="WORD",
    help="Word or phrase of the question or the answer to follow, repeatable.  [the question's content words]",
)
@click.option("--layer", "layers", multiple=True, type=click.IntRange(0), help="Layer to show, repeatable.  [a few]")
@click.option("--smooth", is_flag=True, help="Blend between cells instead of showing each as a square.")
@click.option("--max-new-tokens", default=32, show_default=True, type=click.IntRange(1), help="Of the answer.")
@with_options(*CHECKPOINT)
@click.option("--out", type=click.Path(path_type=Path), help="PNG, PDF or SVG file.  [runs/look-MODEL-IMAGE.png]")
@JSON
def look(**options: Any) -> None:
    """Ask one question and show where the model looked.

    Writes one picture: the image, the answer, and for each chosen word, layer by layer, the attention of the word to
    the image (mean over heads; cross-attention for AGE-VLM, text-to-image self-attention for models that hold visual
    tokens in the sequence). The row "→" shows the position that predicts the answer; the last row is a control.

    \b
    agevlm-eval look --ckpt DIR --image stairs.jpg --question "How many handrails are there?"
    agevlm-eval look --ckpt llava-hf/llava-1.5-7b-hf --image cat.jpg --question "Is there a cat?" --word cat --layer 14
    """
    from agevlm.vlm.choice import ModelChoice
    from analysis.looking import LookSettings, look_at

    console, notes = consoles()
    look_at(
        LookSettings(
            model=ModelChoice.of(options),
            image=options["image"],
            question=options["question"],
            words=options["words"],
            layers=options["layers"],
            smooth=options["smooth"],
            max_new_tokens=options["max_new_tokens"],
            out=options["out"],
            json_out=options["json_out"],
        ),
        console,
        notes,
    )
