"""Pretrained parts that an AGE-VLM is put together from: a LLaMA and a ConvNeXt. Safetensors only."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from transformers import LlamaConfig

from agevlm.data.checkpoint_files import PICKLES, WEIGHTS, check_weights, find_folder, one_line, read_config
from agevlm.errors import CheckpointError

RANDOM = "random"
DEFAULT_ARCHITECTURE = "convnext_large_mlp"
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Dtypes that weights may have, by their names in safetensors files."""
NOT_THE_TRUNKS = ("num_classes", "global_pool", "in_chans")
"""What timm writes among model_args that says nothing of the trunk, which has no classifier and takes RGB."""


COUNTER = ".num_batches_tracked"
"""How many batches a batch norm has seen: the one whole number among weights."""


class WeightFiles:
    """Weights in safetensors files: names, shapes and dtypes at once, values when they are asked for.

    Args:
        files: where the weights are.
        where: begins every message.

    Raises:
        CheckpointError: a damaged file, or weights that are no plain floating-point numbers.
    """

    def __init__(self, files: list[Path], where: str) -> None:
        self.where = where
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self._handles: dict[str, Any] = {}
        for path in files:
            try:
                handle = safe_open(path, framework="pt")
                described = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 (no mapping)
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{where}: cannot read {path}: {error}; fetch it again") from None
            for name, described_weight in described.items():
                stored = described_weight.get_dtype()
                if stored == "I64" and name.endswith(COUNTER):
                    self.shapes[name], self.dtypes[name] = (), torch.int64
                    self._handles[name] = handle
                    continue
                if stored not in FLOATS:
                    raise CheckpointError(
                        f"{where}: {name} is stored as {stored}; quantised weights cannot be trained on: give the "
                        "checkpoint in bfloat16, float16 or float32"
                    )
                self.shapes[name] = tuple(described_weight.get_shape())
                self.dtypes[name] = getattr(torch, FLOATS[stored])
                self._handles[name] = handle

    def read(self, name: str) -> torch.Tensor:
        """A weight as it is stored; its memory is the file's own until it is written to."""
        tensor: torch.Tensor = self._handles[name].get_tensor(name)
        return tensor

    def check(
        self,
        wanted: Mapping[str, tuple[int, ...]],
        made_by: str,
        hint: str,
        may_drop: Callable[[str], bool],
    ) -> None:
        """See that these weights, in these shapes, are there, and no others.

        Args:
            wanted: name -> shape.
            made_by: what the shapes follow from, for the message.
            hint: what to do about a wrong shape.
            may_drop: says of a name that is not wanted if it may be left out.

        Raises:
            CheckpointError: naming the first weight that is missing, unexpected or of another shape.
        """
        missing = sorted(wanted.keys() - self.shapes.keys())
        unexpected = sorted(name for name in self.shapes.keys() - wanted.keys() if not may_drop(name))
        for kind, names in (("missing", missing), ("unexpected", unexpected)):
            if names:
                raise CheckpointError(
                    f"{self.where}: {len(names)} weights are {kind}, first {names[0]}; {made_by} has "
                    f"{len(wanted)} weights. Are these files its own?"
                )
        for name, shape in wanted.items():
            if self.shapes[name] != shape:
                raise CheckpointError(
                    f"{self.where}: {name} has shape {self.shapes[name]}, but {made_by} needs {shape}: {hint}"
                )


@dataclass(frozen=True)
class LlamaSource:
    """A LLaMA checkpoint folder, checked but not loaded."""

    where: str
    """Begins messages about it."""
    folder: Path
    config: LlamaConfig
    weights: WeightFiles
    dtype: torch.dtype
    """What its config.json says, or else what its embeddings are stored in: what transformers would load it in."""

    @property
    def stores_head(self) -> bool:
        """Whether the files hold a language head, tied or not."""
        return "lm_head.weight" in self.weights.shapes


@dataclass(frozen=True)
class VisionSource:
    """A ConvNeXt of timm's, checked but not loaded."""

    where: str
    """Begins messages about it."""
    architecture: str
    """timm's name without a tag."""
    model_args: dict[str, Any] | None
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    weights: WeightFiles | None
    """None: to be drawn at random."""


def find_llama(name: str) -> LlamaSource:
    """A LLaMA by folder or hub id (fetched without pickles).

    Raises:
        CheckpointError: not there, not a LLaMA, quantised, pickled or damaged.
    """
    where = f"LLaMA {name}"
    folder = find_folder(name, where)
    declared = read_config(folder, where)
    if declared.get("model_type") != "llama":
        raise CheckpointError(
            f"{where}: its config.json says model_type {declared.get('model_type')!r}; AGE-VLM is built on a LLaMA "
            "(model_type 'llama')"
        )
    if declared.get("quantization_config"):
        raise CheckpointError(f"{where}: it is quantised; give the checkpoint in bfloat16, float16 or float32")
    try:
        config = LlamaConfig.from_pretrained(folder)
    except Exception as error:
        raise CheckpointError(f"{where}: transformers cannot read its config.json: {one_line(error)}") from None
    weights = WeightFiles(_weight_files(folder, where), where)
    stored = weights.dtypes.get("model.embed_tokens.weight", torch.float32)
    dtype = config.dtype if isinstance(config.dtype, torch.dtype) else getattr(torch, str(config.dtype), stored)
    return LlamaSource(where, folder, config, weights, dtype)


def find_vision(
    name: str, architecture: str | None = None, known: tuple[str, dict[str, Any] | None] | None = None
) -> VisionSource:
    """A ConvNeXt by timm's folder form, bare file, hub id, timm's name, or `random`.

    Args:
        name: as the user gave it.
        architecture: timm's name for it, with or without a pretrained tag; needed for a bare file. Its image mean and
            std are those of that tag (or timm's first one for the architecture).
        known: architecture and model_args that a configuration already says, used where nothing else does.

    Raises:
        CheckpointError: not there, not timm's form, pickled, damaged, or an architecture that timm does not know.
    """
    where = f"vision {name}"
    path = Path(name).expanduser()
    if name == RANDOM:
        return _by_architecture(where, architecture, known or (DEFAULT_ARCHITECTURE, None), None)
    if path.is_file():
        if path.suffix in PICKLES:
            raise CheckpointError(
                f"{where}: is a pickle, and loading one can run any code: refused. Convert it to safetensors "
                "(safetensors.torch.save_file(state_dict, path))"
            )
        if architecture is None and known is None:
            raise CheckpointError(
                f"{where}: a bare weight file does not say what it belongs to: name timm's model with --architecture "
                f"({DEFAULT_ARCHITECTURE}, say), with its pretrained tag if it has one"
            )
        return _by_architecture(where, architecture, known, WeightFiles([path], where))
    if not path.exists() and "/" not in name:
        name = _hub_id(name, where)
    return _from_folder(find_folder(name, where), where, architecture)


def _weight_files(folder: Path, where: str) -> list[Path]:
    shards = check_weights(folder, where)
    if not shards and not (folder / WEIGHTS).is_file():
        found = sorted(p.name for p in folder.glob("*.safetensors"))
        raise CheckpointError(
            f"{where}: {folder} has no {WEIGHTS} and no index of shards, only {', '.join(found)}; rename it if these "
            "are the weights"
        )
    return [folder / name for name in sorted(set(shards.values()) or {WEIGHTS})]


def _by_architecture(
    where: str,
    given: str | None,
    known: tuple[str, dict[str, Any] | None] | None,
    weights: WeightFiles | None,
) -> VisionSource:
    """Mean and std are timm's for the architecture; arguments come from a configuration of the same architecture."""
    name = given or (known[0] if known else DEFAULT_ARCHITECTURE)
    config = _pretrained_config(name, where)
    architecture = name.partition(".")[0]
    model_args = known[1] if known and known[0] == architecture else None
    return VisionSource(where, architecture, model_args, _three(config.mean, where), _three(config.std, where), weights)


def _pretrained_config(name: str, where: str) -> Any:
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        close = ", ".join(timm.list_models(f"*{architecture[:8]}*")[:5])
        raise CheckpointError(
            f"{where}: timm has no model {architecture!r}" + (f"; it has {close}, ..." if close else "")
        )
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:
        config = None
    if config is None:
        tags = ", ".join(timm.list_pretrained(f"{architecture}.*")[:5])
        raise CheckpointError(f"{where}: timm knows no pretrained {name!r}; it knows {tags or 'none'}")
    return config


def _hub_id(name: str, where: str) -> str:
    """Where on the hub timm has these weights; they are fetched from there as any folder is, without pickles."""
    if not timm.is_model(name.partition(".")[0]):
        raise CheckpointError(
            f"{where}: no such folder or file, not a hub id (org/name), and timm has no model of that name"
        )
    address = _pretrained_config(name, where).hf_hub_id
    if not address:
        raise CheckpointError(f"{where}: timm has these weights as a pickle only; give a folder or .safetensors file")
    return str(address)


def _from_folder(folder: Path, where: str, architecture: str | None) -> VisionSource:
    config = read_config(folder, where)
    declared = config.get("architecture")
    if not isinstance(declared, str):
        raise CheckpointError(
            f"{where}: its config.json names no 'architecture', so this is not timm's form; give a folder that timm "
            "saved (timm.models.save_for_hf), or a .safetensors file in timm's key names with --architecture"
        )
    declared = declared.partition(".")[0]
    if architecture is not None and architecture.partition(".")[0] != declared:
        raise CheckpointError(f"{where}: its config.json says {declared}, but --architecture says {architecture}")
    # Older folders hold what is now pretrained_cfg at the top.
    pretrained = config.get("pretrained_cfg", config)
    arguments = {k: v for k, v in (config.get("model_args") or {}).items() if k not in NOT_THE_TRUNKS}
    weights = WeightFiles(_weight_files(folder, where), where)
    mean, std = (_three(pretrained.get(key), where) for key in ("mean", "std"))
    return VisionSource(where, declared, arguments or None, mean, std, weights)


def _three(values: Any, where: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(v) for v in values)
    except (TypeError, ValueError):
        raise CheckpointError(
            f"{where}: its config.json names no mean and std of three numbers each (pretrained_cfg); add them, since a "
            "ConvNeXt fed otherwise than it was trained sees badly"
        ) from None
    return red, green, blue


def dropped_of_vision(num_stages: int | None) -> Callable[[str], bool]:
    """Says of a timm weight that the trunk lacks if it is one of those left out on purpose.

    The classifier and, where stages are cut off, these and the norm after them.
    """

    def may_drop(name: str) -> bool:
        if name.startswith("head."):
            return True
        if num_stages is None:
            return False
        stage = re.match(r"stages\.(\d+)\.", name)
        return name.startswith("norm_pre.") or (stage is not None and int(stage[1]) >= num_stages)

    return may_drop
