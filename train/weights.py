"""A stage's model: loaded so that what trains is float32, and written so that what does not train keeps its bytes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from agevlm.errors import TrainError
from train import state
from train.lineage import RECORD
from train.sharding import blank, fill

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
"""As safetensors calls them."""


def stored_dtypes(folder: Path) -> dict[str, torch.dtype]:
    """Dtype of every weight in a checkpoint folder's safetensors files."""
    found: dict[str, torch.dtype] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no dict)
                found[name] = DTYPES.get(file.get_slice(name).get_dtype(), torch.float32)
    return found


def load(folder: Path, with_weights: bool = True) -> tuple[Any, Any]:
    """A checkpoint's model, in float32, and its processor.

    Args:
        folder: of the checkpoint.
        with_weights: without, its tensors are still to be filled, and take no memory before.

    Raises:
        CheckpointError: it cannot be loaded.
    """
    from transformers.utils import logging

    from agevlm.model import AgeVlmConfig, AgeVlmForConditionalGeneration, AgeVlmProcessor

    logging.disable_progress_bar()
    if with_weights:
        model = AgeVlmForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    else:
        model = blank(AgeVlmConfig.from_pretrained(folder))
        # Untouched memory is none.
        fill(model, {name: torch.empty_like(p, device="cpu") for name, p in model.named_parameters()})
    return model, AgeVlmProcessor.from_pretrained(folder)


def shrink_frozen(model: Any, trained: Collection[str], dtypes: Mapping[str, torch.dtype]) -> None:
    """Keep frozen bfloat16 weights as they are stored, in half the memory. For autocast only.

    They were widened without loss, so nothing is rounded here.
    """
    for name, parameter in model.named_parameters():
        if name not in trained and dtypes.get(name) is torch.bfloat16:
            parameter.data = parameter.data.to(torch.bfloat16)


def write_model(
    target: Path,
    model: Any,
    processor: Any,
    record: Mapping[str, Any],
    dtypes: Mapping[str, torch.dtype],
) -> None:
    """Write a plain transformers folder with its training record; it is there whole or not at all.

    Args:
        target: the folder.
        model: an `AgeVlmForConditionalGeneration`.
        processor: its processor.
        record: for training.json.
        dtypes: of weights that are not to be stored in the dtype they have.

    Raises:
        OSError: no room, or a failing disk.
    """
    tensors: dict[str, torch.Tensor] = {}
    made: dict[int, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        # Tied weights stay one tensor, or they would be written twice.
        wanted = made.get(tensor.data_ptr(), tensor.to(dtypes.get(name, tensor.dtype)))
        tensors[name] = made.setdefault(tensor.data_ptr(), wanted) if tensor.numel() else tensor
    with state.appearing(target, sum(tensor.nbytes for tensor in tensors.values())) as folder:
        model.save_pretrained(folder, state_dict=tensors)
        processor.save_pretrained(folder)
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def export_checkpoint(run: str | Path, step: int | None, out: str | Path, dtype: str | None = None) -> Path:
    """Write a plain transformers folder from a training checkpoint.

    Args:
        run: folder of the stage's run.
        step: which checkpoint; None for the newest.
        out: the new folder.
        dtype: of all weights, e.g. bfloat16; None: trained ones in float32, frozen ones as `init_from` has them.

    Raises:
        TrainError: no such checkpoint, an `out` that exists, or an `init_from` that is gone or has changed.
    """
    from agevlm.vlm.fingerprint import fingerprint_folder

    run, out = Path(run), Path(out)
    found = state.checkpoints(run)
    if not found or (step is not None and step not in found):
        held = f"it has those of steps {', '.join(map(str, found))}" if found else "it has none"
        raise TrainError(f"{run}: no checkpoint{'' if step is None else f' of step {step}'}; {held}")
    if out.exists():
        raise TrainError(f"{out}: exists already; name another folder")
    checkpoint = found[max(found) if step is None else step]
    held_state = state.read_state(checkpoint)
    base = Path(held_state["init_from"])
    if not (base / "config.json").is_file() or fingerprint_folder(base, {}).digest != held_state["base"]:
        raise TrainError(
            f"{checkpoint}: holds trained weights only; {base} with the frozen ones is gone or has changed"
        )
    model, processor = load(base)
    trained = held_state["trained"]
    parameters = {name: p for name, p in model.named_parameters() if name in trained}
    state.put_weights(checkpoint, parameters)
    dtypes = {name: kept for name, kept in stored_dtypes(base).items() if name not in parameters}
    if dtype is not None:
        model, dtypes = model.to(getattr(torch, dtype)), {}
    write_model(out, model, processor, held_state["record"], dtypes)
    return out
