"""Which family handles which checkpoint: known types in one table, all others by what model and processor have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agevlm.errors import CheckpointError
from agevlm.vlm.hf.age_vlm import AgeVlmConcat, AgeVlmCross
from agevlm.vlm.hf.families import Family, Llava
from agevlm.vlm.hf.gemma import Gemma3, PaliGemma
from agevlm.vlm.hf.general import General
from agevlm.vlm.hf.mllama import Mllama
from agevlm.vlm.hf.mrope import MRope, QwenVL
from agevlm.vlm.hf.tiled import Idefics3, InternVL, LlavaNext, LlavaOnevision

FAMILIES: dict[str, type[Family]] = {
    "age_vlm": AgeVlmCross,
    "age_vlm/concat": AgeVlmConcat,
    "gemma3": Gemma3,
    "idefics3": Idefics3,
    "internvl": InternVL,
    "llava": Llava,
    "llava_next": LlavaNext,
    "llava_onevision": LlavaOnevision,
    "mllama": Mllama,
    "paligemma": PaliGemma,
    "qwen2_5_vl": QwenVL,
    "qwen2_vl": QwenVL,
    "qwen3_vl": QwenVL,
    "smolvlm": Idefics3,
}
"""By model type, with the fusion after a slash where there are several: families whose answers are shown to equal plain
generation by the tests. Any other type is checked on the first image of a run."""

LANGUAGES: dict[str, tuple[str, ...]] = {
    "age_vlm": ("age_vlm_text",),
    "gemma3": ("gemma3_text",),
    "idefics3": ("llama",),
    "internvl": ("qwen2",),
    "llava": ("llama", "mistral", "qwen2"),
    "llava_next": ("llama", "mistral", "qwen2"),
    "llava_onevision": ("qwen2",),
    "mllama": ("mllama_text_model",),
    "paligemma": ("gemma",),
    "qwen2_5_vl": ("qwen2_5_vl_text",),
    "qwen2_vl": ("qwen2_vl_text",),
    "qwen3_vl": ("qwen3_vl_text",),
    "smolvlm": ("llama",),
}
"""Language models with which they are shown. With any other (some have positions in their biases, or states that are no
keys and values) a checkpoint is checked like one of an unknown type."""

ROW_MARKS = ("pixtral",)
"""Vision towers of LLaVA whose prompts hold a mark after each row of patches: not what `Llava` expects."""


def family_class(config: Mapping[str, Any]) -> type[Family] | None:
    """The family of a checkpoint by its config.json; None for a type that transformers knows and the table does not.

    Raises:
        CheckpointError: a model type that this version of transformers does not know as an image-text-to-text model.
    """
    model_type = str(config.get("model_type"))
    tower = (config.get("vision_config") or {}).get("model_type")
    if model_type in FAMILIES and tower not in ROW_MARKS:
        return FAMILIES.get(f"{model_type}/{config.get('fusion')}", FAMILIES[model_type])
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise CheckpointError(
            f"model type {model_type!r} is no image-text-to-text model that transformers {transformers.__version__} "
            "knows; a newer version may (pip install -U transformers)"
        )
    return None


def find_family(model: Any, processor: Any) -> tuple[Family, bool]:
    """The family of a loaded model, and whether the tables vouch for it."""
    config = model.config
    found = family_class(config.to_dict())
    if found is not None:
        return found(model, processor), config.get_text_config().model_type in LANGUAGES.get(config.model_type, ())
    mrope = hasattr(getattr(model, "model", None), "get_rope_index")
    return (MRope if mrope else General)(model, processor), False
