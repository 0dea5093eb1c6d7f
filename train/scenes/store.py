"""Rendered scenes kept on disk, ready to be read in any order."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agevlm.appearing import folder_appears
from agevlm.scenes.language import Facts
from agevlm.scenes.types import Instance, split_seeds

CHUNK = 250


@dataclass(frozen=True)
class SceneStore:
    """Scenes of one split: pictures padded to a square, ids of the objects, and what is true of them.

    `images` (n, side, side, 3) and `ids` (n, side, side) uint8 are memory-mapped; picture i fills `box(i)` of its
    square.
    """

    folder: Path
    side: int
    images: NDArray[np.uint8]
    ids: NDArray[np.uint8]
    facts: Sequence[Facts]
    """What is true of each scene."""

    @classmethod
    def open(cls, root: Path, split: str, count: int, side: int = 96, workers: int = 2) -> SceneStore:
        """The first `count` scenes of a split under `root`, rendered there if they are not yet.

        Raises:
            ValueError: unknown split.
        """
        from agevlm.scenes.world import WORLD_VERSION

        folder = root / f"{split}-{count}-{side}px-{WORLD_VERSION}"
        if not folder.exists():
            try:
                _render(folder, split, count, side, workers)
            except OSError:
                # Another process may have put the same scenes, the same bytes, there meanwhile.
                if not folder.is_dir():
                    raise
        images = np.load(folder / "images.npy", mmap_mode="r")
        ids = np.load(folder / "ids.npy", mmap_mode="r")
        rows = json.loads((folder / "scenes.json").read_text())
        return cls(folder, side, images, ids, [_facts(row) for row in rows])

    def __len__(self) -> int:
        return len(self.facts)

    def box(self, index: int) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of the picture in its square."""
        width, height = self.facts[index].width, self.facts[index].height
        left, top = (self.side - width) // 2, (self.side - height) // 2
        return left, top, left + width, top + height

    def image(self, index: int) -> NDArray[np.uint8]:
        """(height, width, 3): the picture without its padding."""
        x0, y0, x1, y1 = self.box(index)
        return np.ascontiguousarray(self.images[index, y0:y1, x0:x1])

    def mask(self, index: int, instances: Sequence[int]) -> NDArray[np.bool_]:
        """(height, width): where any of these instances is seen."""
        x0, y0, x1, y1 = self.box(index)
        seen: NDArray[np.bool_] = np.isin(self.ids[index, y0:y1, x0:x1], [i + 1 for i in instances])
        return seen


def _facts(row: Mapping[str, Any]) -> Facts:
    things = tuple(
        Instance(c, k, tuple(box), area, visible, tuple(centre), depth)
        for c, k, box, area, visible, centre, depth in row["instances"]
    )
    width, height = row["size"]
    return Facts(things, width, height, row["setting"])


def _chunk(seeds: Sequence[int], side: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[dict[str, Any]]]:
    from agevlm.scenes.world import render

    images = np.full((len(seeds), side, side, 3), 128, np.uint8)
    ids = np.zeros((len(seeds), side, side), np.uint8)
    rows = []
    for i, seed in enumerate(seeds):
        scene = render(seed, side)
        height, width = scene.ids.shape
        left, top = (side - width) // 2, (side - height) // 2
        images[i, top : top + height, left : left + width] = scene.image
        ids[i, top : top + height, left : left + width] = scene.ids
        things = [(t.category, t.colour, t.box, t.area, t.visible, t.centre, t.depth) for t in scene.instances]
        rows.append({"seed": seed, "setting": scene.setting, "size": [width, height], "instances": things})
    return images, ids, rows


def _end_with_parent() -> None:
    """Workers of a pool whose process was killed would wait for work for ever."""

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=watch, daemon=True).start()


def _reserved(path: Path, shape: tuple[int, ...]) -> Any:
    """A new array in a file whose room is taken at once: a mapped file that the disk has no room for kills the process
    when it is written to."""
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _render(folder: Path, split: str, count: int, side: int, workers: int) -> None:
    seeds = split_seeds(split, count)
    parts = [seeds[i : i + CHUNK] for i in range(0, count, CHUNK)]
    with folder_appears(folder, 4 * count * side * side) as hidden:
        images = _reserved(hidden / "images.npy", (count, side, side, 3))
        ids = _reserved(hidden / "ids.npy", (count, side, side))
        rows: list[dict[str, Any]] = []
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
            for done in pool.map(_chunk, parts, [side] * len(parts)):
                at = slice(len(rows), len(rows) + len(done[2]))
                images[at], ids[at] = done[:2]
                rows += done[2]
        images.flush()
        ids.flush()
        (hidden / "scenes.json").write_text(json.dumps(rows))
