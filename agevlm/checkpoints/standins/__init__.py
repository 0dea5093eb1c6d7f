"""Tiny random checkpoints of other families, to try the suite on without weights. They know nothing.

Model, image processor and processor are transformers' own, of the family's own classes; tokenizer and chat template are
stand-ins with the family's image-token layout.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from agevlm.checkpoints.standins.gemma import build_gemma3, build_paligemma
from agevlm.checkpoints.standins.mllama import build_mllama
from agevlm.checkpoints.standins.qwen import build_qwen
from agevlm.checkpoints.standins.tiled import build_idefics3, build_internvl, build_llava_onevision

STANDINS: dict[str, Callable[[int], tuple[Any, Any]]] = {
    "llava_onevision": build_llava_onevision,
    "qwen2_vl": partial(build_qwen, "qwen2_vl"),
    "qwen2_5_vl": partial(build_qwen, "qwen2_5_vl"),
    "qwen3_vl": partial(build_qwen, "qwen3_vl"),
    "smolvlm": partial(build_idefics3, "smolvlm"),
    "idefics3": partial(build_idefics3, "idefics3"),
    "paligemma": build_paligemma,
    "gemma3": build_gemma3,
    "internvl": build_internvl,
    "mllama": build_mllama,
}
"""Model type -> seed -> model (float32, eval mode) and processor. LLaVA and LLaVA-NeXT: `agevlm.checkpoints.tiny`."""


def build_standin(model_type: str, folder: str | Path, seed: int = 0) -> Path:
    """Write a tiny random checkpoint of a family. Raises KeyError for a type not in `STANDINS`.

    Args:
        model_type: a key of `STANDINS`.
        folder: where to; created if missing.
        seed: of the weights.

    Returns:
        The folder.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    model, processor = STANDINS[model_type](seed)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)
