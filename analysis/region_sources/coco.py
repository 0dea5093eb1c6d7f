"""Regions of COCO-style annotations: a category's instances together, or a panoptic file's segments."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from agevlm.data.annotations import Annotation, InstanceImage, load_instances
from agevlm.data.masks import decode_mask, union_of
from agevlm.data.panoptic import SegmentedImage, load_panoptic, segment_numbers
from agevlm.data.sources import FolderImages
from agevlm.errors import DataError
from analysis.regions import Gathered, Regions, chosen

NO_SEGMENTATION = "an annotation of it has no segmentation"
_MADE_UP = re.compile(r"-(?:other|merged|stuff)\b")


def instance_regions(path: Path, images: Path, *, limit: int | None, seed: int) -> Regions:
    """For each image and each category that it has, all instances together, crowds included.

    Raises:
        DataError: see `load_instances`; a segmentation that is damaged or of another size than its image.
    """
    content, folder = load_instances(path), FolderImages(images)
    files = {image.file_name: image for image in content.images}
    gathered, crowds = Gathered(), 0
    for name in chosen((f for f, image in files.items() if image.objects), limit, seed):
        image = files[name]
        held = content.of_image(image.id)
        for category in image.objects:
            instances = [one for one in held if one.category == category]
            crowds += any(one.iscrowd for one in instances)
            _add_instances(gathered, path, image, category, instances)
    gathered.notes.append(
        f"a category's mask is the union of its instances in the image; crowds (iscrowd) belong to it: {crowds} of the "
        "phrases have one"
    )
    return gathered.done(path.stem, folder)


def _add_instances(
    gathered: Gathered, path: Path, image: InstanceImage, category: str, instances: list[Annotation]
) -> None:
    if any(one.segmentation in (None, []) for one in instances):
        # A part of the mask would pass for the whole.
        gathered.miss(NO_SEGMENTATION, f"{image.file_name}|{category}")
        return
    try:
        masks = [decode_mask(one.segmentation, image.height, image.width) for one in instances]
    except DataError as error:
        raise DataError(f"{path}: image {image.file_name}: {category}: {error}") from None
    gathered.add(image.file_name, category, union_of(masks, image.height, image.width), answer="yes")


def panoptic_regions(path: Path, images: Path, *, segments: Path | None, limit: int | None, seed: int) -> Regions:
    """For each image and each category that it has, all segments together; things are objects, the others stuff.

    Raises:
        DataError: see `load_panoptic` and `segment_numbers`; the folder of PNG files is missing.
    """
    content, folder = load_panoptic(path), FolderImages(images)
    pictures = segments or path.with_suffix("")
    if not pictures.is_dir():
        raise DataError(f"{path}: no folder {pictures} of its PNG files; name it with --segments DIR")
    files = {image.file_name: image for image in content.images}
    gathered = Gathered()
    for name in chosen((f for f, image in files.items() if image.segments), limit, seed):
        _add_segments(gathered, pictures, files[name])
    gathered.notes.append(
        'a category\'s mask is the union of its segments, crowds included; names as "wall-other-merged" are asked '
        'without "-other", "-merged" and "-stuff"'
    )
    return gathered.done(path.stem, folder)


def _add_segments(gathered: Gathered, pictures: Path, image: SegmentedImage) -> None:
    numbers = segment_numbers(pictures, image)
    for category in dict.fromkeys(one.category for one in image.segments):
        held = [one for one in image.segments if one.category == category]
        mask = np.isin(numbers, [one.id for one in held])
        group = "object" if held[0].isthing else "stuff"
        gathered.add(image.file_name, _MADE_UP.sub("", category), mask, group=group, key=category, answer="yes")
