"""One selector names any model: `--ckpt scenes/NAME | FOLDER | ORG/NAME[@REVISION]`, or one of `ADAPTERS`' prefixes."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agevlm.data.checkpoint_files import SCENES
from agevlm.terminal import chat_template_text
from agevlm.vlm.contract import Fingerprint, Vlm

SMALL = 20_000_000
"""Parameters."""
ADAPTERS = {"openai:": "agevlm.vlm.served.session", "lmms:": "agevlm.vlm.peer.session"}
"""Prefix of a name -> module with `fingerprint(choice)` and `load(choice)` for such models; imported when used."""


@dataclass(frozen=True)
class ModelChoice:
    """A model as the user named it, with how to run it. Nothing is loaded until `load`."""

    name: str
    dtype: str = "float32"
    device: str = "auto"
    batch_size: int | None = None
    """Most question suffixes in one pass; None begins large and finds out."""
    chat_template: str | None = None
    device_map: str | None = None
    """"auto" (or another of transformers' ways) spreads one model over all devices, then host memory, then disk."""
    concurrency: int = 32
    """Most requests under way to a served model."""
    timeout: float = 120.0
    """Seconds that a served model may take for a request."""

    @staticmethod
    def of(options: Mapping[str, Any]) -> ModelChoice:
        """The model that a command's options name: `ckpt`, and those of `agevlm.terminal.MODEL` that the command has.

        Raises:
            DataError: the file of `chat_template` cannot be read.
        """
        same = ("dtype", "device", "batch_size", "device_map", "concurrency", "timeout")
        given = {name: options[name] for name in same if name in options}
        return ModelChoice(options["ckpt"], chat_template=chat_template_text(options["chat_template"]), **given)

    @staticmethod
    def several(options: Mapping[str, Any]) -> tuple[ModelChoice, ...]:
        """The models that a command's options name with `ckpts`, all run alike. Raises as `of`."""
        return tuple(ModelChoice.of({**options, "ckpt": name}) for name in options["ckpts"])

    @property
    def adapter(self) -> str | None:
        """The prefix of the model's name that says what runs it; None for a transformers checkpoint."""
        return next((prefix for prefix in ADAPTERS if self.name.startswith(prefix)), None)

    @property
    def slug(self) -> str:
        """A short name for folders: the last part of the name, with a hash of the whole where it is a path."""
        path = Path(self.name)
        if self.name.startswith(SCENES) or self.adapter is not None or not path.exists():
            return re.sub(r"[^\w.@-]+", "_", self.name)
        return f"{path.resolve().name}.{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:6]}"

    def folder(self) -> Path | None:
        """The checkpoint's folder on this machine, fetched if it is a hub id; None where there is none to look into.

        Raises:
            CheckpointError: no such checkpoint.
        """
        if self.adapter is not None:
            return None
        from agevlm.vlm.hf.checkpoint import find_checkpoint

        return find_checkpoint(self.name).folder

    def fingerprint(self) -> Fingerprint:
        """Content fingerprint, without loading weights. Raises CheckpointError if the checkpoint cannot be used."""
        if self.adapter is not None:
            found: Fingerprint = importlib.import_module(ADAPTERS[self.adapter]).fingerprint(self)
            return found
        from agevlm.vlm.hf.checkpoint import find_checkpoint

        return find_checkpoint(self.name).fingerprint(self.dtype, self.chat_template)

    def load(self) -> Vlm:
        """The model, ready to answer. Raises CheckpointError."""
        if self.adapter is not None:
            loaded: Vlm = importlib.import_module(ADAPTERS[self.adapter]).load(self)
            return loaded
        from agevlm.vlm.hf.session import HfVlm

        vlm = HfVlm.load(
            self.name,
            dtype=self.dtype,
            device=self.device,
            batch_size=self.batch_size,
            chat_template=self.chat_template,
            device_map=self.device_map,
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
