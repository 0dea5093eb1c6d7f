"""What all stand-ins share: a tokenizer with a family's own marks, weights that look at the image, saving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agevlm.checkpoints.tiny import SENTENCES

WORDS = 380
"""Entries of the vocabulary that stand for text."""

QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML; IMAGE is to be replaced by what a family writes for an image."""


def build_tokenizer(
    marks: Sequence[str], named: Mapping[str, str], *, begin: str | None, end: str, pad: str, adds_begin: bool = False
) -> Any:
    """A small byte-level BPE tokenizer with a family's own special tokens.

    Args:
        marks: all special tokens, in order of their ids.
        named: attribute -> special token, as the family's processor reads them (`tokenizer.image_token`, ...).
        begin: the token that begins a text, if there is one.
        end: the end token.
        pad: the padding token.
        adds_begin: whether the tokenizer writes `begin` by itself.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS + len(marks),
        special_tokens=list(marks),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Real vocabularies hold runs of line breaks as one token, which marks around an image run into.
    tokenizer.train_from_iterator([*SENTENCES, "user\n\n", "model\n\n\n"] * 3, trainer)
    if adds_begin and begin is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=begin,
        eos_token=end,
        pad_token=pad,
        extra_special_tokens=dict(named),
        padding_side="left",
    )


def text_sizes(tokenizer: Any) -> dict[str, Any]:
    """Sizes of the language model, as LLaMA and its kin name them."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def stir(model: Any, seed: int) -> Any:
    """Random weights of a size with which image, question and positions all move the logits.

    The usual initial scale of 0.02 (and gates that are shut) would make every comparison of answers vacuous.
    """
    import torch

    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate"):
                parameter.fill_(1.0)
            elif parameter.dim() >= 2:
                fan_in = parameter[0].numel() if "input_projection" not in name else parameter.shape[0]
                gain = 0.5 if "embed" in name else 1.6
                scale = gain if "embed" in name else gain / fan_in**0.5
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * scale)
    return model.eval()
