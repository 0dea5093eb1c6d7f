"""The model that is measured, and the machine it runs on."""

from __future__ import annotations

import os
import platform
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from agevlm.checkpoints.tiny import TinyLlava
    from agevlm.vlm.hf.session import HfVlm

PACKAGES = ("agevlm", "torch", "transformers", "tokenizers", "numpy", "pillow")


def sizes(name: str, layers: int | None, hidden: int | None) -> TinyLlava:
    """LLaVA-shaped sizes: tiny (for tests), small or medium, with 576 visual tokens unless tiny."""
    from agevlm.checkpoints.tiny import TinyLlava

    if name == "tiny":
        return TinyLlava()
    width, depth = {"small": (512, 6), "medium": (768, 6)}[name]
    width, depth = hidden or width, layers or depth
    if width % 256:
        raise click.BadParameter("must be a multiple of 256", param_hint="--hidden")
    vision = width * 3 // 4
    return TinyLlava(
        image_size=336,
        vision_hidden=vision,
        vision_layers=depth,
        vision_heads=vision // 64,
        text_hidden=width,
        text_layers=depth,
        text_heads=width // 64,
        text_kv_heads=width // 128,
        vocabulary=2048,
    )


def load_model(ckpt: str | None, shape: TinyLlava, dtype: str, device: str) -> HfVlm:
    """The given checkpoint, or a random one of these sizes that says Yes or No and stops."""
    from transformers.utils import logging

    from agevlm.checkpoints.tiny import build_tiny_llava
    from agevlm.vlm.hf.session import HfVlm

    logging.disable_progress_bar()
    if ckpt is not None:
        return HfVlm.load(ckpt, dtype=dtype, device=device)
    with tempfile.TemporaryDirectory() as folder:
        return HfVlm.load(build_tiny_llava(folder, answers=True, sizes=shape), dtype=dtype, device=device)


def describe_machine(vlm: HfVlm, threads: int) -> dict[str, Any]:
    """What the figures were taken on."""
    import torch

    device = vlm.model.device
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": threads,
        "dtype": str(vlm.model.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in vlm.model.parameters()),
        "python": platform.python_version(),
        "packages": {p: metadata.version(p) for p in PACKAGES},
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
