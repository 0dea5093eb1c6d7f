"""AdamW as stages set it up, and how learning rates go up and down."""

from __future__ import annotations

import math
from typing import Any

import torch

from train.freezing import Resolved
from train.spec import StageSpec


def build_optimizer(groups: tuple[Resolved, ...], spec: StageSpec, device: torch.device) -> torch.optim.AdamW:
    """AdamW over the groups. Vectors and scalars (norms, biases, gates) get no weight decay.

    Each of its parameter groups knows its `name` (of the stage's group) and its `peak` learning rate.
    """
    made: list[dict[str, Any]] = []
    for group in groups:
        for decayed in (True, False):
            parameters = [p for p in group.parameters.values() if (p.dim() >= 2) == decayed]
            if parameters:
                decay = group.weight_decay if decayed else 0.0
                made.append(
                    {"params": parameters, "lr": group.lr, "weight_decay": decay, "name": group.name, "peak": group.lr}
                )
    return torch.optim.AdamW(made, betas=spec.betas, fused=device.type == "cuda")


def rate(step: int, spec: StageSpec) -> float:
    """Factor of the learning rates in step `step`, from 0 on: a linear rise to 1, then a cosine to `final_lr_share`."""
    rising = round(spec.warmup_share * spec.steps)
    if step < rising:
        return (step + 1) / rising
    progress = min(1.0, (step - rising) / max(1, spec.steps - rising - 1))
    return spec.final_lr_share + (1 - spec.final_lr_share) * 0.5 * (1 + math.cos(math.pi * progress))


def set_rates(optimizer: torch.optim.Optimizer, step: int, spec: StageSpec) -> dict[str, float]:
    """Set the learning rates of step `step`; returns them by the names of the groups."""
    factor = rate(step, spec)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return {str(group["name"]): float(group["lr"]) for group in optimizer.param_groups}
