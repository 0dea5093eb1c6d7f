"""What a stage will take, before any weight is touched: parameters, samples, memory, operations, time.

The model is built without memory. Parameters and samples are exact, the rest are estimates of main terms:

memory        see `train.memory`
operations    forward as torch's counter has it (`agevlm.model.describe`), with the language head at every token;
              backward once the text stack's forward for gradients of states, and 2 a trained matrix entry and token for
              gradients of weights (and as much again for states in adapter and vision block); checkpointing runs the
              text stack once more
time          operations over the assumed speed of all processes together; waiting for data is not in it
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from agevlm.errors import TrainError
from agevlm.model import AgeVlmConfig
from agevlm.model.describe import describe, on_meta
from train.freezing import Resolved, resolve
from train.memory import Memory, estimate
from train.spec import StageSpec

TEXT_TOKENS = 128
"""Assumed of a sample where the stage does not say."""
_VISUAL = re.compile(r"^model\.(vision_tower|adapter)\.|\.cross_attn\.[kv]_proj\.")


@dataclass(frozen=True)
class Group:
    """A parameter group as it will be trained."""

    name: str
    modules: tuple[str, ...]
    tensors: int
    parameters: int
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class Plan:
    """A stage as planned; see the module for how numbers are estimated."""

    arm: str
    stage: int
    name: str
    groups: tuple[Group, ...]
    trained: int
    frozen: int
    steps: int
    batch_size: int
    accumulation: int
    """Forward passes of a process in one step."""
    samples: int
    planned_samples: int | None
    """That the paper names."""
    guided: int | None
    """Samples of them with regions; None where only the data can tell."""
    guidance_weight: float | None
    """None: no regions are read."""
    text_tokens: int
    """Of a sample, as assumed."""
    visual_tokens: int
    """Of an image."""
    memory: Memory
    whole: Memory
    """Of a process that holds the whole model: the same, unless it is sharded."""
    operations: int
    """Of one step."""
    tflops: float
    """10^12 operations a second that a process is assumed to reach."""
    world_size: int
    sharding: str
    """none, or full: over all processes."""

    @property
    def tokens(self) -> int:
        """Text tokens of the stage."""
        return self.samples * self.text_tokens

    @property
    def seconds(self) -> float:
        """Of the stage."""
        return self.steps * self.operations / (self.tflops * 1e12 * self.world_size)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain numbers; memory in bytes."""
        made = asdict(self)
        made["memory"]["total"], made["whole"]["total"] = self.memory.total, self.whole.total
        return made | {"tokens": self.tokens, "seconds": self.seconds}


def plan_stage(
    spec: StageSpec, config: AgeVlmConfig, *, world_size: int = 1, sharding: str = "none", tflops: float = 150.0
) -> Plan:
    """Plan a stage of a model.

    Args:
        spec: the stage.
        config: of the model it starts from.
        world_size: processes.
        sharding: none or full.
        tflops: operations a second of one process, in 10^12.

    Raises:
        TrainError: a model of another fusion, module paths that lead nowhere, or a batch that does not divide.
    """
    if config.fusion != spec.fusion:
        raise TrainError(
            f"stage {spec.stage} ({spec.name}) is for fusion {spec.fusion!r}; the model is {config.fusion!r}"
        )
    if spec.batch_size % (spec.micro_batch_size * world_size):
        raise TrainError(
            f"batch_size {spec.batch_size} is no multiple of micro_batch_size {spec.micro_batch_size} x {world_size} "
            "processes; change one of them"
        )
    model = on_meta(config)
    resolved = resolve(model, spec.trainable)
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(group.count for group in resolved)
    tokens = spec.tokens_per_sample or TEXT_TOKENS
    samples = spec.steps * spec.batch_size
    return Plan(
        arm=spec.arm,
        stage=spec.stage,
        name=spec.name,
        groups=tuple(
            Group(g.name, spec.trainable[g.name].modules, len(g.parameters), g.count, g.lr, g.weight_decay)
            for g in resolved
        ),
        trained=trained,
        frozen=total - trained,
        steps=spec.steps,
        batch_size=spec.batch_size,
        accumulation=spec.batch_size // (spec.micro_batch_size * world_size),
        samples=samples,
        planned_samples=spec.planned_samples,
        guided=_guided(spec, samples),
        guidance_weight=None if spec.guidance is None else spec.guidance.weight,
        text_tokens=tokens,
        visual_tokens=config.vision_config.num_visual_tokens,
        memory=estimate(spec, model, resolved, tokens, sharding, world_size),
        whole=estimate(spec, model, resolved, tokens),
        operations=spec.batch_size * _operations(spec, config, resolved, tokens),
        tflops=tflops,
        world_size=world_size,
        sharding=sharding,
    )


def _guided(spec: StageSpec, samples: int) -> int | None:
    """Samples with regions that the stage will see."""
    if spec.guidance is None:
        return 0
    if spec.regions.batch_share is not None:
        return round(samples * spec.regions.batch_share)
    if spec.planned_guided is not None and spec.planned_samples:
        return round(samples * spec.regions.share * spec.planned_guided / spec.planned_samples)
    return None


def _matrices(resolved: tuple[Resolved, ...]) -> Mapping[str, int]:
    """Sizes of the trained matrices and kernels by name."""
    return {name: p.numel() for group in resolved for name, p in group.parameters.items() if p.dim() >= 2}


def _operations(spec: StageSpec, config: AgeVlmConfig, resolved: tuple[Resolved, ...], tokens: int) -> int:
    """Of one sample, forward and backward."""
    text, visual = config.text_config, config.vision_config.num_visual_tokens
    costs = describe(config, tokens).costs
    # `prefill` has the logits of one token.
    stack = costs.image_in_cache + costs.prefill + 2 * text.hidden_size * text.vocab_size * (tokens - 1)
    forward = costs.vision_tower + costs.adapter + stack
    in_text = tokens + (visual if config.fusion == "concat" else 0)
    backward = stack
    for name, size in _matrices(resolved).items():
        if ".embed_tokens." in name:
            continue  # a look-up; as a tied head it is in the stack, to the accuracy wanted here
        is_visual = _VISUAL.search(name) is not None
        backward += 2 * size * (visual if is_visual else in_text)
        if name.startswith(("model.vision_tower.", "model.adapter.")):
            backward += 2 * size * visual
    return int(forward + backward + (stack if spec.gradient_checkpointing else 0))
