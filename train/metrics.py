"""What is counted while a stage runs, and the rows that are logged of it.

A row covers the steps since the last one:

loss, loss/text, loss/guidance     the sum that is trained on (weights included); means per token and per phrase
tokens, phrases, dropped           per step: predicted, taught where to look, and without a cell that sees their region
attention/LOOK[/LAYER]             iou, mass, pointing and padding of `train.losses.Looks`, mean over phrases
gate/attn/LAYER, gate/mlp/LAYER    tanh of the gates, at the last step
lr/GROUP, guidance_weight          of the last step
grad_norm                          before clipping, mean over steps that were not skipped
skipped                            steps skipped so far, for a loss or gradient that is not finite
samples                            seen so far
source/NAME/samples, .../epochs    drawn from a source so far; the same over its size
source/NAME/guided, .../skipped    of these, with regions wanted; those that could not be used
time/...                           seconds a step, seconds of it spent waiting for data, samples a second
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from train.sharding import full


@dataclass
class SourceCounts:
    """What a source has given so far."""

    samples: int = 0
    """Drawn; those in place of skipped ones are not counted again."""
    guided: int = 0
    """Of these, those whose regions were wanted."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Of these, those that could not be used, by reason."""
    first: list[str] = field(default_factory=list)
    """The first that could not be used."""


@dataclass
class Counters:
    """All that a run remembers besides weights and optimiser. Kept in its checkpoints."""

    steps: int = 0
    samples: int = 0
    tokens: int = 0
    phrases: float = 0.0
    dropped: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    window: dict[str, float] = field(default_factory=dict)
    """Sums since the last row."""
    sources: dict[str, SourceCounts] = field(default_factory=dict)
    """By name."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Counters:
        """What `as_dict` gave."""
        sources = {name: SourceCounts(**given) for name, given in values.get("sources", {}).items()}
        return cls(**{**values, "sources": sources})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class StepSums:
    """One step over all processes."""

    tokens: float
    phrases: float
    dropped: float
    samples: int
    losses: Mapping[str, float]
    """Sums over tokens and phrases, by the names of `TrainingModule.sums`."""
    norm: float
    text_weight: float
    guidance_weight: float

    @property
    def finite(self) -> bool:
        """Whether the step may change weights."""
        return all(math.isfinite(v) for v in (self.norm, self.losses["text"], self.losses.get("guidance", 0.0)))


def count(counters: Counters, sums: StepSums) -> None:
    """Add a step. One that is not finite counts as skipped and leaves means as they are."""
    counters.steps += 1
    counters.samples += sums.samples
    counters.tokens += int(sums.tokens)
    counters.phrases += sums.phrases
    counters.dropped += int(sums.dropped)
    window = counters.window
    if not sums.finite:
        counters.skipped += 1
        counters.skipped_in_a_row += 1
        return
    counters.skipped_in_a_row = 0
    text = sums.losses["text"] / max(1.0, sums.tokens)
    guidance = sums.losses.get("guidance", 0.0) / sums.phrases if sums.phrases else 0.0
    parts = {
        "steps": 1.0,
        "loss": sums.text_weight * text + sums.guidance_weight * guidance,
        "tokens": sums.tokens,
        "phrases": sums.phrases,
        "dropped": sums.dropped,
        "norm": sums.norm,
        **{f"sum/{name}": value for name, value in sums.losses.items()},
    }
    for name, value in parts.items():
        window[name] = window.get(name, 0.0) + value


def row(counters: Counters, looks: Sequence[str], layers: Sequence[int]) -> dict[str, float]:
    """The row of the steps since the last one, and a new start. Empty means (all steps skipped) are left out.

    Args:
        counters: whose window is emptied.
        looks: names of the measures of attention.
        layers: cross-attention layers that were measured.
    """
    window, counters.window = counters.window, {}
    steps, tokens, phrases = (window.get(name, 0.0) for name in ("steps", "tokens", "phrases"))
    made: dict[str, float] = {}
    if steps:
        made = {"loss": window["loss"] / steps, "loss/text": window["sum/text"] / max(1.0, tokens)}
        made |= {name: window[name] / steps for name in ("tokens", "phrases", "dropped")}
        made["grad_norm"] = window["norm"] / steps
    if phrases:
        made["loss/guidance"] = window["sum/guidance"] / phrases
        for look in looks:
            by_layer = [window[f"sum/{look}/{layer}"] / phrases for layer in layers]
            made[f"attention/{look}"] = sum(by_layer) / len(by_layer)
            made |= {f"attention/{look}/{layer}": value for layer, value in zip(layers, by_layer, strict=True)}
    return made | {"skipped": float(counters.skipped), "samples": float(counters.samples)}


@torch.no_grad()
def gates(model: Any) -> dict[str, float]:
    """tanh of every gate of an `AgeVlmForConditionalGeneration`: how far it is open, -1 to 1.

    All processes call this.
    """
    found: dict[str, float] = {}
    for index, layer in enumerate(model.model.language_model.layers):
        for kind in ("attn", "mlp"):
            gate = getattr(layer, f"{kind}_gate", None)
            if gate is not None:
                found[f"gate/{kind}/{index}"] = float(full(gate).float().tanh())
    return found


class Clock:
    """Seconds spent, and those of them spent waiting for data."""

    def __init__(self) -> None:
        self.since, self.steps, self.waited, self._mark = time.perf_counter(), 0, 0.0, 0.0

    def waiting(self) -> None:
        self._mark = time.perf_counter()

    def working(self) -> None:
        self.waited += time.perf_counter() - self._mark
        self.steps += 1

    def read(self, samples: int) -> dict[str, float]:
        """Means since the last reading; `samples` a step."""
        each = (time.perf_counter() - self.since) / max(1, self.steps)
        waited = self.waited / max(1, self.steps)
        self.since, self.steps, self.waited = time.perf_counter(), 0, 0.0
        return {"time/step": each, "time/data": waited, "time/samples_per_second": samples / each}
