"""Folders of pretrained weights, on disk or on the hub: what is in them is found and checked before anything loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agevlm.errors import CheckpointError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt")
"""What is fetched from the hub: never a pickle, nor code."""
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
EMBEDDED = Path(__file__).parents[1] / "checkpoints"
SCENES = "scenes/"
"""Names that begin so are trained checkpoints that come with the package; a folder of that name is `./scenes/...`."""


def find_folder(name: str, where: str) -> Path:
    """A checkpoint that comes with the package (`scenes/NAME`), a local folder, or a hub id (`org/name`,
    `org/name@revision`) that is fetched without any pickled file.

    Args:
        name: as the user gave it.
        where: begins every message, "checkpoint NAME" for example.

    Raises:
        CheckpointError: no such folder, or a file, or the hub cannot be reached.
    """
    if name.startswith(SCENES):
        return _embedded(name, where)
    folder = Path(name).expanduser()
    if not folder.exists():
        return _fetch(name, where)
    if not folder.is_dir():
        raise CheckpointError(f"{where}: is a file; give the folder that holds config.json and *.safetensors")
    return folder


def embedded_names() -> list[str]:
    """Names of the checkpoints that come with the package."""
    return sorted(f"{SCENES}{path.parent.name}" for path in (EMBEDDED / SCENES).glob("*/config.json"))


def _embedded(name: str, where: str) -> Path:
    if name not in embedded_names():
        raise CheckpointError(
            f"{where}: no such checkpoint comes with this package; it has {', '.join(embedded_names()) or 'none'} "
            f"(for a folder of your own give ./{name})"
        )
    return EMBEDDED / name


def read_config(folder: Path, where: str) -> dict[str, Any]:
    """The folder's config.json.

    Raises:
        CheckpointError: it is missing or no JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{where}: no config.json in {folder}; is this a checkpoint folder?")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{where}: cannot read {path}: {error}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{where}: {path} holds no JSON object")
    return config


def check_weights(folder: Path, where: str) -> dict[str, str]:
    """See that the folder has safetensors weights, and all of them.

    Returns:
        Weight name -> file name as the index of a sharded checkpoint has it; empty without an index.

    Raises:
        CheckpointError: no weights, pickled ones only, a missing shard, or an index that cannot be read.
    """
    index = folder / INDEX
    if index.is_file():
        try:
            places = dict(json.loads(index.read_text())["weight_map"])
            shards = set(places.values())
            if not all(isinstance(shard, str) for shard in shards):
                raise TypeError("weight_map must name files")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{where}: cannot read {index}: {error!r}") from None
        missing = sorted(s for s in shards if not (folder / s).is_file())
        if missing:
            raise CheckpointError(
                f"{where}: {len(missing)} of {len(shards)} weight files are missing, first {missing[0]}; "
                "fetch the checkpoint again"
            )
        return places
    if any(folder.glob("*.safetensors")):
        return {}
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickled:
        raise CheckpointError(
            f"{where}: its weights are pickled ({pickled[0]}), and loading a pickle can run any code: "
            "refused. Convert it to safetensors (model.save_pretrained writes them) and give that folder"
        )
    raise CheckpointError(f"{where}: no weights (*.safetensors) in {folder}; pickled ones are never used")


def _fetch(name: str, where: str) -> Path:
    repository, _, revision = name.partition("@")
    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        raise CheckpointError(f"{where}: no such folder, and not a hub id (org/name)")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(HUB_FILES)))
    except Exception as error:
        raise CheckpointError(
            f"{where}: no such folder, and the hub did not give it ({type(error).__name__}: {one_line(error)}). "
            "Offline, give the path of a downloaded checkpoint folder"
        ) from None


def one_line(error: BaseException) -> str:
    """What an exception says, in one line of bounded length."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= 400 else said[:400] + " ..."
