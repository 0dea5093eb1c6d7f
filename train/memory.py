"""Memory that a stage takes on each device, estimated by its main terms.

weights       trained 4 bytes (float32); frozen 2 under bfloat16 autocast, else 4. A frozen vision tower has 4 in any
              case, as timm's are stored in float32; in a checkpoint stored in bfloat16 altogether it has 2
gradients     4 bytes a trained parameter
optimiser     8 (AdamW's two moments in float32)
copies        while a pass runs: autocast's half-precision copies of trained matrices, 2 bytes a parameter. Sharded,
              also what is whole at once: the parameters outside of units, the two largest units, and the gradients of
              the largest twice over
activations   of one micro-batch, what torch keeps for the backward pass. a is 2 bytes under autocast, else 4; h is the
              hidden, w the intermediate, k the key and value size together. A text token, in each text layer from the
              first that a gradient reaches (trained means its layer):

              norms       2 x 4h; trained 2 x 8h
              attention   a(2h + k), as fused kernels have it; in a cross-attention layer 2ah, and for the queries' norm
                          4h, trained 4h + ah
              gates       2ah in a cross-attention layer
              MLP         3aw; trained 4aw
              inputs      of trained matrices: 2ah; under autocast, a cast for each, 5ah (cross-attention 3ah)

              A visual token, in each cross-attention layer: ak, and for the keys' norm (2 + a / 2)k; in the adapter
              4ah; in each trained vision block 11a x channels. Frozen vision blocks keep nothing.
              Logits: a + 8 bytes a token and word.
              With gradient checkpointing 4h a layer and token, and the larger of one layer in full and the logits.

Sharded over n processes, weights, gradients and optimiser take an n-th of what they take whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from agevlm.model import AgeVlmConfig
from train.freezing import Resolved
from train.sharding import units
from train.spec import StageSpec

VISION = "model.vision_tower."
_BLOCK = re.compile(r"(?<=\.blocks\.\d)\..*|(?<=\.blocks\.\d\d)\..*")


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: int
    gradients: int
    optimizer: int
    copies: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.copies + self.activations


def estimate(
    spec: StageSpec, model: Any, resolved: tuple[Resolved, ...], tokens: int, sharding: str = "none", processes: int = 1
) -> Memory:
    """Memory of a stage.

    Args:
        spec: the stage.
        model: its model, with or without weights.
        resolved: what it trains of it.
        tokens: text tokens of a sample.
        sharding: none or full.
        processes: over which it is sharded.
    """
    trained = {id(p): p.numel() for group in resolved for p in group.parameters.values()}
    sizes = {
        id(p): (2 if is_half(name, id(p) in trained, spec) else 4) * p.numel() for name, p in model.named_parameters()
    }
    shards = processes if sharding == "full" else 1
    return Memory(
        weights=sum(sizes.values()) // shards,
        gradients=4 * sum(trained.values()) // shards,
        optimizer=8 * sum(trained.values()) // shards,
        copies=_casts(spec, model.config, resolved) + (_together(model, sizes, trained) if shards > 1 else 0),
        activations=_activations(spec, model.config, resolved, tokens),
    )


def is_half(name: str, trains: bool, spec: StageSpec) -> bool:
    """Whether a parameter is taken to be stored in bfloat16, and kept so in training."""
    return spec.precision == "bfloat16" and not trains and not name.startswith(VISION)


def _casts(spec: StageSpec, config: AgeVlmConfig, resolved: tuple[Resolved, ...]) -> int:
    if spec.precision != "bfloat16":
        return 0
    tied = config.text_config.tie_word_embeddings
    matrices: dict[str, int] = {
        name: p.numel() for group in resolved for name, p in group.parameters.items() if p.dim() >= 2
    }
    return 2 * sum(size for name, size in matrices.items() if tied or ".embed_tokens." not in name)


def _together(model: Any, sizes: dict[int, int], trained: dict[int, int]) -> int:
    """What is whole at once of a sharded model."""
    own = [{id(p) for p in unit.parameters()} for unit in units(model)]
    left = sizes.keys() - set().union(*own)
    largest = sorted((sum(sizes[key] for key in unit) for unit in own), reverse=True)[:2]
    gradients = max(4 * sum(trained.get(key, 0) for key in unit) for unit in [*own, left])
    return sum(sizes[key] for key in left) + sum(largest) + 2 * gradients


def _activations(spec: StageSpec, config: AgeVlmConfig, resolved: tuple[Resolved, ...], tokens: int) -> int:
    """Bytes of one micro-batch."""
    text, visual = config.text_config, config.vision_config.num_visual_tokens
    a = 2 if spec.precision == "bfloat16" else 4
    h, w = text.hidden_size, text.intermediate_size
    k = 2 * text.num_key_value_heads * (text.head_dim or h // text.num_attention_heads)
    crossing = set(text.cross_attention_layers)
    names = [name for group in resolved for name in group.parameters]
    first = min(crossing) if crossing and not any(".embed_tokens." in name for name in names) else 0
    length = tokens if crossing else tokens + visual
    layers = []
    for index in range(first, text.num_hidden_layers):
        trains = any(name.startswith(f"model.language_model.layers.{index}.") for name in names)
        crosses = index in crossing
        kept = 2 * (8 if trains else 4) * h
        kept += 2 * a * h + 4 * h + (a * h if trains else 0) + 2 * a * h if crosses else a * (2 * h + k)
        if not crosses or text.cross_attention_mlp:
            kept += (4 if trains else 3) * a * w
        if trains:
            kept += a * h * ((3 if crosses else 5) if a == 2 else 2)
        layers.append(length * kept + (int(visual * k * (a + 2 + a / 2)) if crosses else 0))
    logits = (a + 8) * tokens * text.vocab_size
    stack = sum(layers) + logits
    if spec.gradient_checkpointing:
        stack = len(layers) * length * 4 * h + max(*layers, logits)
    blocks = {_BLOCK.sub("", name) for name in names if name.startswith(VISION) and _BLOCK.search(name)}
    vision = visual * a * (11 * len(blocks) * config.vision_config.hidden_size + 4 * h)
    return int(spec.micro_batch_size * (stack + vision))
