"""A plan as tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from train.plan import Plan
from train.tables import duration, millions, size

if TYPE_CHECKING:
    from train.measure import Measured


def print_plan(console: Console, plan: Plan, source: str) -> None:
    """Print what is trained, and then what it takes.

    Args:
        console: to print to.
        plan: of a stage.
        source: where the model's sizes are from.
    """
    console.print(f"{plan.arm} · stage {plan.stage}, {plan.name} · {source}", markup=False)
    console.print()
    console.print(_groups(plan))
    console.print()
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _facts(plan):
        table.add_row(name, value)
    console.print(table)
    console.print()


def _groups(plan: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("trained")
    for name in ("tensors", "millions", "learning rate", "decay"):
        table.add_column(name, justify="right")
    table.add_column("modules")
    for g in plan.groups:
        count = millions(g.parameters) if g.parameters >= 100_000 else f"{g.parameters / 1e6:.6f}"
        modules = "\n".join(g.modules)
        table.add_row(g.name, str(g.tensors), count, f"{g.lr:g}", f"{g.weight_decay:g}", modules)
    table.add_section()
    total = sum(g.tensors for g in plan.groups)
    share = plan.trained / (plan.trained + plan.frozen)
    table.add_row("all", str(total), millions(plan.trained), "", "", f"{share:.1%} of the model")
    table.add_row("frozen", "", millions(plan.frozen), "", "", "")
    return table


def _facts(plan: Plan) -> list[tuple[str, str]]:
    memory = plan.memory
    paper = "" if plan.planned_samples is None else f" (planned: {plan.planned_samples:,})"
    parts = ", ".join(
        f"{name} {size(value)}"
        for name, value in (
            ("weights", memory.weights),
            ("gradients", memory.gradients),
            ("optimiser", memory.optimizer),
            ("copies", memory.copies),
            ("activations", memory.activations),
        )
    )
    passes = f"{plan.world_size} process{'es' * (plan.world_size > 1)} x {plan.accumulation} forward passes"
    speed = f"at an assumed {plan.tflops:g} TFLOP/s each"
    return [
        ("steps", f"{plan.steps:,} of {plan.batch_size} samples: {passes}"),
        ("samples", f"{plan.samples:,}{paper}"),
        ("guided", _guided(plan)),
        (
            "text tokens",
            f"{plan.tokens:,} ({plan.text_tokens} a sample); an image is {plan.visual_tokens} visual tokens",
        ),
        ("memory, estimated", f"{size(memory.total)} a device{_kind(plan)}: {parts}"),
        ("operations, estimated", f"{plan.operations / 1e12:,.1f} x 10^12 a step"),
        ("time, estimated", f"{duration(plan.seconds)} {speed}"),
    ]


def print_measured(console: Console, plan: Plan, measured: Measured) -> None:
    """Print what was measured beside what was estimated.

    Args:
        console: to print to.
        plan: of a stage.
        measured: its steps.
    """
    found = measured.as_json(plan)
    step = plan.seconds / plan.steps
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in (f"measured: {measured.device}", "estimated", "measured", "estimated / measured"):
        table.add_column(name, justify="right" if table.columns else "left")
    rows: tuple[tuple[str, float, float, Callable[[Any], str]], ...] = (
        ("seconds a step", step, found["seconds_per_step"], _number),
        ("samples a second", plan.batch_size / step, found["samples_per_second"], _number),
        ("text tokens a second", plan.tokens / plan.seconds, found["text_tokens_per_second"], _number),
        ("TFLOP/s a process", plan.tflops, found["tflops"], _number),
        ("memory, the model whole", plan.whole.total, measured.peak, size),
        ("time", plan.seconds, found["stage_seconds"], duration),
    )
    for name, estimated, seen, words in rows:
        table.add_row(name, words(estimated), words(seen), _number(estimated / seen))
    console.print(table)
    console.print(
        f"{measured.steps} steps; a pass of {measured.samples} samples takes {measured.pass_seconds:.3g} s, an update "
        f"{measured.update_seconds:.3g} s. Of several processes, what they tell each other is not in it.",
        markup=False,
    )
    console.print()


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _kind(plan: Plan) -> str:
    if plan.world_size == 1:
        return ""
    return " (FSDP2)" if plan.sharding == "full" else " (DDP)"


def _guided(plan: Plan) -> str:
    if plan.guidance_weight is None:
        return "none: regions are not read"
    how = "measured, not trained on (weight 0)" if plan.guidance_weight == 0 else f"weight {plan.guidance_weight:g}"
    if plan.guided is None:
        return f"as many as the data have regions for; {how}"
    return f"{plan.guided:,} ({plan.guided / plan.samples:.1%}); {how}"
