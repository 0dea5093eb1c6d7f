"""Tiny randomly initialised checkpoints, built on the spot: for tests, the demo and benchmarks. They know nothing.

Every part is real (CLIP tower, LLaMA, a BPE tokenizer trained on a few sentences, image processor, chat template); only
the sizes are small and the weights random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        head = model.lm_head.weight
        direction = torch.randn(head.shape[1])
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
    from transformers.utils import logging

    logging.disable_progress_bar()
    sizes = sizes or TinyLlava()
    processor = build_processor(sizes)
    model = build_model(sizes, processor, seed)
    if answers:
        make_it_answer(model, processor)
    for key, value in (generation or {}).items():
        setattr(model.generation_config, key, value)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)
