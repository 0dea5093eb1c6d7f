"""`python -m benchmarks.speed`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from benchmarks.speed.equality import compare
from benchmarks.speed.machine import describe_machine
from benchmarks.speed.measuring import measure
from benchmarks.speed.models import KINDS, SIZES, Random, load_model
from benchmarks.speed.output import print_report
from benchmarks.speed.scoring import measure_scoring
from benchmarks.speed.sides import PLAIN


@click.command()
@click.option("--ckpt", metavar="FOLDER|ORG/NAME", help="A real checkpoint.  [a random one is built]")
@click.option("--model", "kind", type=click.Choice(KINDS), default="llava", show_default=True, help="What is built.")
@click.option(
    "--size", type=click.Choice(SIZES), default="small", show_default=True, help="Of it; paper is AGE-VLM's own."
)
@click.option("--layers", type=click.IntRange(2), help="LLaMA layers of the built model; a LLaVA's CLIP has as many.")
@click.option("--hidden", type=click.IntRange(256), help="Text width of the built model, a multiple of 256.")
@click.option("--images", default=6, show_default=True, type=click.IntRange(1), help="Images of 18 questions each.")
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16", "float16"]))
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="CPU threads of every part.")
@click.option("--max-new-tokens", default=128, show_default=True, type=click.IntRange(1), help="Per answer.")
@click.option("--scoring-repeats", default=3, show_default=True, type=click.IntRange(0), help="0: do not time scoring.")
@click.option("--json", "json_out", type=click.Path(path_type=Path), metavar="FILE", help="Write all figures there.")
def main(**options: Any) -> None:
    """Measure questions per second with and without reuse, check that answers are equal, and time scoring.

    Exits 1 where an answer is empty or, in float32, where any side's tokens differ from those of plain generate.
    """
    import torch
    from rich.console import Console

    from agevlm.errors import AgeVlmError

    torch.set_num_threads(options["threads"])
    out = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    notes = Console(stderr=True, highlight=False)
    limit = options["max_new_tokens"]
    wanted = options["ckpt"] or Random(*(options[name] for name in ("kind", "size", "layers", "hidden")))
    with notes.status("loading the model") as status:
        try:
            vlm = load_model(wanted, options["dtype"], options["device"])
        except AgeVlmError as error:
            raise click.ClickException(str(error)) from error
        with torch.inference_mode():
            results = measure(vlm, options["images"], limit, status.update)
        comparison = compare(vlm, results, limit)
        repeats = options["scoring_repeats"]
        scoring = measure_scoring(repeats, options["threads"], status.update) if repeats else {}
    report = {
        "machine": describe_machine(vlm, options["threads"]),
        "model": str(wanted),
        "shape": asdict(wanted.shape()) if isinstance(wanted, Random) else None,
        "images": options["images"],
        "sides": {name: measured.summary(results[PLAIN]) for name, measured in results.items()},
        "answers": asdict(comparison),
        "scoring": scoring,
    }
    print_report(out, report)
    if options["json_out"] is not None:
        options["json_out"].write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    problems = comparison.problems(exact=options["dtype"] == "float32")
    for problem in problems:
        notes.print(f"FAILED: {problem}", markup=False)
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    main()
