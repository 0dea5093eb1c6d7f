"""What an AGE-VLM costs: parameters, operations and cache, counted on the model itself without memory for weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, LlamaConfig

from agevlm.data.checkpoint_files import one_line
from agevlm.errors import CheckpointError
from agevlm.model.configuration import LLAMA_3_2_ROPE, AgeVlmConfig, AgeVlmTextConfig
from agevlm.model.modeling import AgeVlmForConditionalGeneration

BF16_BYTES = 2
PAPER_TEXT_STACK = "1.2 B"
"""What the paper says of its language model with cross-attention."""

_LLAMA_3_1_ROPE = {**LLAMA_3_2_ROPE, "factor": 8.0}
BACKBONES: dict[str, dict[str, Any]] = {
    "1b": {"hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192, "head_dim": 64},
    "3b": {
        "hidden_size": 3072,
        "num_hidden_layers": 28,
        "intermediate_size": 8192,
        "num_attention_heads": 24,
        "head_dim": 128,
    },
    "8b": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "intermediate_size": 14336,
        "head_dim": 128,
        "tie_word_embeddings": False,
        "rope_parameters": _LLAMA_3_1_ROPE,
    },
    "70b": {
        "hidden_size": 8192,
        "num_hidden_layers": 80,
        "intermediate_size": 28672,
        "num_attention_heads": 64,
        "head_dim": 128,
        "tie_word_embeddings": False,
        "rope_parameters": _LLAMA_3_1_ROPE,
    },
}
"""LLaMA-3.2-1B and -3B, LLaMA-3.1-8B and -70B: what differs from `_LLAMA_3`."""

_LLAMA_3: dict[str, Any] = {
    "vocab_size": 128256,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "tie_word_embeddings": True,
    "rope_parameters": LLAMA_3_2_ROPE,
}


@dataclass(frozen=True)
class Parameters:
    """Parameters by part; a tied language head counts once, as embeddings."""

    vision_tower: int
    adapter: int
    embeddings: int
    llama_layers: int
    """With the final norm."""
    cross_attention: int
    """Query, key, value and output projections."""
    cross_mlp: int
    cross_gates_and_norms: int
    language_head: int
    """0 if tied."""

    @property
    def llama(self) -> int:
        """The language model that was there before."""
        return self.embeddings + self.llama_layers + self.language_head

    @property
    def cross_layers(self) -> int:
        """All that cross-attention adds."""
        return self.cross_attention + self.cross_mlp + self.cross_gates_and_norms

    @property
    def text_stack(self) -> int:
        """LLaMA with its cross-attention layers."""
        return self.llama + self.cross_layers

    @property
    def new(self) -> int:
        """What no pretrained part brings, and the paper's first stage trains: adapter and cross-attention layers."""
        return self.adapter + self.cross_layers

    @property
    def total(self) -> int:
        """All of the model."""
        return self.vision_tower + self.adapter + self.text_stack


@dataclass(frozen=True)
class Costs:
    """Operations (an addition and a multiplication are two) and cache in bfloat16, for one image and one question.

    Only matrix products, convolutions and attention count, as torch's own counter has it; attention counts all
    positions, those behind the causal mask too.
    """

    vision_tower: int
    """Operations for one image."""
    adapter: int
    """Operations for one image."""
    image_in_cache: int
    """Operations to bring an image's visual tokens into the cache. cross: their keys and values at each
    cross-attention layer. concat: the visual tokens through all of LLaMA."""
    prefill: int
    """Operations for one question with the image in the cache, up to the logits of the first answer token."""
    decode: int
    """Operations for the answer token after that."""
    image_cache_bytes: int
    """Keys and values of one image."""
    token_cache_bytes: int
    """Keys and values of one text token."""

    @property
    def image(self) -> int:
        """Operations for one image, whatever is asked about it."""
        return self.vision_tower + self.adapter + self.image_in_cache

    def answered(self, questions: int, answer_tokens: int) -> int:
        """Operations for an image and so many questions about it, the image's part done once.

        The first of `answer_tokens` comes out of the prefill. Every other one is counted as the second, although each
        looks back on one position more.
        """
        return self.image + questions * (self.prefill + (answer_tokens - 1) * self.decode)


@dataclass(frozen=True)
class Description:
    """A model as counted."""

    fusion: str
    visual_tokens: int
    llama_layers: int
    cross_attention_layers: tuple[int, ...]
    question_tokens: int
    parameters: Parameters
    costs: Costs

    def as_json(self, questions: int, answer_tokens: int) -> dict[str, Any]:
        """Everything as plain numbers, with derived ones. Operations are single ones, memory is in bytes."""
        parameters, costs = self.parameters, self.costs
        derived = {name: getattr(parameters, name) for name in ("llama", "cross_layers", "text_stack", "new", "total")}
        return {
            "fusion": self.fusion,
            "visual_tokens": self.visual_tokens,
            "llama_layers": self.llama_layers,
            "cross_attention_layers": list(self.cross_attention_layers),
            "question_tokens": self.question_tokens,
            "answer_tokens": answer_tokens,
            "questions": questions,
            "parameters": {**asdict(parameters), **derived},
            "operations": {
                **{name: getattr(costs, name) for name in ("vision_tower", "adapter", "image_in_cache", "image")},
                **{name: getattr(costs, name) for name in ("prefill", "decode")},
                "one_question": costs.answered(1, answer_tokens),
                "all_questions": costs.answered(questions, answer_tokens),
                "all_questions_without_reuse": questions * costs.answered(1, answer_tokens),
            },
            "cache_bytes_bf16": {"image": costs.image_cache_bytes, "text_token": costs.token_cache_bytes},
        }


def backbone_config(name: str) -> AgeVlmConfig:
    """AGE-VLM over one of `BACKBONES`, with the paper's vision tower and layout."""
    llama = LlamaConfig(**{**_LLAMA_3, **BACKBONES[name]})
    return AgeVlmConfig(text_config=AgeVlmTextConfig.from_llama(llama))


def read_age_vlm_config(path: str | Path) -> AgeVlmConfig:
    """An AGE-VLM's configuration from its config.json, or from the checkpoint folder that holds it.

    Raises:
        CheckpointError: no such file, or not an AGE-VLM's.
    """
    file = Path(path).expanduser()
    file = file / "config.json" if file.is_dir() else file
    try:
        declared = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot read: {one_line(error)}") from None
    kind = declared.get("model_type") if isinstance(declared, dict) else None
    if kind != AgeVlmConfig.model_type:
        raise CheckpointError(
            f"{file}: model_type is {kind!r}; an AGE-VLM's config.json says {AgeVlmConfig.model_type!r}"
        )
    try:
        return AgeVlmConfig.from_dict(declared)
    except Exception as error:
        raise CheckpointError(f"{file}: {one_line(error)}") from None


def variant(config: AgeVlmConfig, *, fusion: str, cross_mlp: bool | None = None) -> AgeVlmConfig:
    """The same parts, fused in this way.

    Args:
        config: of any fusion; it stays as it is.
        fusion: cross or concat. Where the configuration has no cross-attention layers, cross puts them in one of five.
        cross_mlp: whether cross-attention layers have an MLP branch; None for as they have it.
    """
    text = config.text_config
    layers = text.cross_attention_layers if fusion == "cross" and config.fusion == "cross" else None
    sizes = {k: v for k, v in text.to_dict().items() if k in LlamaConfig.__dataclass_fields__}
    fused = AgeVlmTextConfig.from_llama(
        LlamaConfig(**{**sizes, "num_hidden_layers": len(text.self_attention_layers)}),
        cross_attention_layers=[] if fusion == "concat" else layers,
        cross_attention_mlp=text.cross_attention_mlp if cross_mlp is None else cross_mlp,
    )
    shared = {
        "adapter": config.adapter,
        "visual_positions": config.visual_positions,
        "vision_config": config.vision_config.to_dict(),
    }
    if fusion == "concat":
        return AgeVlmConfig(text_config=fused, fusion=fusion, image_token_id=config.image_token_id, **shared)
    return AgeVlmConfig(text_config=fused, fusion=fusion, mask_padding=config.mask_padding, **shared)


def on_meta(config: AgeVlmConfig) -> AgeVlmForConditionalGeneration:
    """The model with shapes alone: no memory, whatever the size.

    Raises:
        CheckpointError: a configuration that no model can be built from.
    """
    try:
        with torch.device("meta"):
            # Eager attention is plain matrix products, which every version of torch counts alike. transformers writes
            # the choice into the configuration, so into a copy.
            return AgeVlmForConditionalGeneration._from_config(deepcopy(config), attn_implementation="eager").eval()
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(one_line(error)) from error


def count_parameters(model: AgeVlmForConditionalGeneration) -> Parameters:
    """Parameters by part. Works on any device, meta included."""
    counts = dict.fromkeys(Parameters.__dataclass_fields__, 0)
    crossing = set(model.config.text_config.cross_attention_layers)
    for name, parameter in model.named_parameters():
        counts[_part(name, crossing)] += parameter.numel()
    return Parameters(**counts)


def _part(name: str, crossing: set[int]) -> str:
    for prefix, part in (
        ("model.vision_tower.", "vision_tower"),
        ("model.adapter.", "adapter"),
        ("model.language_model.embed_tokens.", "embeddings"),
        ("model.language_model.norm.", "llama_layers"),
        ("lm_head.", "language_head"),
    ):
        if name.startswith(prefix):
            return part
    layer, rest = re.fullmatch(r"model\.language_model\.layers\.(\d+)\.(.+)", name).groups()  # type: ignore[union-attr]
    if int(layer) not in crossing:
        return "llama_layers"
    if rest.startswith("mlp."):
        return "cross_mlp"
    return "cross_attention" if re.fullmatch(r"cross_attn\.[qkvo]_proj\..+", rest) else "cross_gates_and_norms"


def describe(config: AgeVlmConfig, question_tokens: int = 32) -> Description:
    """Count a model's parameters, operations and cache on the meta device.

    Args:
        config: of the model.
        question_tokens: text of a question as the model reads it, in tokens, visual tokens not included.

    Raises:
        CheckpointError: a configuration that no model can be built from.
    """
    model = on_meta(config)
    try:
        costs = _costs(model, question_tokens)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"a question of {question_tokens} tokens cannot be run: {one_line(error)}") from error
    return Description(
        fusion=config.fusion,
        visual_tokens=config.vision_config.num_visual_tokens,
        llama_layers=len(config.text_config.self_attention_layers),
        cross_attention_layers=tuple(config.text_config.cross_attention_layers),
        question_tokens=question_tokens,
        parameters=count_parameters(model),
        costs=costs,
    )


@torch.no_grad()
def _costs(model: AgeVlmForConditionalGeneration, question_tokens: int) -> Costs:
    config, inner = model.config, model.model
    side = config.vision_config.image_size
    pixels = torch.empty(1, 3, side, side, device="meta")
    features, vision_tower = _counted(lambda: inner.vision_tower(pixels).last_hidden_state)
    states, adapter = _counted(lambda: inner.adapter(features))
    if config.fusion == "cross":
        cache, image_in_cache = _counted(lambda: model.vision_cache(image_features=states))
    else:
        cache = DynamicCache(config=config.text_config)
        _, image_in_cache = _counted(
            lambda: inner.language_model(inputs_embeds=states, past_key_values=cache, use_cache=True)
        )
    image_bytes = _cache_bytes(cache)

    def read(tokens: int) -> Callable[[], Any]:
        ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
        return lambda: model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)

    _, prefill = _counted(read(question_tokens))
    before = _cache_bytes(cache)
    _, decode = _counted(read(1))
    return Costs(vision_tower, adapter, image_in_cache, prefill, decode, image_bytes, _cache_bytes(cache) - before)


def _counted(run: Callable[[], Any]) -> tuple[Any, int]:
    with FlopCounterMode(display=False) as counter:
        result = run()
    return result, counter.get_total_flops()


def _cache_bytes(cache: DynamicCache) -> int:
    """Size of all keys and values in bfloat16."""
    kept = [t for layer in cache.layers if layer.is_initialized for t in (layer.keys, layer.values)]
    return BF16_BYTES * sum(t.numel() for t in kept)
