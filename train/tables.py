"""What the commands say: a model's costs as tables, an assembled checkpoint as a few lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from agevlm.model.describe import PAPER_TEXT_STACK, Description, Parameters

if TYPE_CHECKING:
    from agevlm.model.assemble import Assembled

LLAMA_1B = 1_235_814_400
"""Parameters of LLaMA-3.2-1B, the paper's language model."""


def duration(seconds: float) -> str:
    """In the largest unit of which there are one and a half."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.3g} seconds"


def millions(count: int) -> str:
    """A number of parameters in millions."""
    return f"{count / 1e6:,.1f}"


def giga(operations: int) -> str:
    """A number of operations in 10^9."""
    return f"{operations / 1e9:,.1f}"


def size(count: int) -> str:
    """Bytes in the unit that reads best (decimal)."""
    for unit, power in (("GB", 9), ("MB", 6)):
        if count >= 10**power:
            return f"{count / 10**power:,.2f} {unit}"
    return f"{count / 1e3:,.1f} kB"


def print_description(
    console: Console, title: str, columns: Sequence[Description], questions: int, answer_tokens: int
) -> None:
    """Print parameters, operations and cache, a column for each way of fusing."""
    first = columns[0]
    console.print(f"{title} · {first.llama_layers} LLaMA layers · {first.visual_tokens} visual tokens", markup=False)
    for column in columns:
        if column.cross_attention_layers:
            where = ", ".join(map(str, column.cross_attention_layers))
            total = column.llama_layers + len(column.cross_attention_layers)
            console.print(f"cross-attention layers: {where} of {total} (from 0)", markup=False)
    for table in (_parameters(columns), _operations(columns, questions, answer_tokens), _cache(columns)):
        console.print()
        console.print(table)
    console.print()
    for column in columns:
        if note := text_stack_note(column.parameters):
            console.print(note, markup=False)


def text_stack_note(parameters: Parameters) -> str | None:
    """The size of the text stack beside what the paper says of it; None where the LLaMA is not the paper's."""
    if parameters.llama != LLAMA_1B or not parameters.cross_layers:
        return None
    stack, branch = f"{parameters.text_stack / 1e9:.2f} B", "MLP branch in its cross-attention layers"
    sizes = f"{stack} without an {branch}"
    if parameters.cross_mlp:
        # The branch's norm and gate, which go with it, are a few thousand parameters.
        without = f"{(parameters.text_stack - parameters.cross_mlp) / 1e9:.2f} B"
        sizes = f"{stack} with an {branch}, {without} without (--no-cross-mlp)"
    return f"text stack: {sizes}; the paper says {PAPER_TEXT_STACK}"


def _table(title: str, columns: Sequence[Description]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(title)
    for column in columns:
        table.add_column(column.fusion, justify="right")
    return table


def _parameters(columns: Sequence[Description]) -> Table:
    table = _table("parameters, millions", columns)
    rows: list[tuple[str, Callable[[Parameters], int]]] = [
        ("vision tower", lambda p: p.vision_tower),
        ("adapter", lambda p: p.adapter),
        ("LLaMA embeddings", lambda p: p.embeddings),
        ("LLaMA layers", lambda p: p.llama_layers),
        ("language head", lambda p: p.language_head),
        ("cross-attention: attention", lambda p: p.cross_attention),
        ("cross-attention: MLP", lambda p: p.cross_mlp),
        ("cross-attention: gates, norms", lambda p: p.cross_gates_and_norms),
    ]
    sums: list[tuple[str, Callable[[Parameters], int]]] = [
        ("LLaMA", lambda p: p.llama),
        ("text stack (LLaMA, cross-attention)", lambda p: p.text_stack),
        ("trained in stage 1 (adapter, cross-attention)", lambda p: p.new),
        ("all", lambda p: p.total),
    ]
    for name, value in rows:
        counts = [value(c.parameters) for c in columns]
        cells = [f"{n / 1e6:.3f}" if 0 < n < 10**6 else millions(n) if n else "–" for n in counts]
        tied = name == "language head" and not any(counts)
        table.add_row(f"{name} (tied)" if tied else name, *cells)
    table.add_section()
    for name, value in sums:
        table.add_row(name, *(millions(value(c.parameters)) for c in columns))
    return table


def _operations(columns: Sequence[Description], questions: int, answer_tokens: int) -> Table:
    table = _table("operations, 10^9 (an addition and a multiplication are two)", columns)
    costs = [c.costs for c in columns]
    table.add_row("image: vision tower", *(giga(c.vision_tower) for c in costs))
    table.add_row("image: adapter", *(giga(c.adapter) for c in costs))
    table.add_row("image: into the cache", *(giga(c.image_in_cache) for c in costs))
    table.add_row(f"question: prefill of {columns[0].question_tokens} tokens", *(giga(c.prefill) for c in costs))
    table.add_row("question: one more answer token", *(giga(c.decode) for c in costs))
    table.add_section()
    told = f"{answer_tokens} answer tokens"
    table.add_row(f"image and 1 question, {told}", *(giga(c.answered(1, answer_tokens)) for c in costs))
    table.add_row(
        f"image and {questions} questions, image once", *(giga(c.answered(questions, answer_tokens)) for c in costs)
    )
    table.add_row(
        f"image and {questions} questions, image each time",
        *(giga(questions * c.answered(1, answer_tokens)) for c in costs),
    )
    return table


def _cache(columns: Sequence[Description]) -> Table:
    table = _table("keys and values in bfloat16", columns)
    table.add_row("one image", *(size(c.costs.image_cache_bytes) for c in columns))
    table.add_row("one text token", *(size(c.costs.token_cache_bytes) for c in columns))
    return table


def assembled_lines(made: Assembled) -> list[str]:
    """What was written, and what to do next."""
    config, parameters = made.config, made.parameters
    eyes, text = config.vision_config, config.text_config
    rows, columns = eyes.grid
    layers = text.cross_attention_layers
    how = f"cross-attention: layers {', '.join(map(str, layers))} of {text.num_hidden_layers} (from 0), gates shut"
    if config.fusion == "concat":
        how = f"visual tokens in the text, in the place of {made.image_token} (id {config.image_token_id})"
    parts = {
        "vision tower": parameters.vision_tower,
        "adapter": parameters.adapter,
        "LLaMA": parameters.llama,
        "cross-attention": parameters.cross_layers,
    }
    counted = ", ".join(f"{name} {millions(count)}" for name, count in parts.items() if count)
    return [
        f"wrote {made.out} ({size(made.bytes_written)} of weights; loads as {_short(config.dtype)})",
        f"parameters, millions: {counted}; in all {millions(parameters.total)}",
        f"{eyes.architecture} at {eyes.image_size} pixels: {rows} x {columns} = {eyes.num_visual_tokens} visual tokens",
        f"image mean {_three(made.image_mean)}, std {_three(made.image_std)}",
        how,
        *([note] if (note := text_stack_note(parameters)) else []),
        "loaded it again: every weight is in its place" if made.verified else "not loaded again (--no-verify)",
        f"next: agevlm-train describe --ckpt {made.out}",
    ]


def _three(values: tuple[float, float, float]) -> str:
    return " ".join(f"{v:.4g}" for v in values)


def _short(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
