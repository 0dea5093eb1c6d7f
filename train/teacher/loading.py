"""What the teacher's models share on their way in: which folder, which hash, which arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agevlm.data.checkpoint_files import check_weights, find_folder, read_config
from agevlm.errors import CheckpointError, TrainError
from agevlm.vlm.fingerprint import HashCache, fingerprint_folder
from agevlm.vlm.hf.checkpoint import DTYPES

if TYPE_CHECKING:
    import torch

DIGITS = 16
"""Hexadecimal digits of a hash in a version."""


def find_model(name: str, where: str, model_types: Sequence[str]) -> Path:
    """The folder of a transformers checkpoint of one of these model types.

    Args:
        name: a local folder, or a hub id (`org/name`, `org/name@revision`), which is fetched without pickles.
        where: begins every message, "detector NAME" for example.
        model_types: as config.json names them.

    Raises:
        CheckpointError: no such folder, another model type, or no safetensors weights.
    """
    folder = find_folder(name, where)
    found = read_config(folder, where).get("model_type")
    if found not in model_types:
        raise CheckpointError(
            f"{where}: its config.json says model_type {found!r}; give a checkpoint of {' or '.join(model_types)}"
        )
    check_weights(folder, where)
    return folder


def content_of(folder: Path, cache: HashCache | None = None) -> str:
    """Hash of all files of a folder that can change what its model finds."""
    return fingerprint_folder(folder, {}, cache).digest[:DIGITS]


def check_settings(where: str, dtype: str, batch_size: int) -> None:
    """Raise TrainError for a dtype that is not offered, or a batch of nothing."""
    if dtype not in DTYPES:
        raise TrainError(f"{where}: dtype {dtype!r} is unknown; give one of {', '.join(DTYPES)}")
    if batch_size < 1:
        raise TrainError(f"{where}: a batch size of {batch_size}; give 1 or more")


def arithmetic(device: torch.device, dtype: str) -> torch.autocast:
    """A context in which matrix products are computed in `dtype`; the weights stay float32."""
    import torch

    return torch.autocast(device.type, getattr(torch, dtype), enabled=dtype != "float32")
