"""What a stage will take, before any weight is touched: parameters, samples, memory, operations, time.

The model is built without memory. Parameters and samples are exact, the rest are estimates of main terms:

weights       trained 4 bytes (float32); frozen 2 under bfloat16 autocast, else 4
gradients     4 bytes a trained parameter
optimiser     8 (AdamW's two moments in float32)
activations   of one micro-batch, kept for the backward pass: in each text layer from the first that a gradient reaches,
              10 x hidden + 2 x key/value width + 4 x intermediate numbers a token (a cross-attention layer without an
              MLP branch has no last term, and holds keys and values of visual tokens too); with gradient checkpointing,
              hidden a layer and one layer in full; 11 x channels a visual token of each trained ConvNeXt block; 4 x
              hidden a visual token in the adapter; two float32 logits a text token and word. Frozen vision layers keep
              nothing.
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
from train.spec import StageSpec

TEXT_TOKENS = 128
"""Assumed of a sample where the stage does not say."""
VISION = "model.vision_tower."
_BLOCK = re.compile(r"(?<=\.blocks\.\d)\..*|(?<=\.blocks\.\d\d)\..*")
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
class Memory:
    """Bytes on one device."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations


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
    operations: int
    """Of one step."""
    tflops: float
    """10^12 operations a second that a process is assumed to reach."""
    world_size: int

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
        made["memory"]["total"] = self.memory.total
        return made | {"tokens": self.tokens, "seconds": self.seconds}


def plan_stage(spec: StageSpec, config: AgeVlmConfig, *, world_size: int = 1, tflops: float = 150.0) -> Plan:
    """Plan a stage of a model.

    Args:
        spec: the stage.
        config: of the model it starts from.
        world_size: processes.
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
    frozen_bytes = 2 if spec.precision == "bfloat16" else 4
    memory = Memory(
        weights=4 * trained + frozen_bytes * (total - trained),
        gradients=4 * trained,
        optimizer=8 * trained,
        activations=_activations(spec, config, resolved, tokens),
    )
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
        memory=memory,
        operations=spec.batch_size * _operations(spec, config, resolved, tokens),
        tflops=tflops,
        world_size=world_size,
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


def _activations(spec: StageSpec, config: AgeVlmConfig, resolved: tuple[Resolved, ...], tokens: int) -> int:
    """Bytes of one micro-batch."""
    text, visual = config.text_config, config.vision_config.num_visual_tokens
    number = 2 if spec.precision == "bfloat16" else 4
    hidden, wide = text.hidden_size, text.intermediate_size
    keys = 2 * text.num_key_value_heads * (text.head_dim or hidden // text.num_attention_heads)
    crossing = set(text.cross_attention_layers)
    names = [name for group in resolved for name in group.parameters]
    first = min(crossing) if crossing and not any(".embed_tokens." in name for name in names) else 0
    length = tokens if crossing else tokens + visual
    layers = []
    for index in range(first, text.num_hidden_layers):
        has_mlp = index not in crossing or text.cross_attention_mlp
        kept = length * (10 * hidden + (4 * wide if has_mlp else 0) + (0 if index in crossing else keys))
        layers.append(kept + (visual * keys if index in crossing else 0))
    stack = sum(layers)
    if spec.gradient_checkpointing:
        stack = len(layers) * length * hidden + max(layers)
    blocks = {_BLOCK.sub("", name) for name in names if name.startswith(VISION) and _BLOCK.search(name)}
    vision = len(blocks) * visual * 11 * config.vision_config.hidden_size
    kept = number * (stack + vision + 4 * hidden * visual) + 8 * tokens * text.vocab_size
    return int(spec.micro_batch_size * kept)
