"""Finding, checking and loading transformers checkpoints. Imports torch and transformers only while loading."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agevlm.data.checkpoint_files import check_weights, find_folder, read_config
from agevlm.errors import CheckpointError
from agevlm.vlm.contract import Fingerprint
from agevlm.vlm.fingerprint import HashCache, fingerprint_folder, shared_weights
from agevlm.vlm.hf.table import family_class

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder that has what it takes: a known configuration and safetensors weights."""

    name: str
    """As the user named it."""
    folder: Path
    config: dict[str, Any]

    @property
    def model_type(self) -> str:
        return str(self.config["model_type"])

    def fingerprint(self, dtype: str, chat_template: str | None, cache: HashCache | None = None) -> Fingerprint:
        """Content fingerprint of the checkpoint as it would be loaded."""
        settings = {"dtype": dtype, "quantisation": json.dumps(self.config.get("quantization_config"), sort_keys=True)}
        if chat_template is not None:
            settings["chat_template_given"] = chat_template
        return fingerprint_folder(self.folder, settings, cache)

    def weight_bytes(self) -> int:
        """Total size of the weight files in bytes."""
        shared = (self.folder / name for name in shared_weights(self.folder))
        return sum(p.stat().st_size for p in [*self.folder.glob("*.safetensors"), *shared])


def find_checkpoint(name: str) -> Checkpoint:
    """A local folder, or a hub id (`org/name` or `org/name@revision`) that is fetched without any pickled file.

    Raises:
        CheckpointError: no such folder, no configuration, a model type that no family handles, no or only pickled
            weights, a missing shard, or the hub cannot be reached.
    """
    where = f"checkpoint {name}"
    folder = find_folder(name, where)
    config = read_config(folder, where)
    if not config.get("model_type"):
        raise CheckpointError(f"{where}: {folder / 'config.json'} names no model_type")
    try:
        family_class(config)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None
    check_weights(folder, where)
    return Checkpoint(name, folder, config)


def load(
    checkpoint: Checkpoint, *, dtype: str, device: str, chat_template: str | None, device_map: str | None = None
) -> tuple[Any, Any]:
    """Load model and processor.

    Returns:
        The model in eval mode on `device`, or spread as `device_map` says, and its processor.

    Raises:
        CheckpointError: damaged, missing or unexpected weights, no processor, no chat template, no such device, or
            the model does not fit on it.
    """
    from transformers import AutoModelForImageTextToText

    target = find_device(device)
    name = checkpoint.name
    if device_map is not None and device != "auto":
        raise CheckpointError(f"device {device}: --device-map {device_map} chooses the devices; leave --device out")
    where, parts = f"checkpoint {name}", ("image_processor", "tokenizer", "image_token")
    model, processor = load_pretrained(
        AutoModelForImageTextToText, checkpoint.folder, where, dtype=dtype, parts=parts, device_map=device_map
    )
    if chat_template is not None:
        processor.chat_template = chat_template
    if not getattr(processor, "chat_template", None):
        raise CheckpointError(f"{where}: has no chat template; give one with --chat-template FILE")
    return to_device(model, where, target) if device_map is None else model.eval(), processor


def load_pretrained(
    auto_class: Any, folder: Path, where: str, *, dtype: str, parts: Sequence[str], device_map: str | None = None
) -> tuple[Any, Any]:
    """A folder's model and processor as transformers loads them, from safetensors and with every weight in its place.

    Args:
        auto_class: the class of transformers whose `from_pretrained` loads the model.
        folder: a checkpoint.
        where: begins every message.
        dtype: of the weights.
        parts: attributes that the processor must have.
        device_map: how to spread the model over devices, as transformers takes it.

    Raises:
        CheckpointError: damaged, missing or unexpected weights, or a processor that lacks a part.
    """
    import torch
    from transformers import AutoProcessor
    from transformers.utils import logging

    from agevlm.model.pretrained import refuse_incomplete  # importing it also registers AGE-VLM itself

    logging.disable_progress_bar()
    try:
        model, info = auto_class.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            output_loading_info=True,
            **({} if device_map is None else {"device_map": device_map}),
        )
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{where}: cannot load: {type(error).__name__}: {_first_line(error)}") from error
    refuse_incomplete(info, where)
    try:
        processor = AutoProcessor.from_pretrained(folder)
    except Exception as error:
        raise CheckpointError(f"{where}: cannot load its processor: {_first_line(error)}") from error
    lacking = [part for part in parts if not hasattr(processor, part)]
    if lacking:
        # Without a processor's files transformers hands out the bare tokenizer or image processor.
        raise CheckpointError(
            f"{where}: has no complete processor ({type(processor).__name__} lacks {', '.join(lacking)}); "
            "fetch preprocessor_config.json, processor_config.json and the tokenizer files"
        )
    return model, processor


def to_device(model: Any, where: str, device: torch.device) -> Any:
    """The model on a device, in eval mode. Raises CheckpointError if it does not fit there."""
    try:
        return model.to(device).eval()
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{where}: cannot move to device {device}: {_first_line(error)}") from error


def find_device(name: str) -> torch.device:
    """cpu, cuda, cuda:N, or auto (cuda where there is one). Raises CheckpointError for any other, or one not there."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise CheckpointError(f"device {name}: unknown; give cpu, cuda, cuda:N or auto") from None
    if device.type not in ("cpu", "cuda"):
        raise CheckpointError(f"device {name}: not supported; give cpu, cuda, cuda:N or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CheckpointError(
            f"device {name}: this machine (or this build of torch) has {torch.cuda.device_count()} CUDA devices"
        )
    return device


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
