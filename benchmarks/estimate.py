"""What a run will cost, before any weight is loaded."""

from __future__ import annotations

import json
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


def estimate(
    *, images: int, pairs: int, questions: int, checkpoint: Path, manifest: Mapping[str, Any], device: str
) -> Estimate:
    """Time and disk for what is left to ask.

    Args:
        images: image groups left.
        pairs: asks left.
        questions: rows of the question files.
        checkpoint: the model's folder, for its size.
        manifest: of the run folder; a finished launch in it tells the real rate.
        device: as wanted.
    """
    disk = pairs * RECORD_BYTES + questions * QUESTION_BYTES
    for launch in reversed(manifest.get("launches", [])):
        if launch.get("seconds") and launch.get("answers"):
            rate = launch["seconds"] / launch["answers"]
            return Estimate(pairs * rate, f"at the {1 / rate:.2f} answers/s of this folder's last launch", disk)
    if device.startswith("cuda") or (device == "auto" and shutil.which("nvidia-smi")):
        return Estimate(None, "until a first launch has measured this GPU", disk)
    try:
        text, vision = parameter_counts(checkpoint)
        visual_tokens = visual_token_count(checkpoint)
    except (OSError, ValueError, KeyError, struct.error) as error:
        return Estimate(None, f"the weight files cannot be read: {error!r}", disk)
    operations = 2 * text * (images * (visual_tokens + PROMPT_TOKENS) + pairs * PROMPT_TOKENS)
    operations += 2 * vision * images * visual_tokens
    speed = matrix_speed() * EFFICIENCY
    basis = f"rough: {operations / 1e12:.1f} TFLOP at {speed / 1e9:.0f} GFLOP/s"
    return Estimate(operations / speed + images * IMAGE_SECONDS, basis, disk)


def parameter_counts(checkpoint: Path) -> tuple[int, int]:
    """Parameters of the language part and of the vision part, from the weight files' headers alone."""
    text = vision = 0
    for path in checkpoint.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            count = int(np.prod(entry["shape"], dtype=np.int64)) if entry["shape"] else 1
            if "vision" in name or "visual" in name:
                vision += count
            else:
                text += count
    return text, vision


def visual_token_count(checkpoint: Path) -> int:
    """Visual tokens per image by the vision configuration's image and patch size; 576 where it states none."""
    vision = json.loads((checkpoint / "config.json").read_text()).get("vision_config") or {}
    side, patch = vision.get("image_size"), vision.get("patch_size")
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
