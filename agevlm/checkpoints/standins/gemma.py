"""Stand-ins whose image tokens see each other both ways: PaliGemma, Gemma 3."""

from __future__ import annotations

from typing import Any

from agevlm.checkpoints.standins.common import build_tokenizer, stir, text_sizes

PALIGEMMA_TEMPLATE = (
    "{% for part in messages[0]['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
)
"""PaliGemma's checkpoints bring none: the image, then the question; their processor adds BOS and a line break."""

GEMMA3_TEMPLATE = (
    "<bos>{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<start_of_image>"
    "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def build_paligemma(seed: int) -> tuple[Any, Any]:
    """SigLIP and Gemma; the whole prompt is bidirectional."""
    import transformers as t

    marks = ["<pad>", "<eos>", "<bos>", "<image>"]
    tokenizer = build_tokenizer(marks, {"image_token": "<image>"}, begin="<bos>", end="<eos>", pad="<pad>")
    images = t.SiglipImageProcessor(size={"height": 56, "width": 56}, image_seq_length=16)
    # The processor adds the tokens of its boxes and masks to the tokenizer.
    processor = t.PaliGemmaProcessor(images, tokenizer, chat_template=PALIGEMMA_TEMPLATE)
    config = t.PaliGemmaConfig(
        vision_config=t.SiglipVisionConfig(**_siglip(), projection_dim=64, vision_use_head=False),
        text_config=t.GemmaConfig(**text_sizes(processor.tokenizer), head_dim=16),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=64,
        hidden_size=64,
        tie_word_embeddings=False,
    )
    return stir(t.PaliGemmaForConditionalGeneration(config), seed), processor


def build_gemma3(seed: int) -> tuple[Any, Any]:
    """SigLIP and Gemma 3 with layers of a short sliding window; an image's tokens see each other."""
    import transformers as t

    marks = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    marks += ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = build_tokenizer(marks, named, begin="<bos>", end="<end_of_turn>", pad="<pad>", adds_begin=True)
    images = t.Gemma3ImageProcessor(size={"height": 56, "width": 56})
    processor = t.Gemma3Processor(images, tokenizer, chat_template=GEMMA3_TEMPLATE, image_seq_length=4)
    text = t.Gemma3TextConfig(
        **text_sizes(tokenizer),
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=24,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    )
    config = t.Gemma3Config(
        vision_config=t.SiglipVisionConfig(**_siglip(), vision_use_head=False),
        text_config=text,
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        tie_word_embeddings=False,
    )
    return stir(t.Gemma3ForConditionalGeneration(config), seed), processor


def _siglip() -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    }
