"""Stand-ins with multimodal rotary positions: Qwen2-VL, Qwen2.5-VL, Qwen3-VL."""

from __future__ import annotations

from typing import Any

from agevlm.checkpoints.standins.common import QWEN_TEMPLATE, build_tokenizer, stir, text_sizes

MARKS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
TEMPLATE = QWEN_TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")


def build_qwen(kind: str, seed: int) -> tuple[Any, Any]:
    """Model and processor of `qwen2_vl`, `qwen2_5_vl` or `qwen3_vl`."""
    import transformers as t

    tokenizer = build_tokenizer(MARKS, {}, begin=None, end="<|im_end|>", pad="<|endoftext|>")
    patch = 16 if kind == "qwen3_vl" else 14
    images = t.Qwen2VLImageProcessor(
        patch_size=patch,
        merge_size=2,
        size={"shortest_edge": 4 * (2 * patch) ** 2, "longest_edge": 20 * (2 * patch) ** 2},
    )
    # Head size 16: 8 frequencies, shared out to time, height and width.
    text = text_sizes(tokenizer) | {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    }
    ids = {
        "image_token_id": tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        "tie_word_embeddings": False,
    }
    if kind == "qwen2_vl":
        vision: dict[str, Any] = {
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 64,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": patch,
        }
        videos = t.Qwen2VLVideoProcessor(patch_size=patch, merge_size=2)
        processor = t.Qwen2VLProcessor(images, tokenizer, videos, chat_template=TEMPLATE)
        config = t.Qwen2VLConfig(text_config=text, vision_config=vision, **ids)
        return stir(t.Qwen2VLForConditionalGeneration(config), seed), processor
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "out_hidden_size": 64,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": patch,
    }
    if kind == "qwen2_5_vl":
        # A window of 56 pixels, whole images in one block only.
        vision |= {"window_size": 56, "fullatt_block_indexes": [1]}
        videos = t.Qwen2VLVideoProcessor(patch_size=patch, merge_size=2)
        processor = t.Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=TEMPLATE)
        config = t.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
        return stir(t.Qwen2_5_VLForConditionalGeneration(config), seed), processor
    vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
    videos = t.Qwen3VLVideoProcessor(patch_size=patch, merge_size=2)
    processor = t.Qwen3VLProcessor(images, tokenizer, videos, chat_template=TEMPLATE)
    config = t.Qwen3VLConfig(text_config=text | {"head_dim": 16}, vision_config=vision, **ids)
    return stir(t.Qwen3VLForConditionalGeneration(config), seed), processor
