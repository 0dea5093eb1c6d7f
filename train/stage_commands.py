"""The commands that train stages: run, resume, export. Heavy imports happen inside them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agevlm.errors import TrainError
from agevlm.terminal import stoppable

if TYPE_CHECKING:
    from train.spec import StageSpec

CONFIG_HELP = "A stage's YAML file, or the name of a built-in one, as paper/age-vlm/3-guide."
SET = click.option(
    "--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Change a setting, as guidance.weight=0.5."
)
DTYPE = click.option(
    "--dtype",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "float32", "bfloat16"]),
    help="What weights are stored in; auto: trained ones in float32, frozen ones as they were.",
)


def _run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--seed", type=click.IntRange(0), help="As --set seed=N."),
        click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Run folder, as --set out=DIR."),
        click.option(
            "--init-from", type=click.Path(path_type=Path), metavar="DIR", help="Checkpoint folder to start from."
        ),
        SET,
        click.option(
            "--patience",
            default=10.0,
            show_default=True,
            metavar="MINUTES",
            type=click.FloatRange(0, min_open=True),
            help="Of several processes, end one that hears nothing from another for so long.",
        ),
        click.option(
            "--sharding",
            type=click.Choice(["none", "full"]),
            help="Of several processes, each holds the whole model (DDP), or its share of every tensor (FSDP2).  [as "
            "the accelerate configuration says, else none]",
        ),
    ):
        command = option(command)
    return command


def _overrides(overrides: Sequence[str], **named: Any) -> list[str]:
    """Options that have a name of their own go last, so they win. JSON is YAML."""
    return [
        *overrides,
        *(f"{k}={json.dumps(str(v) if isinstance(v, Path) else v)}" for k, v in named.items() if v is not None),
    ]


@click.command()
@click.option("--config", required=True, metavar="FILE|NAME", help=CONFIG_HELP)
@_run_options
def run(
    config: str,
    overrides: Sequence[str],
    init_from: Path | None,
    out: Path | None,
    seed: int | None,
    sharding: str | None,
    patience: float,
) -> None:
    """Train one stage.

    On several GPUs or hosts: torchrun --no-python --nproc-per-node 8 agevlm-train run ..., or accelerate launch
    --no_python; docs/distributed.md.

    \b
    agevlm-train run --config paper/age-vlm/1-align --set vars.data=/data
    agevlm-train run --config paper/age-vlm/2-vision --out runs/try --set steps=100
    """
    from train.config import load_stage

    spec = load_stage(config, _overrides(overrides, init_from=init_from, out=out, seed=seed))
    _train(spec, resume=False, sharding=sharding, patience=patience)


@click.command()
@click.argument("folder", required=False, metavar="[RUN_FOLDER]", type=click.Path(path_type=Path))
@click.option("--config", metavar="FILE|NAME", help="The stage, if not as its run folder has it.")
@_run_options
def resume(
    folder: Path | None,
    config: str | None,
    overrides: Sequence[str],
    init_from: Path | None,
    out: Path | None,
    seed: int | None,
    sharding: str | None,
    patience: float,
) -> None:
    """Go on with a stage that was interrupted, from its last checkpoint.

    The run folder has the stage with all its settings (stage.yaml). What the trained weights depend on cannot be
    changed, but for the number of steps. Any number of processes goes on, sharded or not, whatever it was before.

    \b
    agevlm-train resume runs/paper/age-vlm/seed-0/3-guide
    """
    from train.config import STAGE_FILE, load_stage

    if folder is None and config is None:
        raise click.UsageError("give the run folder, or --config with the stage")
    if folder is not None and out is not None:
        raise click.UsageError("the run folder and --out both name it; give one of them")
    source: str | Path | None = config
    if source is None:
        assert folder is not None
        source = folder / STAGE_FILE
        if not source.is_file():
            raise TrainError(
                f"{folder}: no {STAGE_FILE} in it, so no run to go on with; start it with agevlm-train run"
            )
    named = _overrides(overrides, init_from=init_from, out=folder or out, seed=seed)
    _train(load_stage(source, named), resume=True, sharding=sharding, patience=patience)


@click.command()
@click.argument("folder", metavar="RUN_FOLDER", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Checkpoint folder to write."
)
@click.option("--step", type=click.IntRange(0), help="Of which training checkpoint.  [the newest]")
@DTYPE
def export(folder: Path, out: Path, step: int | None, dtype: str) -> None:
    """Write a model folder from a training checkpoint, finished or not.

    A finished stage has its model in RUN_FOLDER/model already.

    \b
    agevlm-train export runs/paper/age-vlm/seed-0/3-guide --step 500 --out at-500 --dtype bfloat16
    """
    from train.language import carry
    from train.weights import export_checkpoint

    written = export_checkpoint(folder, step, out, None if dtype == "auto" else dtype)
    carry(folder, written)
    click.echo(f"wrote {written}")


def _train(spec: StageSpec, resume: bool, sharding: str | None, patience: float) -> None:
    """Open the data, train, check the language; the first process speaks."""
    from rich.console import Console

    from train.data.sources import open_source
    from train.language import after_stage
    from train.loop import run_stage
    from train.mixture import told
    from train.overlays import Overlays
    from train.tracking import StageTracker

    first = os.environ.get("RANK", "0") == "0"
    out = Path(spec.out).expanduser()
    sources = [open_source(source) for source in spec.sources]
    notes = Console(stderr=True, highlight=False, markup=False, soft_wrap=True, quiet=not first)
    painter = Overlays(spec, sources, out) if first and spec.overlay_every else None
    tracker = StageTracker(spec, out, notes, painter)
    with stoppable(), _told_on_interrupt(out, notes):
        result = run_stage(
            spec,
            sources,
            resume=resume,
            trackers=[tracker],
            progress=tracker.advance,
            sharding=sharding,
            patience=timedelta(minutes=patience),
        )
        _leave()
        if not first:
            return
        report = after_stage(spec, result.model, out)
    skipped = f", {result.skipped} of them skipped" if result.skipped else ""
    click.echo(f"stage {spec.stage}, {spec.name}, of {spec.arm}: {result.steps} steps{skipped}")
    for line in told(result.sources):
        click.echo(line)
    if report is not None:
        click.echo(report.line())
    click.echo(f"wrote {result.model}")


def _leave() -> None:
    """Leave the group of processes in good order; what follows is the first one's."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def _told_on_interrupt(out: Path, notes: Any) -> Iterator[None]:
    """On Ctrl-C say what is kept and how to go on."""
    from train.state import checkpoints

    try:
        yield
    except KeyboardInterrupt:
        kept = checkpoints(out)
        safe = f"step {max(kept)} is safe in {out}" if kept else "before the first training checkpoint"
        notes.print(f"interrupted: {safe}; go on with: agevlm-train resume {out}")
        raise
