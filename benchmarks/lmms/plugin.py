"""The entry point `agevlm` of the group `lmms_eval.models`."""

from __future__ import annotations

from typing import Any

MODEL = "agevlm"
"""How lmms-eval names the model: `lmms-eval eval --model agevlm`."""


def manifest() -> Any:
    """What lmms-eval 0.7 asks of a plug-in: a `ModelManifest` that names our two classes as strings."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id=MODEL,
        simple_class_path="benchmarks.lmms.model.AgeVlm",
        chat_class_path="benchmarks.lmms.model.AgeVlmChat",
    )
