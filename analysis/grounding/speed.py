"""`python -m analysis.grounding.speed`: what looking costs beside answering alone, and how large its records are."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agevlm.terminal import JSON
from benchmarks.speed.models import KINDS, SIZES, Random, load_model

if TYPE_CHECKING:
    from analysis.grounding.asking import AskedImage

AIM = 1.3
"""Times the seconds of answering alone."""
QUESTIONS = 9_000
AIM_BYTES = 1_000_000_000
"""Of the records of so many questions on disk."""


@click.command()
@click.option("--ckpt", metavar="FOLDER|ORG/NAME|scenes/NAME", help="A real checkpoint.  [a random one is built]")
@click.option("--model", "kind", type=click.Choice(KINDS), default="llava", show_default=True, help="What is built.")
@click.option("--size", type=click.Choice(SIZES), default="small", show_default=True, help="Of it.")
@click.option("--images", default=6, show_default=True, type=click.IntRange(2), help="Images of 18 questions each.")
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16", "float16"]))
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="CPU threads.")
@click.option("--heads", is_flag=True, help="Score every head, too.")
@JSON
def main(**options: Any) -> None:
    """Time encode and answer against all that grounding does, image by image in turns.

    The questions are POPE's in kind and number, each once, every one with a mask. The random models answer in one word
    and stop, as real ones do.
    """
    import torch

    torch.set_num_threads(options["threads"])
    wanted = options["ckpt"] or Random(options["kind"], options["size"])
    with torch.inference_mode():
        found = measure(load_model(wanted, options["dtype"], options["device"]), options["images"], options["heads"])
    found["model"] = options["ckpt"] or f"{options['kind']} {options['size']} (random)"
    text = json.dumps(found, indent=1)
    if options["json_out"] and options["json_out"] != "-":
        Path(options["json_out"]).write_text(text + "\n", encoding="utf-8")
    click.echo(text)
    sys.exit(found["bytes_of_9000"] > AIM_BYTES)


def measure(vlm: Any, images: int, heads: bool) -> dict[str, Any]:
    """Seconds of both sides by the clock and of this process, their ratios, and the records' bytes.

    On a machine that others use, too, the process's seconds are the steadier ones; on a GPU they say nothing.
    """
    from PIL import Image

    from agevlm.data.images import EncodedFile, decode
    from agevlm.vlm.contract import Ask
    from analysis.grounding.asking import How, look, room
    from analysis.grounding.records import SCHEMA
    from analysis.parts import Parts
    from benchmarks.prompts import DEFAULT
    from benchmarks.speed.questions import picture

    def opened(index: int) -> Image.Image:
        return decode(EncodedFile(f"{index}.jpg", picture(index)))

    how = How(DEFAULT, heads, 16, tuple(range(len(room(vlm, opened(0), heads).layers))))
    rows: dict[str, Any] = {}

    def answering(index: int) -> None:
        asked = _asked(index)
        prompts = dict.fromkeys(DEFAULT.of(region.asked()[0]) for region in asked.regions)
        vlm.answer(vlm.encode([vlm.prepare(opened(index))]), [Ask(p, 0, how.max_new_tokens) for p in prompts])

    def looking(index: int) -> None:
        rows[str(index)] = look(vlm, _asked(index), opened(index), how)

    sides: dict[str, Callable[[int], None]] = {"answering": answering, "looking": looking}
    clocks = {"wall": time.perf_counter, "cpu": time.process_time}
    seconds = {clock: dict.fromkeys(sides, 0.0) for clock in clocks}
    for index in range(images + 1):
        for name in sides if index % 2 else reversed(sides):
            begun = {clock: now() for clock, now in clocks.items()}
            sides[name](index)
            if index:  # the first one warms up
                for clock, now in clocks.items():
                    seconds[clock][name] += now() - begun[clock]
    with tempfile.TemporaryDirectory() as folder:
        parts = Parts(Path(folder), "looks", SCHEMA)
        parts.append(rows)
        size = parts.bytes() / sum(len(held) for held in rows.values())
    return {
        "images": images,
        "questions": sum(len(rows[str(index)]) for index in range(1, images + 1)),
        "seconds": seconds,
        "ratio": {clock: took["looking"] / took["answering"] for clock, took in seconds.items()},
        "aim": AIM,
        "bytes_a_question": size,
        "bytes_of_9000": QUESTIONS * size,
    }


def _asked(index: int) -> AskedImage:
    """The image's distinct questions, each with a mask somewhere."""
    import re

    import numpy as np

    from agevlm.data.masks import encode_mask
    from analysis.grounding.asking import AskedImage
    from analysis.regions import Region
    from benchmarks.speed.questions import question_rows

    regions = []
    for place, question in enumerate(dict.fromkeys(question_rows(index))):
        mask = np.zeros((480, 640), np.bool_)
        mask[20 * place : 20 * place + 100, 30 * place : 30 * place + 150] = True
        match = re.fullmatch(r"Is there an? (.+) in the image\?", question)
        phrase = match[1] if match else question
        regions.append(Region(str(index), phrase, encode_mask(mask), (480, 640), question=question, id=question))
    return AskedImage(str(index), tuple(regions), "")


if __name__ == "__main__":
    main()
