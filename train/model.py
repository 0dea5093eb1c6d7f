"""A stage's model before the first step: loaded, frozen, and on its devices, whole or sharded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from train import weights
from train.checks import check_guidance
from train.freezing import freeze, resolve
from train.optimisation import build_optimizer
from train.sharding import shard
from train.spec import StageSpec
from train.step import TrainingModule


@dataclass(frozen=True, eq=False)
class Loaded:
    """What each process makes for itself."""

    model: Any
    """`AgeVlmForConditionalGeneration`, on the CPU."""
    processor: Any
    module: TrainingModule
    """The model with its losses."""
    stored: dict[str, torch.dtype]
    """Of frozen weights, by name, as the stage's starting checkpoint has them."""


@dataclass(frozen=True, eq=False)
class Spread:
    """What all processes make together."""

    parameters: dict[str, Any]
    """Those that are trained, by name."""
    optimizer: torch.optim.Optimizer
    wrapped: Any
    """The module to call: as it is (alone, or sharded), or in DDP."""


def load(spec: StageSpec, device: torch.device, with_weights: bool = True) -> Loaded:
    """Load a stage's model and freeze what it does not train.

    Args:
        spec: the stage.
        device: that it will run on.
        with_weights: without, `spread` fills it with the first process's.

    Raises:
        CheckpointError: the starting checkpoint cannot be loaded.
        TrainError: groups that lead to no parameter, or guidance of a model without cross-attention.
    """
    base = Path(spec.init_from).expanduser()
    model, processor = weights.load(base, with_weights)
    check_guidance(spec, model.config)
    groups = resolve(model, spec.trainable)
    freeze(model, groups, spec.gradient_checkpointing)
    trained = {name for group in groups for name in group.parameters}
    dtypes = weights.stored_dtypes(base)
    if spec.precision == "bfloat16":
        weights.shrink_frozen(model, trained, dtypes)
    if device.type == "cpu":
        # PyTorch's fused attention takes twice as long as plain products there, most of it backwards.
        model.set_attn_implementation("eager")
    module = TrainingModule(model, spec.guidance, spec.precision)
    return Loaded(model, processor, module, {name: d for name, d in dtypes.items() if name not in trained})


def spread(loaded: Loaded, spec: StageSpec, accelerator: Any, sharded: bool) -> Spread:
    """Bring a model to all processes' devices, with the first one's weights, and build its optimiser.

    All processes call this.
    """
    # Before the optimiser sees the parameters: sharding puts others in their place.
    if sharded:
        shard(loaded.module, accelerator.device)
    else:
        loaded.module.to(accelerator.device)
    groups = resolve(loaded.model, spec.trainable)
    parameters = {name: p for group in groups for name, p in group.parameters.items()}
    optimizer = build_optimizer(groups, spec, accelerator.device)
    return Spread(parameters, optimizer, loaded.module if sharded else accelerator.prepare(loaded.module))
