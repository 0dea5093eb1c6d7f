"""The options that benchmarks' commands share, and what they make of them. Imports are light."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from agevlm.terminal import JSON, MODEL, Command, with_options
from benchmarks.controls import CONTROLS

SCENES = "scenes"
PARTIAL = click.option("--allow-partial", is_flag=True, help="Exit 0 although answers are missing.")
DRAWS = click.option("--draws", default=2000, show_default=True, type=click.IntRange(100), help="Bootstrap draws.")
RESCORE_DRAWS = click.option("--draws", type=click.IntRange(100), help="Bootstrap draws.  [2000, or the run folder's]")
RESCORE_SEED = click.option("--seed", type=click.IntRange(0), help="Seed of the intervals.  [0, or the run folder's]")
SEED = click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Seed of order, limits, controls and intervals.",
)
IMAGES = click.option(
    "--images", type=click.Path(path_type=Path), help="Folder of the images (not needed with parquet or hub)."
)
CONTROL = click.option(
    "--control",
    "controls",
    multiple=True,
    type=click.Choice([*CONTROLS, "all"]),
    help="Ask everything again with the image taken away, repeatable.",
)
LIMIT = click.option(
    "--limit", type=click.IntRange(1), help="So many seeded images a data set, with all their questions."
)
MAX_NEW_TOKENS = click.option(
    "--max-new-tokens", default=128, show_default=True, type=click.IntRange(1), help="Per answer."
)
FRESH = click.option("--fresh", is_flag=True, help="Start over; an earlier run in the folder is moved aside.")
PLAN = click.option(
    "--plan", "plan_only", is_flag=True, help="Say what would be asked, time and disk; load no weights."
)
VERIFY = click.option(
    "--verify", default=0, type=click.IntRange(0), metavar="N", help="Check N images' answers against plain generate."
)


def run_options(default_folder: str) -> Callable[[Command], Command]:
    """How to run a model: controls, sizes, device, run folder (by default this), plan, checks, seeds, output."""
    out = click.option("--out", type=click.Path(path_type=Path), help=f"Run folder.  [{default_folder}]")
    return with_options(CONTROL, LIMIT, MAX_NEW_TOKENS, *MODEL, out, FRESH, PLAN, VERIFY, DRAWS, SEED, JSON, PARTIAL)


def run_settings(options: Mapping[str, Any], hub: str) -> dict[str, Any]:
    """The fields of `RunSettings` but its prompt from a command's options; `hub` is the default questions' hub id."""
    from agevlm.vlm.choice import ModelChoice

    controls = options["controls"]
    same = ("images", "max_new_tokens", "limit", "seed", "draws", "out", "fresh", "verify", "json_out", "allow_partial")
    return {
        "model": ModelChoice.of(options),
        "questions": options["questions"] or (SCENES if of_scenes(options) else hub,),
        "controls": CONTROLS if "all" in controls else controls,
        **{name: options[name] for name in same},
    }


def of_scenes(options: Mapping[str, Any]) -> bool:
    """Whether the model is one of the scenes world that come with the package."""
    return str(options["ckpt"]).startswith("scenes/")
