"""AGE-VLM (arXiv 2511.17793) and one way to look through any vision-language model.

Importing this package is cheap: nothing here loads torch, transformers or pandas. The model's names
(`from agevlm import AgeVlmForConditionalGeneration`) are looked up when they are first used; `import agevlm.model`
registers them with transformers' Auto classes.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
__part_of__ = "agevlm"

MODEL_NAMES = (
    "AgeVlmConfig",
    "AgeVlmForConditionalGeneration",
    "AgeVlmImageProcessor",
    "AgeVlmModel",
    "AgeVlmProcessor",
    "AgeVlmTextConfig",
    "AgeVlmVisionConfig",
    "ProbeRequest",
)


def __getattr__(name: str) -> Any:
    if name in MODEL_NAMES:
        return getattr(importlib.import_module("agevlm.model"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *MODEL_NAMES])
