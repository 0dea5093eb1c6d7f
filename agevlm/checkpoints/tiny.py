"""Randomly initialised checkpoints, built on the spot: for tests, the demo and benchmarks. They know nothing.

Every part is real (vision tower, LLaMA, a BPE tokenizer trained on a few sentences, image processor, chat template);
only the weights are random, and the sizes small unless others are asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n"
    "{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""LLaVA 1.5's layout: the image, a line break, the question, "ASSISTANT:"."""

SENTENCES = [
    "USER: ASSISTANT: Is there a person in the image? Is there an umbrella in the image? Yes No Yes No yes no YES NO",
    "Answer the question using a single word or phrase. Yes, there is. No, there is not.",
    "dining table sports ball traffic light backpack bicycle chair car bus dog cat cup bottle bowl book",
]

SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


@dataclass(frozen=True)
class TinyLlava:
    """Sizes of a LLaVA-shaped model."""

    image_size: int = 56
    patch_size: int = 14
    vision_hidden: int = 32
    vision_layers: int = 3
    vision_heads: int = 4
    text_hidden: int = 64
    text_layers: int = 3
    text_heads: int = 4
    text_kv_heads: int = 2
    vocabulary: int = 400
    model_type: str = "llava"
    """llava, or llava_next (tiles)."""
    padding: bool = False
    """Pad images to a square instead of cropping them."""


def build_tokenizer(vocabulary: int) -> Any:
    """A byte-level BPE tokenizer with LLaMA's special tokens, `<image>`, and a BOS in front of every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [*SPECIAL.values(), "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    bos = SPECIAL["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **SPECIAL, extra_special_tokens={"image_token": "<image>"}, padding_side="left"
    )


def build_processor(sizes: TinyLlava) -> Any:
    """The LLaVA processor for these sizes."""
    from transformers import (
        CLIPImageProcessor,
        LlavaImageProcessor,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
        LlavaProcessor,
    )

    side = {"height": sizes.image_size, "width": sizes.image_size}
    common: dict[str, Any] = {
        "patch_size": sizes.patch_size,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "chat_template": CHAT_TEMPLATE,
    }
    tokenizer = build_tokenizer(sizes.vocabulary)
    if sizes.model_type == "llava_next":
        images = LlavaNextImageProcessor(
            size={"shortest_edge": sizes.image_size}, crop_size=side, image_grid_pinpoints=_pinpoints(sizes)
        )
        return LlavaNextProcessor(images, tokenizer, **common)
    kind = LlavaImageProcessor if sizes.padding else CLIPImageProcessor
    pad = {"do_pad": True} if sizes.padding else {}
    images = kind(size={"shortest_edge": sizes.image_size}, crop_size=side, **pad)
    return LlavaProcessor(images, tokenizer, **common)


def _pinpoints(sizes: TinyLlava) -> list[list[int]]:
    n = sizes.image_size
    return [[n, 2 * n], [2 * n, n], [2 * n, 2 * n]]


def build_model(sizes: TinyLlava, processor: Any, seed: int) -> Any:
    """A randomly initialised model in float32.

    The initial scale is large enough that image and question move the logits visibly, where the usual 0.02 would
    make every comparison of answers vacuous.
    """
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
    )

    tokenizer = processor.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=sizes.vision_hidden,
        intermediate_size=2 * sizes.vision_hidden,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.vision_heads,
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
    )
    text = LlamaConfig(
        hidden_size=sizes.text_hidden,
        intermediate_size=2 * sizes.text_hidden,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=sizes.text_heads,
        num_key_value_heads=sizes.text_kv_heads,
        vocab_size=max(sizes.vocabulary, len(tokenizer)),
        max_position_embeddings=4096,
        initializer_range=0.15,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    shared: dict[str, Any] = {
        "vision_config": vision,
        "text_config": text,
        "image_token_index": processor.tokenizer.convert_tokens_to_ids("<image>"),
        "vision_feature_select_strategy": "default",
        "vision_feature_layer": -2,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(seed)
    if sizes.model_type == "llava_next":
        model = LlavaNextForConditionalGeneration(LlavaNextConfig(image_grid_pinpoints=_pinpoints(sizes), **shared))
    else:
        model = LlavaForConditionalGeneration(LlavaConfig(**shared))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "multi_modal_projector" in name and parameter.dim() == 2:
                parameter.normal_(0.0, 1.0 / parameter.shape[1] ** 0.5)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval()


def make_it_answer(model: Any, processor: Any) -> None:
    """Edit the weights so that the model always says "Yes" or "No", then stops; which of them stays random.

    Channel 0 of the residual stream is kept for a marker that only the embeddings of the two words carry and only the
    end token's output row reads. All other output rows are zero but those of Yes and No, which oppose each other.
    """
    import torch

    tokenizer = processor.tokenizer
    yes, no = (tokenizer.encode(t, add_special_tokens=False)[0] for t in (" Yes", " No"))
    language = model.model.language_model
    with torch.no_grad():
        embeddings = language.embed_tokens.weight
        embeddings[:, 0] = 0
        embeddings[[yes, no], 0] = 100.0
        for layer in language.layers:
            attention = layer.self_attn if hasattr(layer, "self_attn") else layer.cross_attn
            attention.o_proj.weight[0] = 0
            if layer.mlp is not None:
                layer.mlp.down_proj.weight[0] = 0
        head = model.lm_head.weight
        direction = torch.randn(head.shape[1]).to(head.dtype)
        direction[0] = 0
        head.zero_()
        head[yes], head[no] = direction, -direction
        head[tokenizer.eos_token_id, 0] = 100.0


def build_tiny_llava(
    folder: str | Path,
    *,
    seed: int = 0,
    answers: bool = False,
    sizes: TinyLlava | None = None,
    generation: Mapping[str, Any] | None = None,
) -> Path:
    """Write a tiny randomly initialised LLaVA checkpoint folder.

    Args:
        folder: where to; created if missing.
        seed: of the weights.
        answers: make it answer Yes or No and stop (see `make_it_answer`); else it babbles.
        sizes: of the model.
        generation: entries to set in generation_config.

    Returns:
        The folder.
    """
    sizes = sizes or TinyLlava()
    processor = build_processor(sizes)
    return _save(build_model(sizes, processor, seed), processor, folder, answers, generation)


def _save(
    model: Any, processor: Any, folder: str | Path, answers: bool, generation: Mapping[str, Any] | None = None
) -> Path:
    from transformers.utils import logging

    logging.disable_progress_bar()
    if answers:
        make_it_answer(model, processor)
    for key, value in (generation or {}).items():
        setattr(model.generation_config, key, value)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)


@dataclass(frozen=True)
class AgeVlmShape:
    """Sizes of an AGE-VLM; `PAPER_SHAPE` for the paper's."""

    image_size: int = 64
    architecture: str = "convnext_atto"
    model_args: Mapping[str, Any] | None = field(
        default_factory=lambda: {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 32), "ls_init_value": 1.0}
    )
    num_stages: int | None = 3
    """Three stages of four: stride 16, 16 visual tokens."""
    text_hidden: int = 64
    text_intermediate: int = 128
    text_layers: int = 6
    """Of the fused stack."""
    cross_layers: tuple[int, ...] = (1, 4)
    text_heads: int = 4
    text_kv_heads: int = 2
    vocabulary: int = 400
    context: int = 4096
    cross_mlp: bool = True
    fusion: str = "cross"
    """concat: the layers that are not cross-attention, with visual tokens in the sequence."""
    resize_mode: str = "letterbox"
    mask_padding: bool = False
    visual_positions: str = "none"
    initializer_range: float = 0.15


PAPER_SHAPE = AgeVlmShape(
    image_size=768,
    architecture="convnext_large_mlp",
    model_args=None,
    num_stages=None,
    text_hidden=2048,
    text_intermediate=8192,
    text_layers=20,
    cross_layers=(2, 7, 12, 17),
    text_heads=32,
    text_kv_heads=8,
    vocabulary=128256,
    context=131072,
    initializer_range=0.02,
)


def build_age_vlm(
    folder: str | Path,
    *,
    seed: int = 0,
    answers: bool = False,
    shape: AgeVlmShape | None = None,
    dtype: str = "float32",
    generation: Mapping[str, Any] | None = None,
) -> Path:
    """Write a randomly initialised AGE-VLM checkpoint folder whose gates are open, so that it looks at the image.

    Args:
        folder: where to; created if missing.
        seed: of the weights.
        answers: make it answer Yes or No and stop (see `make_it_answer`); else it babbles.
        shape: its sizes.
        dtype: of the weights.
        generation: entries to set in generation_config.

    Returns:
        The folder.
    """
    shape = shape or AgeVlmShape()
    model, processor = random_age_vlm(shape, seed, dtype)
    return _save(model, processor, folder, answers, generation)


def random_age_vlm(shape: AgeVlmShape, seed: int, dtype: str = "float32") -> tuple[Any, Any]:
    """The model, in eval mode, and its processor; see `build_age_vlm`."""
    import torch

    from agevlm.model import (
        AgeVlmConfig,
        AgeVlmForConditionalGeneration,
        AgeVlmImageProcessor,
        AgeVlmProcessor,
        AgeVlmTextConfig,
        AgeVlmVisionConfig,
    )

    tokenizer = build_tokenizer(min(shape.vocabulary, 2048))
    vision = AgeVlmVisionConfig.from_timm(
        shape.architecture,
        image_size=shape.image_size,
        num_stages=shape.num_stages,
        model_args=dict(shape.model_args) if shape.model_args else None,
    )
    crossing = list(shape.cross_layers) if shape.fusion == "cross" else []
    text = AgeVlmTextConfig(
        hidden_size=shape.text_hidden,
        intermediate_size=shape.text_intermediate,
        num_hidden_layers=shape.text_layers - len(shape.cross_layers) + len(crossing),
        cross_attention_layers=crossing,
        cross_attention_mlp=shape.cross_mlp,
        num_attention_heads=shape.text_heads,
        num_key_value_heads=shape.text_kv_heads,
        head_dim=shape.text_hidden // shape.text_heads,
        vocab_size=max(shape.vocabulary, len(tokenizer)),
        max_position_embeddings=shape.context,
        initializer_range=shape.initializer_range,
        # LLaMA 3.2's rotary positions are stretched from 8,192: none to stretch below that.
        rope_parameters=None if shape.context > 8192 else {"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = AgeVlmConfig(
        text_config=text,
        vision_config=vision,
        fusion=shape.fusion,
        mask_padding=shape.mask_padding,
        visual_positions=shape.visual_positions,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>") if shape.fusion == "concat" else None,
        initializer_range=shape.initializer_range,
    )
    torch.manual_seed(seed)
    with _default_dtype(getattr(torch, dtype)):
        model = AgeVlmForConditionalGeneration(config).eval()
    open_the_eyes(model, seed)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    images = AgeVlmImageProcessor(image_size=vision.image_size, stride=vision.stride, resize_mode=shape.resize_mode)
    return model, AgeVlmProcessor(images, tokenizer, fusion=shape.fusion)


@contextlib.contextmanager
def _default_dtype(dtype: Any) -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def open_the_eyes(model: Any, seed: int) -> None:
    """Open the gates and give visual tokens the size of text states: else a random model ignores the image.

    Comparing two ways to run a model says nothing where neither way's answer depends on the image.
    """
    import torch

    draw = torch.Generator().manual_seed(seed)
    config = model.config
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            if hasattr(layer, "cross_attn"):
                layer.attn_gate.fill_(1.0)
                if layer.mlp is not None:
                    layer.mlp_gate.fill_(0.5)
        side = config.vision_config.image_size
        noise = torch.randn(1, 3, side, side, generator=draw).to(model.dtype)
        features = model.model.vision_tower(noise).last_hidden_state
        adapter = model.model.adapter
        adapter.linear_1.weight.normal_(0.0, 1.0 / adapter.linear_1.weight.shape[1] ** 0.5)
        # Pictures differ from noise by less than noise does from itself, hence the factor.
        adapter.linear_1.weight.mul_(4.0 / float(features.float().std()))
        if adapter.linear_2 is not None:
            adapter.linear_2.weight.normal_(0.0, 1.0 / adapter.linear_2.weight.shape[1] ** 0.5)
