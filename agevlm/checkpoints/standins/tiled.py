"""Stand-ins that cut an image into tiles: LLaVA-OneVision, Idefics3, SmolVLM, InternVL."""

from __future__ import annotations

from typing import Any

from agevlm.checkpoints.standins.common import QWEN_TEMPLATE, build_tokenizer, stir, text_sizes

IDEFICS_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def build_llava_onevision(seed: int, side: int = 28) -> tuple[Any, Any]:
    """SigLIP, anyres tiles with newline features, Qwen2. Tiles of so many pixels a side."""
    import transformers as t

    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
    tokenizer = build_tokenizer(marks, {}, begin=None, end="<|im_end|>", pad="<|endoftext|>")
    pinpoints = [[side * rows, side * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
    processor = t.LlavaOnevisionProcessor(
        t.LlavaOnevisionImageProcessor(size={"height": side, "width": side}, image_grid_pinpoints=pinpoints),
        tokenizer,
        t.LlavaOnevisionVideoProcessor(size={"height": side, "width": side}),
        num_image_tokens=(side // 14) ** 2,
        vision_feature_select_strategy="full",
        chat_template=QWEN_TEMPLATE.replace("IMAGE", "<image>\n"),
    )
    config = t.LlavaOnevisionConfig(
        vision_config=t.SiglipVisionConfig(**_siglip(side), vision_use_head=False),
        text_config=t.Qwen2Config(**text_sizes(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
    )
    return stir(t.LlavaOnevisionForConditionalGeneration(config), seed), processor


def build_idefics3(kind: str, seed: int) -> tuple[Any, Any]:
    """`idefics3` or `smolvlm`: rows and columns of tiles named in the prompt, then the whole image."""
    import transformers as t

    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    marks = ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>"]
    marks += ["<global-img>", *places]
    named = {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>"}
    named |= {"global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>"}
    tokenizer = build_tokenizer(
        marks, named, begin="<|im_start|>", end="<end_of_utterance>", pad="<|endoftext|>", adds_begin=kind == "idefics3"
    )
    side = 56
    sizes = {"size": {"longest_edge": 3 * side}, "max_image_size": {"longest_edge": side}}
    # 4 x 4 patches, shuffled 2 x 2 into 4 visual tokens a tile.
    common: dict[str, Any] = {"image_seq_len": 4, "chat_template": IDEFICS_TEMPLATE}
    text = t.LlamaConfig(**text_sizes(tokenizer))
    settings = {"image_token_id": tokenizer.convert_tokens_to_ids("<image>"), "text_config": text, "scale_factor": 2}
    if kind == "idefics3":
        processor = t.Idefics3Processor(t.Idefics3ImageProcessor(**sizes), tokenizer, **common)
        config = t.Idefics3Config(vision_config=_siglip(side), **settings)
        return stir(t.Idefics3ForConditionalGeneration(config), seed), processor
    processor = t.SmolVLMProcessor(t.SmolVLMImageProcessor(**sizes), tokenizer, t.SmolVLMVideoProcessor(), **common)
    config = t.SmolVLMConfig(vision_config=_siglip(side), **settings)
    return stir(t.SmolVLMForConditionalGeneration(config), seed), processor


def build_internvl(seed: int) -> tuple[Any, Any]:
    """InternVL in transformers' own format: tiles and a thumbnail, Qwen2."""
    import transformers as t

    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    named = {"start_image_token": "<img>", "end_image_token": "</img>"}
    named |= {"context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
    tokenizer = build_tokenizer(marks, named, begin=None, end="<|im_end|>", pad="<|endoftext|>")
    side = {"height": 56, "width": 56}
    processor = t.InternVLProcessor(
        t.GotOcr2ImageProcessor(size=side, crop_to_patches=True, min_patches=1, max_patches=6),
        tokenizer,
        t.InternVLVideoProcessor(size=side),
        image_seq_length=4,
        chat_template=QWEN_TEMPLATE.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )
    vision = _siglip(56) | {"image_size": [56, 56], "patch_size": [14, 14]}
    config = t.InternVLConfig(
        vision_config=vision,
        text_config=t.Qwen2Config(**text_sizes(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    return stir(t.InternVLForConditionalGeneration(config), seed), processor


def _siglip(side: int) -> dict[str, Any]:
    """Sizes of a vision tower with patches of 14 pixels."""
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": 14,
    }
