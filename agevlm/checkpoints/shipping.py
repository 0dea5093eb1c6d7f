"""Putting trained checkpoints into the package: half precision, what they have in common stored once.

A shipped checkpoint is a plain transformers folder. Its index names weight files beside the folder (`../NAME`), which
transformers reads like any other shard; nothing of ours is needed to load it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agevlm.appearing import folder_appears
from agevlm.data.checkpoint_files import INDEX, WEIGHTS, check_weights

KEPT = ("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json",
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "training.json")  # fmt: skip
OWN = "own.safetensors"
"""Not model.safetensors: where that is, transformers never looks at an index."""
LIMIT = 24 * 2**20
"""Bytes of all weights together."""


def ship(models: Mapping[str, Path], out: Path, cards: Mapping[str, str]) -> dict[str, int]:
    """Write checkpoints under `out`, sharing tensors that are equal bit for bit once halved.

    Args:
        models: trained checkpoint folders by the name they get.
        out: the folder of shipped checkpoints; what is there is replaced.
        cards: text of each one's README.md.

    Returns:
        Bytes of each weight file, by its path under `out`.

    Raises:
        ValueError: together they are larger than `LIMIT`; what was there stays.
    """
    from safetensors.torch import save_file

    tensors = {name: _halved(folder) for name, folder in models.items()}
    owners: dict[tuple[str, str], list[str]] = {}
    for name, held in tensors.items():
        for key, tensor in held.items():
            owners.setdefault((key, _digest(tensor)), []).append(name)
    files: dict[str, dict[str, Any]] = {}
    places: dict[str, dict[str, str]] = {name: {} for name in models}
    for (key, _), names in owners.items():
        # One file for each group of checkpoints that share: transformers reads whole files.
        alone = len(names) == 1
        file = f"{names[0]}/{OWN}" if alone else f"shared-by-{'-and-'.join(names)}.safetensors"
        files.setdefault(file, {})[key] = tensors[names[0]][key]
        for name in names:
            places[name][key] = OWN if alone else f"../{file}"
    with folder_appears(out) as hidden:
        for name, folder in models.items():
            (hidden / name).mkdir(parents=True)
            for kept in KEPT:
                if (folder / kept).is_file():
                    shutil.copyfile(folder / kept, hidden / name / kept)
            _forget_places(hidden / name / "training.json")
            total = sum(t.numel() * t.element_size() for t in tensors[name].values())
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places[name].items()))}
            (hidden / name / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
            (hidden / name / "README.md").write_text(cards[name], encoding="utf-8")
        for file, held in files.items():
            save_file(held, hidden / file, metadata={"format": "pt"})
            (hidden / file).chmod(0o644)
        sizes = {file: (hidden / file).stat().st_size for file in files}
        if sum(sizes.values()) > LIMIT:
            raise ValueError(f"the checkpoints take {sum(sizes.values()):,} bytes, more than {LIMIT:,}")
    return sizes


def _forget_places(record: Path) -> None:
    """Where its stages lay on the machine that trained it is nobody's business."""
    if record.is_file():
        held = json.loads(record.read_text(encoding="utf-8"))
        for stage in (held, *held.get("lineage", [])):
            stage.pop("init_from", None)
        record.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


def _halved(folder: Path) -> dict[str, Any]:
    """A checkpoint's weights in float16; counters and anything that would overflow as they are."""
    import torch
    from safetensors.torch import load_file

    held = {}
    # Not every safetensors file there holds weights: a trained folder has the language check's logits too.
    for file in sorted(set(check_weights(folder, f"checkpoint {folder}").values()) or {WEIGHTS}):
        for key, tensor in load_file(folder / file).items():
            half = tensor.to(torch.float16) if tensor.is_floating_point() else tensor
            held[key] = half.contiguous() if bool(half.isfinite().all()) else tensor.contiguous()
    return held


def _digest(tensor: Any) -> str:
    return f"{tuple(tensor.shape)}{tensor.dtype}" + hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
