"""Tiny stages for tests of the training engine: models whose gates are open, and data that need no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from agevlm.checkpoints.tiny import AgeVlmShape, build_age_vlm
from train.data.samples import Message, Phrase, Sample
from train.spec import Guidance, ParameterGroup, Regions, SourceSpec, StageSpec

# Tiny tensors: more threads only wait for each other.
torch.set_num_threads(1)

SHAPE = AgeVlmShape(
    image_size=48,
    model_args={"depths": (1, 1, 1, 1), "dims": (4, 4, 8, 12), "ls_init_value": 1.0},
    text_hidden=32,
    text_intermediate=48,
    text_layers=4,
    cross_layers=(1, 3),
    vocabulary=300,
)
"""3 x 3 visual tokens."""
CROSSING, CELLS = (1, 3), 9
GROUPS = {
    "body": ParameterGroup(
        ("model.adapter", "model.language_model.layers.1", "model.language_model.layers.3"), 2e-3, 0.1
    ),
    "gates": ParameterGroup(("model.language_model.layers.*.attn_gate",), 1e-2),
}


def checkpoint(folder: Path, **changes: Any) -> Path:
    """A stage-0 checkpoint."""
    return build_age_vlm(folder, shape=replace(SHAPE, **changes))


class Toys:
    """Samples of different lengths, made from their index alone: some without an image, some without phrases."""

    def __init__(
        self,
        size: int = 23,
        name: str = "toys",
        guided: Sequence[int] | None = None,
        text_only: int = 5,
        broken: Mapping[int, Sample | Exception] | None = None,
    ) -> None:
        self.size, self.name, self.text_only, self.broken = size, name, text_only, broken or {}
        known = [i for i in range(size) if self.has_image(i)]
        self.guided: Sequence[int] = known if guided is None else guided
        self.fingerprint = f"{name}-{size}"
        self.drawn: list[tuple[int, int]] = []

    def has_image(self, index: int) -> bool:
        return not self.text_only or index % self.text_only != self.text_only - 1

    def __len__(self) -> int:
        return self.size

    def read(self, index: int, epoch: int) -> Sample:
        self.drawn.append((index, epoch))
        if index in self.broken:
            if isinstance(instead := self.broken[index], Exception):
                raise instead
            return instead
        draw = np.random.default_rng([index, epoch])
        width, height = int(draw.integers(20, 60)), int(draw.integers(20, 60))
        messages: list[Message] = []
        phrases: list[Phrase] = []
        for turn in range(1 + index % 3):
            thing = ("red car", "dog", "dining table")[int(draw.integers(3))]
            text = f" Is there a {thing} in the image? "
            if index in self.guided:
                start = text.index(thing)
                x, y = int(draw.integers(width - 12)), int(draw.integers(height - 12))
                mask = np.zeros((height, width), bool)
                mask[y : y + 10, x : x + 12] = True
                phrases.append(Phrase(2 * turn, start, start + len(thing), mask))
            said = ("Yes", "No, there is not.")[int(draw.integers(2))]
            messages += [Message("user", text), Message("assistant", said)]
        image = Image.fromarray(draw.integers(0, 255, (height, width, 3), dtype=np.uint8))
        return Sample(f"{self.name}-{index}", tuple(messages), image if self.has_image(index) else None, tuple(phrases))


def stage(base: Path, out: Path, **changes: Any) -> StageSpec:
    """A short guided stage."""
    settings: dict[str, Any] = {
        "name": "guide",
        "arm": "age-vlm",
        "stage": 1,
        "follows": (0,),
        "init_from": str(base),
        "out": str(out),
        "fusion": "cross",
        "trainable": GROUPS,
        "sources": (SourceSpec("toys"),),
        "steps": 4,
        "batch_size": 8,
        "micro_batch_size": 4,
        "warmup_share": 0.25,
        "log_every": 2,
        "save_every": 100,
        "regions": Regions(share=0.5),
        "guidance": Guidance(answers=True),
    }
    return StageSpec(**settings | changes)


class Recorder:
    """A tracker that keeps what it was told, without times."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.begun: list[int] = []
        self.looked: list[int] = []
        self.closed = 0

    def begin(self, step: int) -> None:
        self.begun.append(step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.rows[step] = {name: value for name, value in metrics.items() if not name.startswith("time/")}

    def look(self, step: int, model: Any, processor: Any) -> None:
        self.looked.append(step)

    def close(self) -> None:
        self.closed += 1


class Stop(Exception):
    """A run was stopped on purpose."""


def stopping_after(steps: int) -> Any:
    """Progress that raises `Stop` once so many steps are done."""

    def progress(done: int, total: int) -> None:
        if done == steps:
            raise Stop

    return progress
