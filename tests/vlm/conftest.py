"""Tiny checkpoints, built once per session, and pictures of many shapes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from agevlm.checkpoints.tiny import AgeVlmShape, TinyLlava, build_age_vlm, build_tiny_llava
from agevlm.vlm import Ask
from agevlm.vlm.hf.session import HfVlm

LLAVA = ["llava", "llava_next"]
AGE_VLM = {
    "age_vlm": AgeVlmShape(),
    "age_vlm_mask": AgeVlmShape(mask_padding=True, visual_positions="learned"),
    "age_vlm_concat": AgeVlmShape(fusion="concat"),
}
KINDS = [*LLAVA, *AGE_VLM]
CROSS = ["age_vlm", "age_vlm_mask"]
"""Kinds whose text holds nothing of the image."""
FEWER = [kind for kind in KINDS if kind != "age_vlm"]
"""For slow tests: with padding hidden, a model does all that one without does."""
IN_TEXT = [kind for kind in KINDS if kind not in CROSS]

SHAPES = [(56, 56), (40, 90), (120, 30), (9, 200)]
"""Heights and widths: square, wide, tall, a strip."""

QUESTIONS = [
    "Is there a dog?",
    "Is there an umbrella in the image?",
    "What? " * 12,
    "?",
    "Is there a dog in the image? Answer the question using a single word or phrase.",
    "Is there a dog?",
]
"""Ragged lengths, and one question twice."""


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_hash_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in SHAPES]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Callable[..., Path]:
    """checkpoint(kind="llava", seed=0, answers=False): the folder; the same call gives the same folder."""
    known: dict[tuple, Path] = {}

    def build(kind: str = "llava", seed: int = 0, answers: bool = False) -> Path:
        key = (kind, seed, answers)
        if key not in known:
            folder = tmp_path_factory.mktemp(f"{kind}-{seed}")
            if kind in AGE_VLM:
                known[key] = build_age_vlm(folder, seed=seed, answers=answers, shape=AGE_VLM[kind])
            else:
                known[key] = build_tiny_llava(folder, seed=seed, answers=answers, sizes=TinyLlava(model_type=kind))
        return known[key]

    return build


@pytest.fixture(scope="session")
def vlm(checkpoint) -> Callable[..., HfVlm]:
    """vlm(kind, seed, ...): a loaded model; tests must leave it as it is."""
    known: dict[tuple, HfVlm] = {}

    def load(kind: str = "llava", seed: int = 0, answers: bool = False, dtype: str = "float32") -> HfVlm:
        key = (kind, seed, answers, dtype)
        if key not in known:
            known[key] = HfVlm.load(checkpoint(kind, seed, answers), dtype=dtype, device="cpu")
        return known[key]

    return load


@pytest.fixture
def copy_of(tmp_path, checkpoint) -> Callable[..., Path]:
    """A checkpoint's copy to break, with entries of its JSON files changed: copy_of(generation_config={...})."""

    def copy(*, kind: str = "llava", seed: int = 0, **changes: dict) -> Path:
        folder = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(checkpoint(kind, seed), folder)
        for name, entries in changes.items():
            path = folder / f"{name}.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | entries))
        return folder

    return copy


def asks_about(image: int | None, tokens: int = 8, questions: list[str] = QUESTIONS) -> list[Ask]:
    return [Ask(q, image, tokens) for q in questions]
