from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agevlm.checkpoints.tiny import AgeVlmShape, build_age_vlm
from agevlm.scenes.types import split_seeds
from agevlm.scenes.world import WORLD_VERSION
from train.scenes.store import SceneStore, _chunk


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 20 test and 20 validation scenes, rendered in this process."""
    folder = tmp_path_factory.mktemp("scenes")
    for split in ("test", "validation"):
        seeds = split_seeds(split, 20)
        images, ids, rows = _chunk(seeds, 96)
        place = folder / f"{split}-20-96px-{WORLD_VERSION}"
        place.mkdir()
        np.save(place / "images.npy", images)
        np.save(place / "ids.npy", ids)
        (place / "scenes.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="session")
def test_store(scenes: Path) -> SceneStore:
    return SceneStore.open(scenes, "test", 20)


@pytest.fixture(scope="session")
def validation_store(scenes: Path) -> SceneStore:
    return SceneStore.open(scenes, "validation", 20)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny random model of either kind."""
    folder = tmp_path_factory.mktemp("checkpoints")
    shapes = {f: AgeVlmShape(fusion=f, text_layers=4, cross_layers=(1, 3)) for f in ("cross", "concat")}
    return {f: build_age_vlm(folder / f, seed=3, shape=shape) for f, shape in shapes.items()}
