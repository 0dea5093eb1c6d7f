"""Which objects lie where in the images of a set of questions, and how likely each is there by the others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from agevlm.data.annotations import Annotation, InstanceImage, Instances, load_instances
from agevlm.data.coco_fields import Id
from agevlm.data.masks import decode_mask, encode_mask, union_of
from agevlm.errors import DataError
from analysis.linkage.prior import Truths, cooccurrence_prior, presence_of

SCENES = "scenes"


@dataclass(frozen=True, eq=False)
class Objects:
    """The annotated objects of one image."""

    size: tuple[int, int]
    """(height, width)."""
    masks: Mapping[str, bytes | None]
    """Name -> COCO run lengths of all of its objects together (`encode_mask`); None where the annotations have no
    region of it, or an empty one."""
    prior: Mapping[str, float]
    """Name -> log odds by the other objects, for every category of the annotations; see `cooccurrence_prior`."""


class Annotated:
    """COCO-style annotations by the image names that questions use."""

    def __init__(self, instances: Instances) -> None:
        self.instances = instances
        self.digest = instances.sha256
        self.categories = list(dict.fromkeys(instances.categories.values()))
        self._shown: Truths = presence_of([image.objects for image in instances.images], self.categories)
        self._rows: dict[str, list[int]] = {}
        for row, image in enumerate(instances.images):
            self._rows.setdefault(PurePosixPath(image.file_name).name, []).append(row)

    def __len__(self) -> int:
        return len(self.instances.images)

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of the names that no annotated image has."""
        return sorted({name for name in names if PurePosixPath(name).name not in self._rows})

    def of(self, name: str) -> Objects:
        """The objects of an image, by its file name without folders.

        Raises:
            DataError: two annotated images of that name, or a region that cannot be read.
        """
        rows = self._rows[PurePosixPath(name).name]
        if len(rows) > 1:
            raise DataError(f"{self.instances.path}: {len(rows)} images have the name {PurePosixPath(name).name}")
        image = self.instances.images[rows[0]]
        size = (image.height, image.width)
        masks: dict[str, bytes | None] = dict.fromkeys(image.objects)
        own = self.instances.of_image(image.id)
        for category in image.objects:
            parts = [self._mask(a, *size) for a in own if a.category == category and a.segmentation is not None]
            union = union_of(parts, *size)
            masks[category] = encode_mask(union) if union.any() else None
        odds = cooccurrence_prior(self._shown, rows[0])
        prior = {category: float(odds[k]) for k, category in enumerate(self.categories)}
        return Objects(size, masks, prior)

    def _mask(self, annotation: Annotation, height: int, width: int) -> np.ndarray:
        try:
            return decode_mask(annotation.segmentation, height, width)
        except DataError as error:
            raise DataError(f"{self.instances.path}: annotation {annotation.id}: {error}") from None


def load_annotated(path: Path) -> Annotated:
    """From an instances.json. Raises DataError."""
    return Annotated(load_instances(path))


def scenes_annotated(names: Iterable[str], size: int) -> Annotated:
    """Of the rendered scenes that have these file names, rendered once more at this long side in pixels."""
    from agevlm.scenes.coco import CATEGORY_IDS, entries
    from agevlm.scenes.world import WORLD_VERSION, render

    images, annotations = [], []
    ordered = sorted(set(names))
    for name in ordered:
        scene = render(int(PurePosixPath(name).stem), size)
        entry, things = entries(scene)
        seen = tuple(dict.fromkeys(thing.category for thing in scene.instances))
        images.append(InstanceImage(scene.seed, entry["file_name"], entry["width"], entry["height"], seen))
        annotations += [
            Annotation(scene.seed, thing.category, False, None, made["segmentation"])
            for thing, made in zip(scene.instances, things, strict=True)
        ]
    content = json.dumps([WORLD_VERSION, size, ordered]).encode()
    categories: dict[Id, str] = {number: name for name, number in CATEGORY_IDS.items()}
    digest = hashlib.sha256(content).hexdigest()
    return Annotated(Instances(Path(SCENES), digest, tuple(images), tuple(annotations), categories))
