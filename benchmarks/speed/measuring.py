"""Time and work of every side on the same images."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.speed.questions import picture, question_rows
from benchmarks.speed.sides import ONE_BY_ONE, SIDES, Said

if TYPE_CHECKING:
    from agevlm.vlm.hf.session import HfVlm


@dataclass
class Work:
    """Vision encoder calls and language model positions, as the modules themselves see them."""

    vision_calls: int = 0
    language_positions: int = 0


@contextmanager
def counted(vlm: HfVlm) -> Iterator[Work]:
    """Count what runs through the two towers, by whatever route it gets there."""
    work = Work()

    def vision(*_: Any) -> None:
        work.vision_calls += 1

    def language(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = next(v for v in (kwargs.get("inputs_embeds"), kwargs.get("input_ids"), *args) if v is not None)
        work.language_positions += inputs.shape[0] * inputs.shape[1]

    inner = vlm.model.model
    hooks = [
        inner.vision_tower.register_forward_pre_hook(vision),
        inner.language_model.register_forward_pre_hook(language, with_kwargs=True),
    ]
    try:
        yield work
    finally:
        for hook in hooks:
            hook.remove()


@dataclass
class Measured:
    """One side's figures, a list entry per image."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    vision_calls: int = 0
    language_positions: int = 0
    answers: list[list[Said]] = field(default_factory=list)

    def summary(self, reference: Measured) -> dict[str, Any]:
        """Plain values: rates, ratios to the reference and work per question."""
        questions = sum(map(len, self.answers))
        return {
            "questions_per_second": statistics.median(len(a) / s for a, s in zip(self.answers, self.wall, strict=True)),
            "ratio": spread(reference.wall, self.wall),
            "cpu_ratio": spread(reference.cpu, self.cpu),
            "vision_calls_per_question": self.vision_calls / questions,
            "language_positions_per_question": self.language_positions / questions,
            "wall_seconds": self.wall,
            "cpu_seconds": self.cpu,
        }


def spread(reference: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """Ratios of the reference's seconds to ours, image by image."""
    ratios = [r / o for r, o in zip(reference, ours, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


@dataclass
class Clocks:
    """Seconds of one stretch of work."""

    wall: float = 0.0
    cpu: float = 0.0


@contextmanager
def clocked(vlm: HfVlm) -> Iterator[Clocks]:
    """Time what runs in this context, to the end of what it left on a GPU."""
    import torch

    wait = torch.cuda.synchronize if vlm.model.device.type == "cuda" else lambda: None
    clocks = Clocks()
    wait()
    wall, cpu = time.perf_counter(), time.process_time()
    yield clocks
    wait()
    clocks.wall, clocks.cpu = time.perf_counter() - wall, time.process_time() - cpu


def measure(vlm: HfVlm, images: int, limit: int, advance: Callable[[str], None]) -> dict[str, Measured]:
    """Time every side on every image: the same questions, the order of the sides reversed on every other image.

    Before that, pictures that are not measured warm every side up, since kernels are chosen and buffers allocated on
    first use; sides that batch meet every number of distinct questions.
    """
    from benchmarks.prompts import load_prompt

    prompt = load_prompt("default")
    rows = [[prompt.of(q) for q in question_rows(i)] for i in range(images)]
    batches = {len(set(r)): r for r in rows}
    advance("warming up")
    for name, side in SIDES.items():
        for place, row in enumerate(batches.values()):
            side(vlm, picture(images + place), row[:2] if name in ONE_BY_ONE else row, limit)
    results = {name: Measured() for name in SIDES}
    for index in range(images):
        jpeg = picture(index)
        for name in list(SIDES)[:: 1 if index % 2 == 0 else -1]:
            advance(f"image {index + 1} of {images}: {name}")
            into = results[name]
            with counted(vlm) as work, clocked(vlm) as clocks:
                answers = SIDES[name](vlm, jpeg, rows[index], limit)
            into.wall.append(clocks.wall)
            into.cpu.append(clocks.cpu)
            into.vision_calls += work.vision_calls
            into.language_positions += work.language_positions
            into.answers.append(answers)
    return results
