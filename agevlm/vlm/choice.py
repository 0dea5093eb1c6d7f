"""One selector names any model: `--ckpt scenes/NAME | FOLDER | ORG/NAME[@REVISION]`; more kinds as adapters arrive."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agevlm.data.checkpoint_files import SCENES
from agevlm.errors import CheckpointError
from agevlm.vlm.contract import Fingerprint, Vlm

SMALL = 20_000_000
"""Parameters."""
LATER = {"openai:": "served models", "lmms:": "lmms-eval models"}


@dataclass(frozen=True)
class ModelChoice:
    """A model as the user named it, with how to run it. Nothing is loaded until `load`."""

    name: str
    dtype: str = "float32"
    device: str = "auto"
    batch_size: int = 32
    chat_template: str | None = None

    def __post_init__(self) -> None:
        for prefix, what in LATER.items():
            if self.name.startswith(prefix):
                raise CheckpointError(
                    f"--ckpt {self.name}: {what} are not available in this release; give a folder or hub id"
                )

    @property
    def slug(self) -> str:
        """A short name for folders: the last part of the name, with a hash of the whole where it is a path."""
        path = Path(self.name)
        if self.name.startswith(SCENES) or not path.exists():
            return self.name.replace("/", "_")
        return f"{path.resolve().name}.{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:6]}"

    def folder(self) -> Path:
        """The checkpoint's folder on this machine, fetched if it is a hub id. Raises CheckpointError."""
        from agevlm.vlm.hf.checkpoint import find_checkpoint

        return find_checkpoint(self.name).folder

    def fingerprint(self) -> Fingerprint:
        """Content fingerprint, without loading weights. Raises CheckpointError if the checkpoint cannot be used."""
        from agevlm.vlm.hf.checkpoint import find_checkpoint

        return find_checkpoint(self.name).fingerprint(self.dtype, self.chat_template)

    def load(self) -> Vlm:
        """The model, ready to answer. Raises CheckpointError."""
        from agevlm.vlm.hf.session import HfVlm

        vlm = HfVlm.load(
            self.name,
            dtype=self.dtype,
            device=self.device,
            batch_size=self.batch_size,
            chat_template=self.chat_template,
        )
        _suit_threads(vlm.model)
        return vlm


def _suit_threads(model: Any) -> None:
    """One thread for a small model on the CPU, unless OMP_NUM_THREADS says otherwise.

    The threads of a small product wait for each other longer than they work: beside another job a quarter of a minute
    becomes five.
    """
    import torch

    few = sum(parameter.numel() for parameter in model.parameters()) < SMALL
    if few and model.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
