"""Stand-in for Mllama (Llama 3.2 Vision): tiles of the image, read through gated cross-attention layers."""

from __future__ import annotations

from typing import Any

from agevlm.checkpoints.standins.common import build_tokenizer, stir, text_sizes

TEMPLATE = (
    "<|begin_of_text|>{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|image|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def build_mllama(seed: int) -> tuple[Any, Any]:
    """Four layers of which the second and the last look at the image."""
    import transformers as t

    marks = ["<|begin_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>", "<|start_header_id|>"]
    marks += ["<|end_header_id|>", "<|python_tag|>", "<|image|>"]
    tokenizer = build_tokenizer(
        marks,
        {"image_token": "<|image|>"},
        begin="<|begin_of_text|>",
        end="<|eot_id|>",
        pad="<|finetune_right_pad_id|>",
        adds_begin=True,
    )
    side = 56
    images = t.MllamaImageProcessor(size={"height": side, "width": side}, max_image_tiles=4)
    processor = t.MllamaProcessor(images, tokenizer, chat_template=TEMPLATE)
    vision = t.MllamaVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_global_layers=1,
        attention_heads=2,
        image_size=side,
        patch_size=14,
        max_num_tiles=4,
        intermediate_layers_indices=[0, 1],
        vision_output_dim=96,
        supported_aspect_ratios=[[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
    )
    sizes = text_sizes(tokenizer) | {"num_hidden_layers": 4, "cross_attention_layers": [1, 3]}
    text = t.MllamaTextConfig(**sizes, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    config = t.MllamaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<|image|>")
    )
    return stir(t.MllamaForConditionalGeneration(config), seed), processor
