"""Run folders of training stages: tiny real ones, and the same files written by hand where only these matter."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from agevlm.checkpoints.tiny import AgeVlmShape, build_age_vlm
from agevlm.cli import train_main

STAGE = """
name: guide
arm: age-vlm
stage: 1
follows: [0]
init_from: {root}/stage-0
out: {root}/run
fusion: cross
trainable:
  cross: {{modules: [model.language_model.layers.1, model.language_model.layers.4], lr: 1e-2}}
  gates: {{modules: [model.language_model.layers.*.attn_gate], lr: 1e-2}}
sources:
  - kind: llava
    options: {{path: {root}/data.jsonl, images: {root}}}
steps: 3
batch_size: 2
micro_batch_size: 2
regions: {{share: 1.0}}
guidance: {{weight: 1.0}}
save_every: 2
log_every: 1
"""
QUESTION = "<image>\nIs there a red ball?"


def train(root: Path, *arguments: str) -> int:
    """`agevlm-train run` on the stage below `root`, in this process."""
    with patch.object(sys, "argv", ["agevlm-train", *arguments]):
        try:
            train_main()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def make_stage(root: Path) -> None:
    """An untrained model, six pictures with a region each, and a stage."""
    build_age_vlm(root / "stage-0", shape=AgeVlmShape())
    draw, lines = np.random.default_rng(0), []
    for i in range(6):
        pixels = draw.integers(90, 160, (48, 48, 3), dtype=np.uint8)
        x = int(draw.integers(0, 20))
        pixels[10:24, x : x + 12] = (220, 20, 20)
        Image.fromarray(pixels).save(root / f"{i}.png")
        turns = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": "Yes, there is."}]
        start = QUESTION.index("red ball")
        region = [[x, 10, x + 12, 10, x + 12, 24, x, 24]]
        phrases = [{"message": 0, "start": start, "end": start + 8, "segmentation": region}]
        lines.append(json.dumps({"id": f"s{i}", "image": f"{i}.png", "conversations": turns, "phrases": phrases}))
    (root / "data.jsonl").write_text("\n".join(lines))
    (root / "stage.yaml").write_text(STAGE.format(root=root))


def written(
    folder: Path,
    seed: int = 0,
    *,
    steps: int = 10,
    done: int | None = None,
    loss: float = 1.0,
    before: Sequence[dict[str, Any]] = (),
    log: str | None = None,
    **settings: Any,
) -> Path:
    """The files of a run that a table reads, with the weights that are its own: some bytes."""
    folder.mkdir(parents=True)
    spec: dict[str, Any] = {
        "name": "guide",
        "arm": "age-vlm",
        "stage": 3,
        "steps": steps,
        "init_from": str(folder.parent / "nowhere"),
        "out": str(folder),
        "seed": seed,
        "data_seed": seed,
        "log_every": 5,
        "sources": [{"kind": "llava", "weight": 1.0, "options": {"path": f"/somewhere/{folder.name}.jsonl"}}],
        "guidance": {"weight": 1.0, "form": "squared"},
    }
    spec |= settings
    identity = {
        "agevlm": "0",
        "spec": spec,
        "spec_hash": f"hash of {json.dumps({k: v for k, v in spec.items() if k != 'out'}, sort_keys=True)}",
        "init_from": spec["init_from"],
        "base": f"base {seed}",
        "data": [["toys", "0123456789abcdef", 23]],
    }
    (folder / "run.json").write_text(json.dumps(identity))
    done = steps if done is None else done
    rows = [
        {"step": step, "loss/text": loss + (done - step), "attention/iou": loss / 4} for step in (5, 10) if step <= done
    ]
    (folder / "log.jsonl").write_text(log if log is not None else "".join(json.dumps(row) + "\n" for row in rows))
    if done == steps:
        model(folder / "model", identity, done, before)
    else:
        (folder / "checkpoints" / f"step-{done:08d}").mkdir(parents=True)
    return folder


def model(folder: Path, identity: dict[str, Any], steps: int, before: Sequence[dict[str, Any]] = ()) -> Path:
    """A model of a run after so many steps."""
    folder.mkdir()
    spec = identity["spec"]
    record = {name: spec[name] for name in ("arm", "stage", "name", "seed", "data_seed")}
    record |= {name: identity[name] for name in ("spec_hash", "base", "data", "init_from")}
    record |= {"steps": steps, "lineage": list(before)}
    (folder / "training.json").write_text(json.dumps(record))
    (folder / "config.json").write_text(json.dumps({"mask_padding": False}))
    (folder / "model.safetensors").write_bytes(f"{spec} {steps}".encode())
    return folder
