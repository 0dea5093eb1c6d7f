"""Finding, checking and loading transformers checkpoints. Imports torch and transformers only while loading."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agevlm.errors import CheckpointError
from agevlm.vlm.contract import Fingerprint
from agevlm.vlm.fingerprint import HashCache, fingerprint_folder
from agevlm.vlm.hf.families import family_class

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt")


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
        return sum(p.stat().st_size for p in self.folder.glob("*.safetensors"))


def find_checkpoint(name: str) -> Checkpoint:
    """A local folder, or a hub id (`org/name` or `org/name@revision`) that is fetched without any pickled file.

    Raises:
        CheckpointError: no such folder, no configuration, a model type that no family handles, no or only pickled
            weights, a missing shard, or the hub cannot be reached.
    """
    folder = Path(name).expanduser()
    if not folder.exists():
        folder = _fetch(name)
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint {name}: is a file; give the folder that holds config.json and *.safetensors")
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise CheckpointError(
            f"checkpoint {name}: no config.json in {folder}; is this a transformers checkpoint folder?"
        )
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {name}: cannot read {config_file}: {error}") from None
    if not isinstance(config, dict) or not config.get("model_type"):
        raise CheckpointError(f"checkpoint {name}: {config_file} names no model_type")
    try:
        family_class(config)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {name}: {error}") from None
    _check_weights(name, folder)
    return Checkpoint(name, folder, config)


def _check_weights(name: str, folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text())["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"checkpoint {name}: cannot read {index}: {error!r}") from None
        missing = sorted(s for s in shards if not (folder / s).is_file())
        if missing:
            raise CheckpointError(
                f"checkpoint {name}: {len(missing)} of {len(shards)} weight files are missing, first {missing[0]}; "
                "fetch the checkpoint again"
            )
        return
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickled:
        raise CheckpointError(
            f"checkpoint {name}: its weights are pickled ({pickled[0]}), and loading a pickle can run any code: "
            "refused. Convert it to safetensors (model.save_pretrained writes them) and give that folder"
        )
    raise CheckpointError(f"checkpoint {name}: no weights (*.safetensors) in {folder}; pickled ones are never used")


def _fetch(name: str) -> Path:
    repository, _, revision = name.partition("@")
    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        raise CheckpointError(f"checkpoint {name}: no such folder, and not a hub id (org/name)")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(HUB_FILES)))
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"checkpoint {name}: no such folder, and the hub did not give it ({type(error).__name__}: {first}). "
            "Offline, give the path of a downloaded checkpoint folder"
        ) from None


def load(checkpoint: Checkpoint, *, dtype: str, device: str, chat_template: str | None) -> tuple[Any, Any]:
    """Load model and processor.

    Returns:
        The model in eval mode on `device` and its processor.

    Raises:
        CheckpointError: damaged, missing or unexpected weights, no processor, no chat template, no such device, or
            the model does not fit on it.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()
    target = _device(device, torch)
    name = checkpoint.name
    try:
        model, info = AutoModelForImageTextToText.from_pretrained(
            checkpoint.folder, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True
        )
    except Exception as error:
        raise CheckpointError(
            f"checkpoint {name}: cannot load: {type(error).__name__}: {_first_line(error)}"
        ) from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        keys = sorted(map(str, info.get(kind) or []))
        if keys:
            # transformers only warns, and missing weights are then random: every score would be meaningless.
            raise CheckpointError(
                f"checkpoint {name}: {len(keys)} {kind.replace('_', ' ')} in the weights, first {keys[0]}; "
                "the files do not belong to this config.json"
            )
    try:
        processor = AutoProcessor.from_pretrained(checkpoint.folder)
    except Exception as error:
        raise CheckpointError(f"checkpoint {name}: cannot load its processor: {_first_line(error)}") from error
    lacking = [part for part in ("image_processor", "tokenizer", "image_token") if not hasattr(processor, part)]
    if lacking:
        # Without a processor's files transformers hands out the bare tokenizer or image processor.
        raise CheckpointError(
            f"checkpoint {name}: has no complete processor ({type(processor).__name__} lacks {', '.join(lacking)}); "
            "fetch preprocessor_config.json, processor_config.json and the tokenizer files"
        )
    if chat_template is not None:
        processor.chat_template = chat_template
    if not getattr(processor, "chat_template", None):
        raise CheckpointError(f"checkpoint {name}: has no chat template; give one with --chat-template FILE")
    try:
        return model.to(target).eval(), processor
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {name}: cannot move to device {target}: {_first_line(error)}") from error


def _device(name: str, torch: Any) -> torch.device:
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
