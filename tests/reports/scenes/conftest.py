from __future__ import annotations

from pathlib import Path

import pytest

from agevlm.checkpoints.tiny import AgeVlmShape, build_age_vlm
from train.scenes import store as stores
from train.scenes.store import SceneStore


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 20 test and 20 validation scenes, rendered in this process."""
    folder = tmp_path_factory.mktemp("scenes")
    for split in ("test", "validation"):
        seeds = stores.split_seeds(split, 20)
        images, ids, rows = stores._chunk(seeds, 96)
        from agevlm.scenes.world import WORLD_VERSION

        place = folder / f"{split}-20-96px-{WORLD_VERSION}"
        place.mkdir()
        stores.np.save(place / "images.npy", images)
        stores.np.save(place / "ids.npy", ids)
        (place / "scenes.json").write_text(stores.json.dumps(rows))
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
    return {f: build_age_vlm(folder / f, seed=3, shape=AgeVlmShape(fusion=f)) for f in ("cross", "concat")}
