"""`--plan`: what a run would ask, how long, how much disk; no weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from agevlm.terminal import write_json
from benchmarks.estimate import PROMPT_TOKENS, estimate
from benchmarks.plan import Plan, remaining
from benchmarks.progress import duration
from benchmarks.run_folder import RunFolder
from benchmarks.settings import RunSettings


def show_plan(
    settings: RunSettings,
    benchmark: str,
    folder: RunFolder,
    plan: Plan,
    data: Mapping[str, Mapping[str, int]],
    console: Console,
    prompt_tokens: int = PROMPT_TOKENS,
) -> None:
    """Print a plan, or write it as one JSON row.

    Args:
        settings: the options.
        benchmark: its name.
        folder: the run folder, which may hold earlier answers.
        plan: what would be asked.
        data: data version -> questions of each split or task.
        console: for the table (stdout).
        prompt_tokens: of a question as it is put, roughly.
    """
    left = remaining(plan.groups, folder.answers())
    pairs = sum(len(g.asks) for g in left)
    images = sum(g.shown is not None for g in left)
    cost = estimate(
        images=images,
        pairs=pairs,
        questions=plan.questions,
        checkpoint=settings.model.folder(),
        manifest=folder.manifest(),
        device=settings.model.device,
        prompt_tokens=prompt_tokens,
    )
    row = {
        "benchmark": benchmark,
        "run_folder": str(folder.path),
        "data": {version: dict(counts) for version, counts in data.items()},
        "conditions": list(settings.conditions),
        "questions": plan.questions,
        "images": plan.images,
        "images_left": images,
        "pairs": plan.pairs,
        "pairs_left": pairs,
        "seconds": cost.seconds,
        "seconds_basis": cost.basis,
        "disk_bytes": cost.disk_bytes,
    }
    write_json([row], settings.json_out)
    if settings.json_out == "-":
        return
    sets = [f"{version}: {', '.join(f'{k} {n}' for k, n in counts.items())}" for version, counts in data.items()]
    time_needed = "unknown" if cost.seconds is None else duration(cost.seconds)
    lines = [
        ("run folder", str(folder.path)),
        *(("data", text) for text in sets),
        ("conditions", ", ".join(settings.conditions)),
        ("questions", str(plan.questions)),
        ("images as shown", f"{plan.images}, each encoded once ({images} left)"),
        ("distinct asks", f"{plan.pairs} (image, prompt) pairs ({pairs} left)"),
        ("estimated time", f"{time_needed} ({cost.basis})"),
        ("estimated disk", f"{cost.disk_bytes / 1e6:.1f} MB"),
    ]
    for name, text in lines:
        console.print(f"{name:17}{text}", soft_wrap=True, markup=False)
