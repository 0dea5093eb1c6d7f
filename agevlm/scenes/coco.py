"""Scenes as a data set on disk: PNG images, a COCO-style instances.json with exact masks, and texts about them."""

from __future__ import annotations

import errno
import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agevlm.appearing import folder_appears
from agevlm.errors import DataError
from agevlm.scenes.categories import CATEGORIES
from agevlm.scenes.language import Facts
from agevlm.scenes.texts import Described, write_texts
from agevlm.scenes.types import Scene
from agevlm.scenes.world import CANONICAL, WORLD_VERSION, render

INSTANCES = "instances.json"
IMAGES = "images"
DESCRIPTION = "AGE-VLM rendered scenes"
CATEGORY_IDS: Mapping[str, int] = {name: i for i, name in enumerate(CATEGORIES, start=1)}
CHUNK = 16
"""Scenes handed to a worker at a time."""

Entry = dict[str, Any]


@dataclass(frozen=True)
class Written:
    """What `write_coco` has written."""

    out: Path
    images: int
    instances: int
    images_with: Mapping[str, int]
    """In how many images each category is seen, every category, the most frequent first."""
    objects_of: Mapping[str, int]
    """How many objects of each category there are, in the same order."""

    @property
    def annotations(self) -> Path:
        """The instances file."""
        return self.out / INSTANCES


def file_name(seed: int) -> str:
    """Name of a scene's image, relative to the data set's folder."""
    return f"{IMAGES}/{seed:012d}.png"


def rle(mask: NDArray[np.bool_]) -> Entry:
    """A mask as COCO's uncompressed run lengths: down the columns, left to right, the first run outside the mask."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate(([0], changes, [flat.size]))).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def entries(scene: Scene) -> tuple[Entry, list[Entry]]:
    """A scene's entry in `images` and its entries in `annotations`, far to near, the latter still without ids."""
    height, width = scene.ids.shape
    image = {
        "id": scene.seed,
        "file_name": file_name(scene.seed),
        "width": width,
        "height": height,
        "scene": {"setting": scene.setting, "seed": scene.seed},
    }
    annotations = [
        {
            "image_id": scene.seed,
            "category_id": CATEGORY_IDS[thing.category],
            "bbox": list(thing.box),
            "area": thing.area,
            "iscrowd": 0,
            "segmentation": rle(scene.mask(i)),
            "attributes": {
                "color": thing.colour,
                "depth": round(thing.depth, 4),
                "visible": round(thing.visible, 4),
            },
        }
        for i, thing in enumerate(scene.instances)
    ]
    return image, annotations


def write_coco(
    out: str | Path,
    seeds: Sequence[int],
    size: int = CANONICAL,
    *,
    split: str = "",
    workers: int = 1,
    force: bool = False,
    done: Callable[[], object] = lambda: None,
) -> Written:
    """Render scenes into `out`: an image each, instances.json, and the texts of `agevlm.scenes.texts`.

    The same seeds and size give the same bytes, with any number of workers. The folder appears under its name only when
    it is whole.

    Args:
        out: folder to write; what stands there is replaced only with `force`, and only if it is such a data set.
        seeds: the scenes, in the order of the file; a seed is its image's id.
        size: long side of the images in pixels, at least 96.
        split: name to note in the file.
        workers: processes to render with.
        done: called after each scene.

    Raises:
        DataError: no seeds, a seed twice, negative or of more than 12 digits; a size under 96; an `out` that may not be
            replaced or cannot be written; no room on the disk.
    """
    if size < CANONICAL:
        raise DataError(f"scenes of {size} pixels: objects would vanish; give a size of at least {CANONICAL}")
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= 10**12:
        raise DataError("give at least one seed, each once, none negative and none of more than 12 digits")
    target = check_target(out, force)
    with _appearing(target) as folder:
        (folder / IMAGES).mkdir()
        images: list[Entry] = []
        annotations: list[Entry] = []
        described: list[Described] = []
        for image, things, facts in _rendered(folder, seeds, size, workers):
            images.append(image)
            ids = tuple(range(len(annotations) + 1, len(annotations) + len(things) + 1))
            annotations += [{"id": number, **thing} for number, thing in zip(ids, things, strict=True)]
            described.append(Described(image["id"], image["file_name"], facts, ids))
            done()
        write_texts(folder, described)
        info = {
            "description": DESCRIPTION,
            "version": WORLD_VERSION,
            "size": size,
            "split": split,
            "seeds": {"first": seeds[0], "last": seeds[-1], "count": len(seeds)},
        }
        categories = [
            {"id": CATEGORY_IDS[c.name], "name": c.name, "supercategory": c.group} for c in CATEGORIES.values()
        ]
        content = {"info": info, "images": images, "annotations": annotations, "categories": categories}
        (folder / INSTANCES).write_text(
            json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8", newline="\n"
        )
    return _summary(target, images, annotations)


def check_target(out: str | Path, force: bool) -> Path:
    """The folder to write to, absolute. Raises DataError if what stands there may not be replaced."""
    target = Path(out).expanduser().resolve()
    if not target.exists():
        return target
    if not target.is_dir():
        raise DataError(f"--out {target}: is a file; name a folder")
    if not any(target.iterdir()):
        return target
    if not force:
        raise DataError(f"--out {target}: exists already; name another folder, or replace it with --force")
    try:
        ours = json.loads((target / INSTANCES).read_bytes())["info"]["description"] == DESCRIPTION
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise DataError(
            f"--out {target}: holds no rendered scenes, so not even --force replaces it; name another folder"
        )
    return target


def _rendered(
    folder: Path, seeds: Sequence[int], size: int, workers: int
) -> Iterator[tuple[Entry, list[Entry], Facts]]:
    """Write each scene's image; its entries and what texts are made from, in the order of the seeds."""
    work = partial(_write_image, folder, size)
    if workers <= 1:
        yield from map(work, seeds)
        return
    # Spawned, not forked: the parent may have threads (a progress bar).
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            yield from pool.map(work, seeds, chunksize=CHUNK)
        except BrokenProcessPool:
            raise DataError("a worker died while rendering; try again with fewer --workers") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _write_image(folder: Path, size: int, seed: int) -> tuple[Entry, list[Entry], Facts]:
    scene = render(seed, size)
    Image.fromarray(scene.image).save(folder / file_name(seed), format="PNG")
    return *entries(scene), Facts.of(scene)


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """`folder_appears` with errors that name the option. Raises DataError."""
    try:
        with folder_appears(out) as folder:
            yield folder
    except OSError as error:
        reason = "no room left on the disk" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise DataError(f"--out {out}: cannot be written: {reason}") from error


def _summary(out: Path, images: Sequence[Entry], annotations: Sequence[Entry]) -> Written:
    objects = Counter(entry["category_id"] for entry in annotations)
    present = Counter(category for _, category in {(entry["image_id"], entry["category_id"]) for entry in annotations})
    names = sorted(CATEGORY_IDS, key=lambda name: (-present[CATEGORY_IDS[name]], name))
    return Written(
        out,
        len(images),
        len(annotations),
        {name: present[CATEGORY_IDS[name]] for name in names},
        {name: objects[CATEGORY_IDS[name]] for name in names},
    )
