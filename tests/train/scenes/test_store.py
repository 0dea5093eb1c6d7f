"""Scenes on disk are what `render` gives, and a folder of that name is whole."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from agevlm.scenes.types import split_seeds
from agevlm.scenes.world import WORLD_VERSION
from tests.scenes import longhand
from train.scenes import store as module
from train.scenes.store import SceneStore

COUNT = 30


class InThisProcess:
    """For a pool of processes, whose start takes a second each."""

    def __init__(self, *_args, **_kwargs) -> None: ...

    def __enter__(self):
        return self

    def __exit__(self, *_): ...

    map = staticmethod(map)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(module, "ProcessPoolExecutor", InThisProcess)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def store(root):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 8)
        return SceneStore.open(root, "validation", COUNT, workers=1)


def test_every_scene_is_the_one_of_its_seed(store):
    assert len(store) == COUNT
    shapes = set()
    for i, scene in enumerate(longhand.scenes("validation", COUNT)):
        assert store.facts[i] == longhand.Facts.of(scene)
        assert np.array_equal(store.image(i), scene.image)
        x0, y0, x1, y1 = store.box(i)
        assert np.array_equal(store.ids[i, y0:y1, x0:x1], scene.ids)
        for j in range(len(scene.instances)):
            assert np.array_equal(store.mask(i, [j]), scene.ids == j + 1)
        both = store.mask(i, range(len(scene.instances)))
        assert np.array_equal(both, scene.ids > 0)
        assert both.any()
        assert not store.mask(i, []).any()
        shapes.add(scene.ids.shape)
    assert len(shapes) > 2


def test_around_the_picture_is_grey_and_nothing_else(store):
    padded = 0
    for i in range(COUNT):
        x0, y0, x1, y1 = store.box(i)
        outside = np.ones((96, 96), bool)
        outside[y0:y1, x0:x1] = False
        assert (store.images[i][outside] == 128).all()
        assert not store.ids[i][outside].any()
        # In the middle, as the image processor's letter-box puts it.
        assert 0 <= (96 - x1) - x0 <= 1
        assert 0 <= (96 - y1) - y0 <= 1
        padded += bool(outside.any())
    assert padded > 5


def test_it_is_read_again_and_not_rendered_again(store, root, monkeypatch):
    monkeypatch.setattr(module, "_render", lambda *_: pytest.fail("rendered again"))
    again = SceneStore.open(root, "validation", COUNT)
    assert list(again.facts) == list(store.facts)
    assert np.array_equal(again.images, store.images)
    assert not again.images.flags.writeable
    assert [p.name for p in root.iterdir()] == [f"validation-{COUNT}-96px-{WORLD_VERSION}"]


def test_a_larger_side_is_another_folder(root, quick):
    larger = SceneStore.open(root, "validation", 2, side=128)
    assert larger.images.shape == (2, 128, 128, 3)
    assert max(larger.image(0).shape) == 128
    assert larger.folder.name == f"validation-2-128px-{WORLD_VERSION}"


def test_fewer_scenes_are_the_first_of_more(store, tmp_path, quick):
    few = SceneStore.open(tmp_path, "validation", 5)
    assert list(few.facts) == list(store.facts[:5])
    assert np.array_equal(few.images, store.images[:5])


def test_an_unknown_split_is_refused_and_leaves_nothing(tmp_path, quick):
    with pytest.raises(ValueError, match="train, validation, test"):
        SceneStore.open(tmp_path / "none", "val", 3)
    assert not (tmp_path / "none").exists()


def test_a_rendering_that_fails_leaves_nothing(tmp_path, monkeypatch, quick):
    def fails(seeds, side):
        raise RuntimeError("no")

    monkeypatch.setattr(module, "_chunk", fails)
    with pytest.raises(RuntimeError):
        SceneStore.open(tmp_path, "train", 3)
    assert list(tmp_path.iterdir()) == []


def test_without_room_nothing_is_rendered(tmp_path, monkeypatch, quick):
    def full(fd, offset, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, "posix_fallocate", full)
    monkeypatch.setattr(module, "_chunk", lambda seeds, side: pytest.fail("rendered"))
    with pytest.raises(OSError, match="No space left"):
        SceneStore.open(tmp_path, "train", 3)
    assert list(tmp_path.iterdir()) == []


def test_two_that_render_the_same_scenes_at_once_both_get_them(tmp_path, monkeypatch, quick):
    real = module._chunk
    inner = []

    def meanwhile(seeds, side):
        if not inner:
            inner.append(True)
            inner.append(SceneStore.open(tmp_path, "train", 3))
            monkeypatch.undo()
            monkeypatch.setattr(module, "ProcessPoolExecutor", InThisProcess)
        return real(seeds, side)

    monkeypatch.setattr(module, "_chunk", meanwhile)
    outer = SceneStore.open(tmp_path, "train", 3)
    assert list(outer.facts) == list(inner[1].facts)
    assert [p.name for p in tmp_path.iterdir()] == [f"train-3-96px-{WORLD_VERSION}"]


RENDER = """
import sys
from pathlib import Path
from train.scenes.store import SceneStore
if __name__ == "__main__":
    SceneStore.open(Path(sys.argv[1]), "train", 20_000, workers=1)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
def test_a_rendering_that_is_killed_leaves_no_folder_of_that_name_and_no_process(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(RENDER)
    data = tmp_path / "data"
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])}
    process = subprocess.Popen([sys.executable, str(script), str(data)], env=environment, start_new_session=True)
    try:
        until = time.monotonic() + 60
        workers: list[int] = []
        # The worker, and Python's tracker of its semaphores.
        while len(workers) < 2 and time.monotonic() < until:
            time.sleep(0.1)
            workers = children(process.pid)
        time.sleep(1.0)
        assert process.poll() is None
        assert len(workers) >= 2
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert list(data.iterdir())
        assert all(".unfinished-" in path.name for path in data.iterdir())
        while any(map(alive, workers)) and time.monotonic() < until:
            time.sleep(0.1)
        assert not any(map(alive, workers))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_splits_are_rendered_from_their_own_seeds(root, quick):
    for split in ("train", "test"):
        SceneStore.open(root, split, 3)
        (folder,) = root.glob(f"{split}-3-*")
        rows = json.loads((folder / "scenes.json").read_text())
        assert [row["seed"] for row in rows] == list(split_seeds(split, 3))
