"""`python -m benchmarks.speed`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agevlm.terminal import JSON
from benchmarks.speed.equality import compare
from benchmarks.speed.machine import describe_machine
from benchmarks.speed.measuring import measure
from benchmarks.speed.memory import ROWS, measure_memory
from benchmarks.speed.models import KINDS, SIZES, Random, load_model, opened
from benchmarks.speed.output import print_beside, print_memory, print_overhead, print_report
from benchmarks.speed.overhead import measure_overhead
from benchmarks.speed.peer import LEAST_IMAGES, PEERS, PeerFailed, prepare_environment
from benchmarks.speed.scoring import measure_scoring
from benchmarks.speed.sides import PLAIN

if TYPE_CHECKING:
    from agevlm.vlm.hf.session import HfVlm

Report = dict[str, Any]


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
@click.option("--peer", type=click.Choice(PEERS), help="Measure beside another harness, on one model object.")
@click.option("--overhead", is_flag=True, help="Measure what a POPE run spends beside the model.")
@click.option("--memory", is_flag=True, help="Measure a POPE run's peak memory at 9,000 and 90,000 questions.")
@JSON
def main(**options: Any) -> None:
    """Measure questions per second with and without reuse, check that answers are equal, and time scoring.

    With --peer, measure the suite beside another harness instead; with --overhead, what a run spends beside the model;
    with --memory, what it holds.

    Exits 1 where an answer is empty or, in float32, where any side's tokens differ from those of plain generate (or of
    the peer), and where the peer fails or its model is given other token ids.
    """
    if sum(map(bool, (options["peer"], options["overhead"], options["memory"]))) > 1:
        raise click.UsageError("--peer, --overhead and --memory are measured one at a time")
    if options["peer"]:
        prepare_environment()
        if options["images"] < LEAST_IMAGES:
            raise click.BadParameter(f"a comparison takes at least {LEAST_IMAGES}", param_hint="--images")
    notes = _console(stderr=True)
    if options["memory"]:
        with notes.status("a run without a model") as status:
            report = {"machine": describe_machine(None, 1), **measure_memory(ROWS, status.update)}
        _write(options["json_out"], report, print_memory, [])
        return
    import torch

    from agevlm.errors import AgeVlmError

    torch.set_num_threads(options["threads"])
    wanted = options["ckpt"] or Random(*(options[name] for name in ("kind", "size", "layers", "hidden")))
    run, show = _sides, print_report
    if options["peer"]:
        run, show = _beside, print_beside
    elif options["overhead"]:
        run, show = _overhead, print_overhead
    try:
        with notes.status("loading the model") as status:
            report, problems = run(wanted, options, status.update)
    except (AgeVlmError, PeerFailed) as error:
        raise click.ClickException(str(error)) from error
    _write(options["json_out"], report, show, problems)


def _write(json_out: str | None, report: Report, show: Callable[[Any, Report], None], problems: list[str]) -> None:
    """Print the figures (with `-`, JSON alone goes to stdout) and end with what is wrong with them."""
    notes = _console(stderr=True)
    show(notes if json_out == "-" else _console(), report)
    text = json.dumps(report, indent=2) + "\n"
    if json_out == "-":
        click.echo(text, nl=False)
    elif json_out is not None:
        Path(json_out).write_text(text, encoding="utf-8")
    for problem in problems:
        notes.print(f"FAILED: {problem}", markup=False)
    if problems:
        sys.exit(1)


def _console(*, stderr: bool = False) -> Any:
    from rich.console import Console

    return Console(stderr=stderr, width=None if sys.stdout.isatty() else 160, highlight=False)


def _sides(
    wanted: str | Random, options: Mapping[str, Any], advance: Callable[[str], None]
) -> tuple[Report, list[str]]:
    import torch

    vlm = load_model(wanted, options["dtype"], options["device"])
    limit, repeats = options["max_new_tokens"], options["scoring_repeats"]
    with torch.inference_mode():
        results = measure(vlm, options["images"], limit, advance)
    comparison = compare(vlm, results, limit)
    report = {
        **_subject(vlm, wanted, options),
        "sides": {name: measured.summary(results[PLAIN]) for name, measured in results.items()},
        "answers": asdict(comparison),
        "scoring": measure_scoring(repeats, options["threads"], advance) if repeats else {},
    }
    return report, comparison.problems(exact=options["dtype"] == "float32")


def _beside(
    wanted: str | Random, options: Mapping[str, Any], advance: Callable[[str], None]
) -> tuple[Report, list[str]]:
    from benchmarks.speed.beside import measure_beside

    with opened(wanted, options["dtype"], options["device"]) as (vlm, folder):
        found = measure_beside(vlm, folder, options["images"], options["max_new_tokens"], advance)
    return {**_subject(vlm, wanted, options), **found.to_json()}, found.problems(options["dtype"] == "float32")


def _overhead(
    wanted: str | Random, options: Mapping[str, Any], advance: Callable[[str], None]
) -> tuple[Report, list[str]]:
    vlm = load_model(wanted, options["dtype"], options["device"])
    found = measure_overhead(vlm, options["images"], options["max_new_tokens"], advance)
    return {**_subject(vlm, wanted, options), **found}, []


def _subject(vlm: HfVlm, wanted: str | Random, options: Mapping[str, Any]) -> Report:
    return {
        "machine": describe_machine(vlm, options["threads"]),
        "model": str(wanted),
        "shape": asdict(wanted.shape()) if isinstance(wanted, Random) else None,
        "images": options["images"],
    }


if __name__ == "__main__":
    main()
