"""Training checkpoints: all that a stage needs to go on, whole or not there at all.

    OUT/checkpoints/step-00000500/
        trainable.safetensors   trained weights, float32; frozen ones are those of the stage's `init_from`
        optimizer.pt            AdamW's state and the random generators', loadable without running any code
        state.json              step, settings, data, counters

Tensors are whole, however many processes trained them, sharded or not; so any number of them goes on from a checkpoint.
It is written to a hidden folder, brought to the disk, and renamed: a kill at any moment leaves the last complete one in
its place.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from agevlm.appearing import folder_appears
from agevlm.errors import TrainError
from train.processes import agree
from train.sharding import gathered, put

FOLDER = "checkpoints"
WEIGHTS, OPTIMIZER, STATE = "trainable.safetensors", "optimizer.pt", "state.json"
_NAME = re.compile(r"step-(\d{8,})")


def checkpoints(out: Path) -> dict[int, Path]:
    """Complete checkpoints of a run folder by their steps, ascending."""
    folder = out / FOLDER
    found = [(m, path) for path in (folder.iterdir() if folder.is_dir() else ()) if (m := _NAME.fullmatch(path.name))]
    return {int(match[1]): path for match, path in sorted(found, key=lambda pair: int(pair[0][1]))}


def latest(out: Path) -> Path | None:
    """The newest complete checkpoint of a run folder."""
    found = checkpoints(out)
    return found[max(found)] if found else None


def clean(out: Path) -> None:
    """Remove what killed writers left. Only for the folder's owner."""
    for folder in (out, out / FOLDER):
        for path in folder.glob(".*.unfinished-*") if folder.is_dir() else ():
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def appearing(target: Path, needed: int = 0) -> Iterator[Path]:
    """`folder_appears`, with what safetensors and torch make of a full disk turned into OSError."""
    try:
        with folder_appears(target, needed) as hidden:
            yield hidden
    except SafetensorError as error:
        # safetensors and torch hide the system's error behind their own.
        raise OSError(errno.ENOSPC if "os error 28" in str(error) else errno.EIO, str(error), str(target)) from error
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
            raise
        raise OSError(errno.ENOSPC, "cannot be written; is the disk full?", str(target)) from error


def save(
    out: Path,
    step: int,
    parameters: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write the checkpoint of a step, then remove all but the newest `keep`.

    All processes call this; the first one gathers whole tensors (12 bytes a trained parameter) and writes.

    Args:
        out: run folder.
        step: steps done.
        parameters: trained weights by name.
        optimizer: whose state goes along.
        state: JSON of everything else.
        keep: checkpoints to keep, at least 1.

    Raises:
        OSError: the disk is full or failing; earlier checkpoints stay.
    """
    weights, stored = gathered(parameters), optimizer.state_dict()
    stored["state"] = {index: gathered(entries) for index, entries in stored["state"].items()}

    def write() -> Path:
        target = out / FOLDER / f"step-{step:08d}"
        # Weights and two moments in float32.
        needed = 12 * sum(weight.numel() for weight in weights.values())
        with appearing(target, needed) as folder:
            save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
            torch.save({"optimizer": stored, "random": _random()}, folder / OPTIMIZER)
            (folder / STATE).write_text(json.dumps({"step": step, **state}, indent=1) + "\n", encoding="utf-8")
        _drop(out, keep)
        return target

    return agree(write)


def _drop(out: Path, keep: int) -> None:
    """Remove all but the newest checkpoints."""
    found = checkpoints(out)
    for old in list(found)[: -max(1, keep)]:
        # Out of sight first: a kill halfway must not leave a part of one under its name.
        gone = found[old].with_name(f".{found[old].name}.unfinished-removed")
        with contextlib.suppress(OSError):
            found[old].rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's state.json. Raises TrainError if it cannot be read."""
    state: dict[str, Any] = _reading(checkpoint, lambda: json.loads((checkpoint / STATE).read_text(encoding="utf-8")))
    return state


def read_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """A checkpoint's trained weights by name. Raises TrainError if they cannot be read."""
    weights: dict[str, torch.Tensor] = _reading(checkpoint, lambda: load_file(checkpoint / WEIGHTS))
    return weights


def restore(
    checkpoint: Path, parameters: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Put a checkpoint's weights, optimiser state and random generators' states back.

    All processes call this, sharded or not; the first one reads.

    Returns:
        The checkpoint's state.json.

    Raises:
        TrainError: it cannot be read, or is of other parameters.
    """
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    weights: dict[str, torch.Tensor] = {}
    moments: dict[int, dict[str, torch.Tensor]] = {}

    def read() -> dict[str, Any]:
        weights.update(_weights_of(checkpoint, parameters))
        # Tensors, numbers and strings alone: nothing in the file can run.
        stored = _reading(checkpoint, lambda: torch.load(checkpoint / OPTIMIZER, map_location="cpu", weights_only=True))
        for index, entries in stored["optimizer"]["state"].items():
            shapes = {tuple(value.shape) for value in entries.values() if value.dim()}
            if index >= len(ordered) or shapes - {tuple(ordered[index].shape)}:
                raise TrainError(f"{checkpoint}: its optimiser state is of other parameters")
            moments[index] = {name: value for name, value in entries.items() if value.dim()}
            stored["optimizer"]["state"][index] = {n: None if v.dim() else v for n, v in entries.items()}
        return {"state": read_state(checkpoint), **stored}

    held = agree(read)
    for name, parameter in parameters.items():
        put(parameter, weights.get(name))
    for index, entries in held["optimizer"]["state"].items():
        for name in [name for name, value in entries.items() if value is None]:
            entries[name] = torch.zeros_like(ordered[index])
            put(entries[name], moments.get(index, {}).get(name))
    try:
        optimizer.load_state_dict(held["optimizer"])
    except ValueError as error:
        raise TrainError(f"{checkpoint}: its optimiser state is of other parameters: {error}") from None
    torch.set_rng_state(held["random"]["cpu"])
    if _cuda() and held["random"]["cuda"]:
        torch.cuda.set_rng_state(held["random"]["cuda"][0])
    state: dict[str, Any] = held["state"]
    return state


def put_weights(checkpoint: Path, parameters: Mapping[str, torch.Tensor]) -> None:
    """Copy a checkpoint's weights into these parameters. Raises TrainError if they are not the same ones."""
    weights = _weights_of(checkpoint, parameters)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def _weights_of(checkpoint: Path, parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A checkpoint's weights, seen to be of these parameters."""
    weights = read_weights(checkpoint)
    if weights.keys() != parameters.keys():
        odd = sorted(weights.keys() ^ parameters.keys())
        raise TrainError(f"{checkpoint}: holds other weights than the stage trains, {odd[0]} for one")
    for name, parameter in parameters.items():
        if parameter.shape != weights[name].shape:
            raise TrainError(f"{checkpoint}: {name} has shape {tuple(weights[name].shape)} there")
    return weights


def _cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _random() -> dict[str, Any]:
    cuda = [torch.cuda.get_rng_state()] if _cuda() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _reading(checkpoint: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:
        raise TrainError(
            f"{checkpoint}: cannot be read ({type(error).__name__}: {error}); remove this folder to go on from the "
            "checkpoint before it"
        ) from error
