"""The command that plans training stages. Heavy imports happen inside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agevlm.terminal import JSON, consoles, write_json
from train.stage_commands import CONFIG_HELP, SET

if TYPE_CHECKING:
    from agevlm.model import AgeVlmConfig
    from train.spec import StageSpec


@click.command()
@click.option(
    "--config", "configs", required=True, multiple=True, metavar="FILE|NAME", help=f"{CONFIG_HELP} Repeatable."
)
@SET
@click.option("--model-config", type=click.Path(path_type=Path), metavar="FILE", help="Of the model: its config.json.")
@click.option(
    "--backbone", type=click.Choice(["1b", "3b", "8b", "70b"]), help="The model: as in describe.  [that at init_from]"
)
@click.option("--world-size", default=1, show_default=True, type=click.IntRange(1), help="Processes (GPUs).")
@click.option(
    "--sharding",
    default="none",
    show_default=True,
    type=click.Choice(["none", "full"]),
    help="Each process holds the whole model (DDP), or its share of every tensor (FSDP2).",
)
@click.option(
    "--tflops",
    default=150.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="10^12 operations a second that each of them is assumed to reach.",
)
@click.option(
    "--measure",
    is_flag=True,
    help="Also run a few optimiser steps on this machine, on random weights and made-up samples, and project the stage "
    "from them.",
)
@click.option("--measured-steps", default=3, show_default=True, type=click.IntRange(1), help="After one to warm up.")
@JSON
def plan(
    configs: Sequence[str],
    overrides: Sequence[str],
    model_config: Path | None,
    backbone: str | None,
    measure: bool,
    measured_steps: int,
    json_out: str | None,
    **launch: Any,
) -> None:
    """Say what stages train and what they take: parameters, samples, memory, time.

    Nothing is loaded: neither weights nor data are needed, with --measure either.

    \b
    agevlm-train plan --config paper/age-vlm/3-guide --world-size 8
    agevlm-train plan --config paper/age-vlm/4-instruct --backbone 8b --world-size 8 --sharding full
    agevlm-train plan --config mine.yaml --set micro_batch_size=4 --measure --json -
    """
    from train.config import load_stage
    from train.measure import measure_stage
    from train.plan import plan_stage
    from train.plan_table import print_measured, print_plan

    if model_config is not None and backbone is not None:
        raise click.UsageError("--model-config and --backbone both name the model; give one of them")
    console, notes = consoles()
    specs = [load_stage(name, overrides) for name in configs]
    found = [_model_config(spec, model_config, backbone, notes) for spec in specs]
    plans = [plan_stage(spec, config, **launch) for spec, (config, _) in zip(specs, found, strict=True)]
    measured = [
        measure_stage(spec, config, made, measured_steps) if measure else None
        for spec, (config, _), made in zip(specs, found, plans, strict=True)
    ]
    rows = [
        made.as_json() | ({} if seen is None else {"measured": seen.as_json(made)})
        for made, seen in zip(plans, measured, strict=True)
    ]
    write_json(rows, json_out)
    if json_out == "-":
        return
    for made, (_, source), seen in zip(plans, found, measured, strict=True):
        print_plan(console, made, source)
        if seen is not None:
            print_measured(console, made, seen)


def _model_config(spec: StageSpec, file: Path | None, backbone: str | None, notes: Any) -> tuple[AgeVlmConfig, str]:
    """The configuration of the model that a stage starts from, and in words where it is from."""
    from agevlm.model.describe import backbone_config, read_age_vlm_config, variant

    if file is not None:
        return read_age_vlm_config(file), str(file)
    start = Path(spec.init_from).expanduser()
    if backbone is None and start.exists():
        return read_age_vlm_config(start), str(start)
    if backbone is None:
        notes.print(
            f"{spec.init_from} is not there yet: planned for AGE-VLM over LLaMA-3.2-1B (else give --model-config)"
        )
    size = backbone or "1b"
    return variant(backbone_config(size), fusion=spec.fusion), f"AGE-VLM over LLaMA {size.upper()}"
