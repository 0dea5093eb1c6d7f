"""What to ask about which image: POPE's questions by image, and what of an object a crop would leave."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from agevlm.data.sources import ImageSource, require_images
from agevlm.errors import DataError
from agevlm.scenes.world import WORLD_VERSION, render
from benchmarks.pope.scenes import SCENES, is_selector
from benchmarks.pope.types import Question, QuestionSet
from benchmarks.prompts import Prompt

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Masks:
    """Where objects are in the images of a set."""

    find: Callable[[str, tuple[int, int], str], Mask | None]
    """(image name, (width, height), object) -> (height, width) where it is; None where that is not known."""
    identity: str
    """Changes with what it finds."""


@dataclass(frozen=True)
class Asked:
    """One question about one image."""

    text: str
    prompt: str
    """What the model is asked."""
    thing: str | None
    """The object that is asked about, as it stands in the prompt; None where no word of it is known."""
    label: bool
    splits: tuple[str, ...]
    """In which splits it stands; it is asked once."""


@dataclass(frozen=True)
class ImageItem:
    """An image with all its questions."""

    set: str
    image: str
    sha256: str
    """Of the image file; says that it cannot be read where it cannot."""
    questions: tuple[Asked, ...]
    source: ImageSource

    @cached_property
    def content(self) -> str:
        """Hex SHA-256 of all that a record depends on: the image, the questions and their labels."""
        told = [self.set, self.image, self.sha256, [asdict(q) for q in self.questions]]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def image_items(sets: Sequence[QuestionSet], sources: Sequence[ImageSource], prompt: Prompt) -> list[ImageItem]:
    """All images with their questions, in the order of the sets; equal questions about an image are one.

    Raises:
        DataError: images are missing, or one question has two labels.
    """
    items = []
    for one, source in zip(sets, sources, strict=True):
        require_images(source, (q.image for q in one.questions))
        by_image: dict[str, dict[str, Asked]] = {}
        for question in one.questions:
            own = by_image.setdefault(question.image, {})
            found = own.get(question.text)
            if found is not None and found.label != question.label:
                raise DataError(
                    f"{question.where}: {question.text!r} about {question.image} is labelled yes and no in one set"
                )
            asked = found or _asked(question, prompt)
            own[question.text] = replace(asked, splits=(*asked.splits, question.split))
        items += [
            ImageItem(one.name, image, _sha256(source, image), tuple(asked.values()), source)
            for image, asked in by_image.items()
        ]
    return items


def _asked(question: Question, prompt: Prompt) -> Asked:
    # Where no template matches, the object's name is the whole question: that is no word to follow.
    thing = None if question.object_name == question.text else question.object_name
    return Asked(question.text, prompt.of(question.text), thing, question.label, ())


def _sha256(source: ImageSource, image: str) -> str:
    try:
        return source.read(image).sha256
    except DataError:
        return "unreadable"  # opening it says why


def scene_masks(image: str, size: tuple[int, int], thing: str) -> Mask | None:
    """The mask of a rendered scene's objects of a category, painted once more from the scene's number."""
    scene = render(int(PurePosixPath(image).stem), max(size))
    return scene.mask(*found) if (found := scene.of(thing)) else None


def annotated_masks(path: Path) -> Masks:
    """Masks from a COCO-style instances file, images by file name. Raises DataError if it cannot be read."""
    from agevlm.data.annotations import Annotation, InstanceImage, load_instances
    from agevlm.data.masks import decode_mask, union_of

    instances = load_instances(path)
    images: dict[str, InstanceImage] = {}
    for entry in instances.images:
        name = PurePosixPath(entry.file_name).name
        if name in images:
            raise DataError(f"{path}: two images have the name {name}; masks are found by the file's name alone")
        images[name] = entry

    def decoded(annotation: Annotation, height: int, width: int) -> Mask:
        try:
            return decode_mask(annotation.segmentation, height, width)
        except DataError as error:
            raise DataError(f"{path}: annotation {annotation.id}: {error}") from None

    def find(image: str, size: tuple[int, int], thing: str) -> Mask | None:
        entry = images.get(PurePosixPath(image).name)
        if entry is None:
            return None
        if (entry.width, entry.height) != size:
            raise DataError(
                f"{path}: {image} is {entry.width} x {entry.height} there, but the file has {size[0]} x {size[1]} "
                "pixels; give the annotations of these images"
            )
        found = [a for a in instances.of_image(entry.id) if a.category == thing and a.segmentation]
        if not found:
            return None
        return union_of((decoded(a, size[1], size[0]) for a in found), size[1], size[0])

    return Masks(find, instances.sha256)


def masks_for(sets: Sequence[QuestionSet], given: Sequence[str], annotations: Path | None) -> Mapping[str, Masks]:
    """By the set's name where masks of its objects come from; sets without any are not in it."""
    if annotations is not None:
        return dict.fromkeys((one.name for one in sets), annotated_masks(annotations))
    if any(is_selector(source) for source in given):
        return {SCENES: Masks(scene_masks, f"scenes of version {WORLD_VERSION}")}
    return {}


def share_left(mask: Mask, box: tuple[float, float, float, float]) -> float | None:
    """Which share of a mask's pixels lies inside a box (x0, y0, x1, y1 in whole pixels); None for an empty mask."""
    x0, y0, x1, y1 = (round(v) for v in box)
    total = int(mask.sum())
    return None if total == 0 else int(mask[y0:y1, x0:x1].sum()) / total
