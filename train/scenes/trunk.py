"""What stands in for ConvNeXt's pretraining: a small ConvNet learns to see the scenes world, cell by cell.

Exact masks say for each cell of the token grid which categories are in it, and of the object that fills most of it its
colour, its distance, and whether its centre lies there. From image labels
alone the same trunk learns the priors of the settings first and small objects hardly at all.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agevlm.scenes.categories import CATEGORIES, COLOURS
from train.scenes.store import SceneStore

NAMES, COLOUR_NAMES = list(CATEGORIES), list(COLOURS)
MOST = 24
"""Instances of a scene that are told apart; the others count as none."""


@dataclass(frozen=True)
class TrunkRecipe:
    """Architecture and schedule."""

    architecture: str = "agevlm_convnet"
    """Of timm's, ours among them."""
    model_args: Mapping[str, Any] = field(default_factory=lambda: {"stem": 24, "dims": [48, 128], "depths": [1, 3]})
    num_stages: int | None = None
    """Of the architecture's stages; all if None."""
    last_block: str = "stages.1.blocks.2"
    """What stage 2 trains on."""
    side: int = 96
    stride: int = 8
    steps: int = 5000
    batch: int = 32
    lr: float = 3e-3
    weight_decay: float = 0.02
    colour_weight: float = 0.6
    centre_weight: float = 0.5
    depth_weight: float = 0.3


TRUNKS = {
    "convnet": TrunkRecipe(),
    # Two stages of ConvNeXt for the same grid, of about the same size. A step takes twice as long: half as many.
    "convnext": TrunkRecipe(
        "convnext_atto",
        {"dims": [64, 128, 8, 8], "depths": [2, 5, 1, 1], "ls_init_value": None},
        num_stages=2,
        last_block="stages.1.blocks.4",
        steps=2500,
    ),
}
"""Trunks that the recipe can name."""


@dataclass(frozen=True)
class CellTargets:
    """What is true of each cell, (images, cells, ...)."""

    category: Any
    """(images, cells, categories) float: 1 there, 0 not, -1 not decided."""
    present: Any
    """(images, categories) float: of the picture."""
    centre: Any
    """(images, cells, categories) float: 1 where an object's centre lies."""
    thing: Any
    """(images, cells) bool: cells of which an object fills a quarter or more."""
    colour: Any
    """(images, cells) long: of the object that fills most."""
    depth: Any
    """(images, cells) float: logarithm of its distance in metres."""


@dataclass(frozen=True)
class ThingTable:
    """What is true of every instance of every scene, (scenes, MOST)."""

    category: NDArray[np.int64]
    """-1 where there is none."""
    colour: NDArray[np.int64]
    depth: NDArray[np.float32]
    centre: NDArray[np.float32]
    """(scenes, MOST, 2): x, y in pixels of the padded square."""

    @classmethod
    def of(cls, store: SceneStore) -> ThingTable:
        """Read off a store."""
        n = len(store)
        category = np.full((n, MOST), -1)
        colour = np.zeros((n, MOST), np.int64)
        depth, centre = np.ones((n, MOST), np.float32), np.full((n, MOST, 2), -1000.0, np.float32)
        for i, facts in enumerate(store.facts):
            left, top, _, _ = store.box(i)
            for j, thing in enumerate(facts.instances[:MOST]):
                category[i, j] = NAMES.index(thing.category)
                colour[i, j] = COLOUR_NAMES.index(thing.colour)
                depth[i, j] = thing.depth
                centre[i, j] = thing.centre[0] + left, thing.centre[1] + top
        return cls(category, colour, np.log(depth), centre)


def cell_targets(
    ids: NDArray[np.uint8], rows: NDArray[np.int64], table: ThingTable, stride: int, centre: NDArray[np.float32]
) -> CellTargets:
    """Targets of a batch.

    Args:
        ids: (images, side, side) uint8, as they are shown (flipped and shifted, if the picture is).
        rows: (images,) which scenes they are.
        table: of their store.
        stride: pixels of a cell and side.
        centre: (images, MOST, 2): where the objects' centres are, as they are shown.
    """
    import torch

    images, side, _ = ids.shape
    grid = side // stride
    numbers = np.where(ids > MOST, 0, ids).astype(np.int64)
    cells = np.arange(side) // stride
    place = (np.arange(images)[:, None, None] * grid * grid + cells[None, :, None] * grid + cells[None, None, :]) * (
        MOST + 1
    )
    pixels = np.bincount((place + numbers).ravel(), minlength=images * grid * grid * (MOST + 1))
    pixels = pixels.reshape(images, grid * grid, MOST + 1)[:, :, 1:].astype(np.float32)
    kind = table.category[rows]
    one_hot = (kind[:, :, None] == np.arange(len(NAMES))).astype(np.float32)
    coverage = pixels @ one_hot / stride**2
    best = coverage.max(1, keepdims=True)
    positive = (coverage >= 0.25) | ((coverage >= 0.6 * best) & (coverage >= 0.05))
    category = np.where(positive, 1.0, np.where(coverage > 0, -1.0, 0.0))
    visible = coverage.sum(1) * stride**2
    present = np.where(visible >= 14, 1.0, np.where(visible > 0, -1.0, 0.0))
    main = pixels.argmax(2)
    at = np.arange(images)[:, None]
    heat = np.zeros_like(coverage)
    x, y = (np.floor(centre[..., i] / stride).astype(np.int64) for i in (0, 1))
    inside = (kind >= 0) & (x >= 0) & (y >= 0) & (x < grid) & (y < grid)
    image, thing = np.nonzero(inside)
    heat[image, y[image, thing] * grid + x[image, thing], kind[image, thing]] = 1.0

    def as_float(values: NDArray[Any]) -> Any:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32))

    def as_long(values: NDArray[Any]) -> Any:
        return torch.from_numpy(np.ascontiguousarray(values, np.int64))

    return CellTargets(
        as_float(category),
        as_float(present),
        as_float(heat),
        torch.from_numpy(pixels.max(2) >= 0.25 * stride**2),
        as_long(table.colour[rows][at, main]),
        as_float(table.depth[rows][at, main]),
    )


class Reader:
    """Batches of pictures with their targets."""

    def __init__(self, store: SceneStore, stride: int) -> None:
        self.store, self.stride, self.table = store, stride, ThingTable.of(store)

    def batch(self, rows: NDArray[np.int64], draw: np.random.Generator | None = None) -> tuple[Any, CellTargets]:
        """Pixels (images, 3, side, side) float from -1 to 1, and targets; augmented if `draw` is given."""
        import torch

        images, ids = self.store.images[rows].astype(np.float32) / 127.5 - 1.0, np.asarray(self.store.ids[rows])
        centre = self.table.centre[rows].copy()
        if draw is not None:
            images, ids, centre = _augment(images, ids, centre, draw)
        pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        return pixels, cell_targets(ids, rows, self.table, self.stride, centre)


def _augment(
    images: NDArray[np.float32], ids: NDArray[np.uint8], centre: NDArray[np.float32], draw: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]:
    """Mirror half of the batches, shift by up to 8 pixels, change brightness and colour balance a little."""
    side = ids.shape[1]
    if draw.random() < 0.5:
        images, ids = images[:, :, ::-1], ids[:, :, ::-1]
        centre[..., 0] = side - centre[..., 0]
    dx, dy = (int(n) for n in draw.integers(-8, 9, 2))
    moved, moved_ids = np.zeros_like(images), np.zeros_like(ids)
    to = tuple(slice(max(0, d), side + min(0, d)) for d in (dy, dx))
    come = tuple(slice(max(0, -d), side + min(0, -d)) for d in (dy, dx))
    moved[:, to[0], to[1]], moved_ids[:, to[0], to[1]] = images[:, come[0], come[1]], ids[:, come[0], come[1]]
    centre += np.array([dx, dy], np.float32)
    gain = draw.uniform(0.9, 1.1, (len(images), 1, 1, 3)) * draw.uniform(0.85, 1.15, (len(images), 1, 1, 1))
    moved = (moved * gain + draw.uniform(-0.08, 0.08, (len(images), 1, 1, 1))).astype(np.float32)
    return moved, moved_ids, centre


def _heads(width: int) -> Any:
    """Linear readings of a cell: category, centre, colour, depth."""
    import torch

    sizes = {"category": len(NAMES), "centre": len(NAMES), "colour": len(COLOUR_NAMES), "depth": 1}
    heads: Any = torch.nn.ModuleDict({name: torch.nn.Linear(width, size) for name, size in sizes.items()})
    for name in ("category", "centre"):
        torch.nn.init.constant_(heads[name].bias, -4.0)
    return heads


def _loss(heads: Any, tokens: Any, targets: CellTargets, recipe: TrunkRecipe) -> tuple[Any, dict[str, float]]:
    from torch.nn import functional

    def binary(logits: Any, wanted: Any) -> Any:
        each = functional.binary_cross_entropy_with_logits(logits, wanted.clamp(min=0), reduction="none")
        return each * (wanted >= 0)

    tokens = tokens.float()
    category = heads["category"](tokens)
    parts = {
        "cells": binary(category, targets.category).sum() / (targets.category > 0).sum().clamp(min=1),
        "image": 3.0 * binary(category.amax(1), targets.present).mean(),
        "centre": recipe.centre_weight
        * binary(heads["centre"](tokens), targets.centre).sum()
        / targets.centre.sum().clamp(min=1),
    }
    things = tokens[targets.thing]
    if len(things):
        parts["colour"] = recipe.colour_weight * functional.cross_entropy(
            heads["colour"](things), targets.colour[targets.thing]
        )
        off = heads["depth"](things).squeeze(-1) - targets.depth[targets.thing]
        parts["depth"] = recipe.depth_weight * functional.smooth_l1_loss(off, off.new_zeros(()).expand_as(off))
    return sum(parts.values()), {name: float(part.detach()) for name, part in parts.items()}


def pretrain_trunk(
    store: SceneStore,
    held_out: SceneStore,
    out: Path,
    recipe: TrunkRecipe,
    seed: int,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train and save the trunk under `out` (in timm's form); returns how well its heads read held-out scenes."""
    import torch

    from agevlm.model import AgeVlmVisionConfig
    from agevlm.model.vision import AgeVlmVisionModel

    torch.manual_seed(seed)
    config = AgeVlmVisionConfig.from_timm(
        recipe.architecture,
        image_size=recipe.side,
        num_stages=recipe.num_stages,
        model_args=dict(recipe.model_args) or None,
    )
    model = AgeVlmVisionModel(config).to(memory_format=torch.channels_last)
    if recipe.architecture == "agevlm_convnet":
        _start_small(model)
    heads = _heads(config.hidden_size)
    parameters = [*model.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=recipe.lr,
        fused=True,
    )
    warm = max(1, recipe.steps * 6 // 100)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda k: (
            (k + 1) / warm if k < warm else 0.5 * (1 + math.cos(math.pi * (k - warm) / max(1, recipe.steps - warm)))
        ),
    )
    reader, draw = Reader(store, recipe.stride), np.random.default_rng(seed)
    order, started = draw.permutation(len(store)), time.process_time()
    model.train()
    for step in range(recipe.steps):
        if len(order) < recipe.batch:
            order = draw.permutation(len(store))
        rows, order = np.sort(order[: recipe.batch]), order[recipe.batch :]
        pixels, targets = reader.batch(rows, draw)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = model(pixels.to(memory_format=torch.channels_last)).last_hidden_state
        loss, parts = _loss(heads, tokens, targets, recipe)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 2.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            said = ", ".join(f"{name} {value:.3f}" for name, value in parts.items())
            say(f"trunk {step + 1}/{recipe.steps}: {said}, {time.process_time() - started:.0f} CPU s")
    model.eval()
    model.to(memory_format=torch.contiguous_format)
    scores = read_scores(model, heads, Reader(held_out, recipe.stride))
    save_trunk(model, out)
    return scores


def save_trunk(model: Any, out: Path) -> None:
    """In timm's folder form, as `agevlm-train assemble --vision` reads it."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.trunk.state_dict().items()}, out / "model.safetensors")
    half = [0.5, 0.5, 0.5]
    config = {
        "architecture": model.config.architecture,
        "model_args": model.config.model_args,
        "pretrained_cfg": {"mean": half, "std": half},
    }
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def _start_small(model: Any) -> None:
    """Convolutions as He et al. have them; the last norm of each block small, so that it begins near the identity."""
    import torch

    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif name.endswith("norm_2"):
                module.weight.fill_(0.3)


def read_scores(model: Any, heads: Any, reader: Reader) -> dict[str, float]:
    """Mean average precision of presence, and accuracy of colour, error of depth, on object cells."""
    import torch
    from sklearn.metrics import average_precision_score

    wanted, given = [], []
    sums = {"colour": [0.0, 0.0], "depth error": [0.0, 0.0]}
    for at in range(0, len(reader.store), 50):
        rows = np.arange(at, min(at + 50, len(reader.store)))
        pixels, targets = reader.batch(rows)
        with torch.no_grad():
            tokens = model(pixels).last_hidden_state
            given.append(heads["category"](tokens).amax(1).numpy())
            wanted.append(targets.present.numpy())
            things = tokens[targets.thing]
            for name, found in (
                ("colour", (heads["colour"](things).argmax(-1) == targets.colour[targets.thing]).float()),
                ("depth error", (heads["depth"](things).squeeze(-1) - targets.depth[targets.thing]).abs()),
            ):
                sums[name][0] += float(found.sum())
                sums[name][1] += len(found)
    truth, scores = np.concatenate(wanted), np.concatenate(given)
    precision = [
        average_precision_score(truth[truth[:, i] >= 0, i], scores[truth[:, i] >= 0, i])
        for i in range(len(NAMES))
        if (truth[:, i] > 0).any()
    ]
    return {"mAP": float(np.mean(precision)), **{name: a / max(b, 1.0) for name, (a, b) in sums.items()}}
