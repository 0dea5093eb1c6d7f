"""Settings of a stage that only the machine or the checkpoint can judge: refused before anything is trained."""

from __future__ import annotations

from typing import Any

from agevlm.errors import TrainError
from train.spec import StageSpec


def check_batch(spec: StageSpec, processes: int) -> None:
    """See that batches can be split among processes, and that the precision exists. Raises TrainError."""
    share = spec.micro_batch_size * processes
    if spec.batch_size % share:
        raise TrainError(
            f"batch_size {spec.batch_size} is no multiple of micro_batch_size {spec.micro_batch_size} x {processes} "
            "processes"
        )
    if spec.precision not in ("float32", "bfloat16"):
        raise TrainError(f"precision is {spec.precision!r}; choose float32 or bfloat16")


def check_guidance(spec: StageSpec, config: Any) -> None:
    """See that a checkpoint of this configuration has what guidance guides. Raises TrainError."""
    if spec.guidance is None:
        return
    crossing = list(config.text_config.cross_attention_layers or [])
    if not crossing:
        raise TrainError(
            f"stage {spec.name}: fusion {config.fusion!r} has no cross-attention to guide; take guidance out"
        )
    if unknown := sorted(set(spec.guidance.layers or ()) - set(crossing)):
        raise TrainError(f"guidance.layers {unknown} have no cross-attention; those that do: {crossing}")
