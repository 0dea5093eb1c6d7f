"""The machine that the figures were taken on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agevlm.vlm.hf.session import HfVlm

PACKAGES = ("agevlm", "torch", "transformers", "tokenizers", "numpy", "pillow")


def describe_machine(vlm: HfVlm | None, threads: int) -> dict[str, Any]:
    """What the figures were taken on, and the model if there was one."""
    machine = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "packages": {p: metadata.version(p) for p in PACKAGES},
    }
    if vlm is None:
        return machine
    import torch

    device = vlm.model.device
    return {
        **machine,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "dtype": str(vlm.model.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in vlm.model.parameters()),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
