"""What a run will cost, before any weight is loaded."""

from __future__ import annotations

import json
import re
import shutil
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RECORD_BYTES = 420
QUESTION_BYTES = 330
PROMPT_TOKENS = 25
"""Tokens of a question with its short-answer instruction; POPE's vary by a few."""
IMAGE_SECONDS = 0.01
"""Opening, resizing and tokenising for one image group (rough)."""
EFFICIENCY = 0.4
"""Share of the machine's matrix-product speed that a whole model reaches (rough)."""


@dataclass(frozen=True)
class Estimate:
    """Seconds (None where nothing is known to go by), how they were come by, and bytes on disk."""

    seconds: float | None
    basis: str
    disk_bytes: int


@dataclass(frozen=True)
class Work:
    """Floating-point operations that a model spends."""

    image: float
    """On one image, before any of it meets the text."""
    token: float
    """On one position of the language model."""
    visual_tokens: int
    """Positions of the language model that an image takes; 0 where the text only looks at it (cross-attention)."""


def estimate(
    *,
    images: int,
    pairs: int,
    questions: int,
    checkpoint: Path | None,
    manifest: Mapping[str, Any],
    device: str,
    prompt_tokens: int = PROMPT_TOKENS,
) -> Estimate:
    """Time and disk for what is left to ask.

    Args:
        images: image groups left.
        pairs: asks left.
        questions: rows of the question files.
        checkpoint: the model's folder, for its size; None where it is not on this machine.
        manifest: of the run folder; a finished launch in it tells the real rate.
        device: as wanted.
        prompt_tokens: of a question as it is put, roughly.
    """
    disk = pairs * RECORD_BYTES + questions * QUESTION_BYTES
    for launch in reversed(manifest.get("launches", [])):
        if launch.get("seconds") and launch.get("answers"):
            rate = launch["seconds"] / launch["answers"]
            return Estimate(pairs * rate, f"at the {1 / rate:.2f} answers/s of this folder's last launch", disk)
    if checkpoint is None:
        return Estimate(None, "until a first launch has measured this model", disk)
    if device.startswith("cuda") or (device == "auto" and shutil.which("nvidia-smi")):
        return Estimate(None, "until a first launch has measured this GPU", disk)
    try:
        work = model_work(checkpoint)
    except (OSError, ValueError, KeyError, struct.error) as error:
        return Estimate(None, f"the weight files cannot be read: {error!r}", disk)
    operations = images * (work.image + work.token * (work.visual_tokens + prompt_tokens))
    operations += pairs * work.token * prompt_tokens
    speed = matrix_speed() * EFFICIENCY
    basis = f"rough: {operations / 1e12:.1f} TFLOP at {speed / 1e9:.0f} GFLOP/s"
    return Estimate(operations / speed + images * IMAGE_SECONDS, basis, disk)


def model_work(checkpoint: Path) -> Work:
    """What a model spends, from its config.json and its weight files' headers alone."""
    config = json.loads((checkpoint / "config.json").read_text())
    counts = parameter_counts(checkpoint)
    vision_config = config.get("vision_config") or {}
    if config.get("model_type") == "age_vlm":
        return _age_vlm_work(counts, vision_config, config.get("fusion", "cross"))
    vision = sum(n for name, n in counts.items() if "vision" in name or "visual" in name)
    tokens = visual_token_count(vision_config)
    return Work(2 * vision * tokens, 2 * (sum(counts.values()) - vision), tokens)


def _age_vlm_work(counts: Mapping[str, int], vision_config: Mapping[str, Any], fusion: str) -> Work:
    """A weight of a ConvNet is used once for each cell of its stage's grid; earlier stages have more cells.

    Where the text only looks at the image, adapter and keys and values run over visual tokens, all else over text.
    """
    tokens = (vision_config.get("image_size", 768) // vision_config.get("stride", 32)) ** 2
    stages = {name: re.search(r"vision_tower\.trunk\.(?:stages\.(\d+)|stem)\.", name) for name in counts}
    last = max((int(found[1] or 0) for found in stages.values() if found), default=0)
    image = token = 0.0
    for name, count in counts.items():
        if "vision_tower." in name:
            found = stages[name]
            # Each stage halves the side. Without stages by that name: as if all cells were visual tokens.
            earlier = last - int(found[1] or 0) if found else 0
            image += 2 * count * tokens * 4**earlier
        elif ".adapter." in name or ".cross_attn.k_proj." in name or ".cross_attn.v_proj." in name:
            image += 2 * count * tokens
        else:
            token += 2 * count
    return Work(image, token, tokens if fusion == "concat" else 0)


def parameter_counts(checkpoint: Path) -> dict[str, int]:
    """Parameters by name, from the weight files' headers.

    Without tables of the vocabulary: those are looked up, or multiplied with a question's last position alone.
    """
    counts = {}
    for path in checkpoint.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        for name, entry in header.items():
            if name != "__metadata__" and not name.endswith(("embed_tokens.weight", "lm_head.weight")):
                counts[name] = int(np.prod(entry["shape"], dtype=np.int64)) if entry["shape"] else 1
    return counts


def visual_token_count(vision_config: Mapping[str, Any]) -> int:
    """Visual tokens per image by the vision configuration's image and patch size; 576 where it states none."""
    side, patch = vision_config.get("image_size"), vision_config.get("patch_size")
    if isinstance(side, int) and isinstance(patch, int) and patch > 0:
        return (side // patch) ** 2
    return 576


def matrix_speed(size: int = 1024) -> float:
    """Floating-point operations per second of a float32 matrix product on this CPU, the best of three."""
    a = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    a @ a
    best = min(_timed(a) for _ in range(3))
    return 2 * size**3 / best


def _timed(a: Any) -> float:
    started = time.perf_counter()
    a @ a
    return time.perf_counter() - started
