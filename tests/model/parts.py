"""Tiny pretrained parts in the forms they come in: a LLaMA by transformers, a ConvNeXt by timm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from transformers import LlamaConfig, LlamaForCausalLM

from agevlm.checkpoints.tiny import build_tokenizer

VOCABULARY = 400
CONVNEXT_ARGS: dict[str, Any] = {"depths": [1, 1, 2, 1], "dims": [8, 12, 16, 24]}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's, which are not timm's defaults for this architecture."""

LLAMA3_TOKENS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|finetune_right_pad_id|>"]


def llama_config(**changes: Any) -> LlamaConfig:
    return LlamaConfig(
        **{
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": VOCABULARY + 8,
            "max_position_embeddings": 512,
            "initializer_range": 0.15,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
            **changes,
        }
    )


def llama_folder(
    folder: Path, *, dtype: torch.dtype = torch.float32, shard: str | None = None, seed: int = 0, **changes: Any
) -> Path:
    """A LLaMA checkpoint with a tokenizer that knows `<image>` and a pad token, as save_pretrained writes it."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(llama_config(**changes)).to(dtype)
    for name, parameter in model.named_parameters():
        if "norm" in name:  # all ones would hide norms that changed places
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.generation_config.eos_token_id = [2, 7]
    model.generation_config.temperature = 0.6
    model.generation_config.do_sample = True
    model.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    build_tokenizer(VOCABULARY).save_pretrained(folder)
    return folder


def llama3_tokens(folder: Path, *more: str) -> None:
    """Give the folder's tokenizer LLaMA 3's layout, and take `<image>` and the pad token from it."""
    tokenizer = build_tokenizer(VOCABULARY - 10)
    backend = tokenizer.backend_tokenizer.to_str().replace("<image>", "<unused>").replace("<pad>", "<spare>")
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    plain = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(backend), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    plain.add_tokens([*LLAMA3_TOKENS, *more], special_tokens=True)
    plain.save_pretrained(folder)


def convnext_folder(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A ConvNeXt with a classifier, as timm saves it for the hub."""
    torch.manual_seed(seed)
    arguments = {**CONVNEXT_ARGS, **changes}
    model = timm.create_model("convnext_atto", num_classes=10, **arguments)
    for name, parameter in model.named_parameters():
        if name.endswith(("gamma", "norm.weight")):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.pretrained_cfg = {**model.pretrained_cfg, "mean": MEAN, "std": STD}
    save_for_hf(model, str(folder), model_args=arguments, safe_serialization=True)
    return folder
