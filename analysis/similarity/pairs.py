"""Images with what is said of them: from COCO-style captions, a JSONL of pairs, or rendered scenes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from agevlm.data.annotations import load_captions, load_instances
from agevlm.data.sources import ContainerImages, FolderImages, ImageSource, require_images
from agevlm.errors import DataError
from agevlm.scenes.selection import is_selector, png, selected
from analysis.similarity.coco import SUPERCATEGORIES
from analysis.similarity.negatives import GIVEN, HARD, Swap
from train.data.naming import Names

SCENE_IMAGES = 200
"""Where `scenes` names no number."""


@dataclass(frozen=True)
class Captioned:
    """One image with the texts that match it, and those that do not as far as the source has them."""

    image: str
    texts: tuple[str, ...]
    """At least one, each once."""
    negatives: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By kind; the n-th stands beside the n-th text (for "given": beside the first)."""
    present: frozenset[str] | None = None
    """Categories that are in the image, where annotations say so."""


@dataclass(frozen=True)
class Material:
    """Where pairs come from."""

    name: str
    images: ImageSource
    captioned: tuple[Captioned, ...]
    """In the order of the source; images without a text are left out."""
    swap: Swap | None
    """How hard texts are made; None where the source has its own."""
    digest: str
    """Hash of the files that were read, or of what scenes are made from."""
    notes: tuple[str, ...] = ()
    """What was left out, in words."""


def from_scenes(selector: str) -> Material:
    """Held-out rendered scenes: a caption, and the same caption with one object replaced by one that is not there.

    Raises:
        DataError: no such selector.
    """
    from agevlm.scenes.coco import file_name
    from agevlm.scenes.language import Facts, caption, mismatched_caption
    from agevlm.scenes.types import split_seeds
    from agevlm.scenes.world import WORLD_VERSION, render

    count, size = selected(selector, SCENE_IMAGES)
    captioned, images = [], {}
    for seed in split_seeds("test", 100 * count):
        scene = render(seed, size)
        facts = Facts.of(scene)
        if not facts.present or not facts.absent:
            continue
        # One seed for both: the same objects in the same order, but for the one that is replaced.
        right, wrong = (make(facts, Random(f"similarity:{seed}")) for make in (caption, mismatched_caption))
        name = file_name(seed)
        images[name] = png(scene)
        captioned.append(Captioned(name, (right.text,), {HARD: (wrong.text,)}, frozenset(facts.present)))
        if len(captioned) == count:
            break
    return Material(
        f"scenes:{count}@{size}",
        ContainerImages(images),
        tuple(captioned),
        None,
        hashlib.sha256(f"scenes {WORLD_VERSION} {count} {size}".encode()).hexdigest(),
    )


def from_captions(path: Path, folder: Path, instances: Path | None) -> Material:
    """COCO-style captions with their images.

    Args:
        path: captions.json.
        folder: of the images.
        instances: instances.json of the same images: what is in each. Without, COCO's categories are looked for in the
            captions alone.

    Raises:
        DataError: a file that cannot be read or is not of that format, a missing folder or images.
    """
    captions = load_captions(path)
    present: dict[str, frozenset[str]] = {}
    digest = captions.sha256
    swap = swap_of()
    notes = []
    if instances is not None:
        objects = load_instances(instances)
        digest = hashlib.sha256((digest + objects.sha256).encode()).hexdigest()
        present = {image.file_name: frozenset(image.objects) for image in objects.images}
        swap = swap_of(tuple(dict.fromkeys(objects.categories.values())))
        lacking = sum(image.file_name not in present for image in captions.images)
        if lacking == len(captions.images):
            raise DataError(f"{instances}: has none of the images of {path}; give the instances of the same images")
        if lacking:
            notes.append(f"{lacking} images are not in {instances}: what is in them is known from their captions alone")
    captioned, silent, twice = [], 0, 0
    for image in captions.images:
        texts = tuple(dict.fromkeys(image.captions))
        twice += len(image.captions) - len(texts)
        if texts:
            captioned.append(Captioned(image.file_name, texts, {}, present.get(image.file_name)))
        else:
            silent += 1
    if silent:
        notes.append(f"{silent} images have no caption and are left out")
    if twice:
        notes.append(f"{twice} captions are there twice for the same image and count once")
    return _checked(Material(path.name, FolderImages(folder), tuple(captioned), swap, digest, tuple(notes)), path)


def from_jsonl(path: Path, folder: Path | None) -> Material:
    """A file of pairs, one JSON object a line.

    `image` (a file name below the folder), `text`; `label`: true (the default) or false where the text does not match;
    `negatives`: texts that do not match, as a list. Rows of one image belong together. An image needs a text that
    matches. Raises DataError.
    """
    folder = folder or path.parent
    try:
        data = path.read_bytes()
        # Not splitlines: a JSON text may hold other line ends than this one as they are.
        lines = data.decode("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give a JSONL of pairs, or scenes[:N]") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    said: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    repeated = 0
    for number, line in enumerate(lines, start=1):
        if line.strip():
            image, matching, others = _row(f"{path}:{number}", line)
            good, bad = said.setdefault(image, ({}, {}))
            repeated += sum(text in good for text in matching)
            good.update(dict.fromkeys(matching))
            bad.update(dict.fromkeys(others))
    captioned, unmatched = [], 0
    for image, (good, bad) in said.items():
        if both := sorted(good.keys() & bad.keys()):
            raise DataError(f"{path}: image {image}: {both[0][:60]!r} is given as matching and as not matching")
        if good:
            captioned.append(Captioned(image, tuple(good), {GIVEN: tuple(bad)} if bad else {}))
        else:
            unmatched += 1
    notes = [f"{unmatched} images have no matching text and are left out"] * bool(unmatched)
    notes += [f"{repeated} texts are there twice for the same image and count once"] * bool(repeated)
    digest = hashlib.sha256(data).hexdigest()
    material = Material(path.name, FolderImages(folder), tuple(captioned), swap_of(), digest, tuple(notes))
    return _checked(material, path)


def load_pairs(source: str, folder: Path | None) -> Material:
    """`scenes[:N][@PIXELS]`, or a JSONL file. Raises DataError."""
    if is_selector(source):
        return from_scenes(source)
    return from_jsonl(Path(source), folder)


def swap_of(categories: tuple[str, ...] | None = None) -> Swap:
    """How captions are made wrong: with these categories, or COCO's 80; by kin where COCO has them in one group."""
    groups = {name: group for group, names in SUPERCATEGORIES.items() for name in names}
    categories = tuple(groups) if categories is None else categories
    return Swap(Names(categories), categories, groups)


def _row(where: str, line: str) -> tuple[str, list[str], list[str]]:
    """Image, matching texts, and others of one line."""
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}") from None
    if not isinstance(entry, dict):
        raise DataError(f"{where}: a JSON {type(entry).__name__}, not an object with image and text")
    image, text = (_text(where, entry, key) for key in ("image", "text"))
    label = entry.get("label", True)
    if label not in (True, False):
        raise DataError(f"{where}: label must be true or false, not {label!r}")
    negatives = entry.get("negatives", [])
    if not isinstance(negatives, list):
        raise DataError(f"{where}: negatives must be a list of texts, not {negatives!r}")
    others = [_text(where, {"negatives": one}, "negatives") for one in negatives]
    return (image, [text], others) if label else (image, [], [text, *others])


def _text(where: str, entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {key} must be a text that is not empty, not {value!r}")
    return value.strip()


def _checked(material: Material, path: Path) -> Material:
    """Refuse too few images, those that are there twice, and those without a file."""
    if len(material.captioned) < 2:
        raise DataError(
            f"{path}: {len(material.captioned)} images with a matching text; what one image's text is to another needs "
            "at least 2"
        )
    names = Counter(one.image for one in material.captioned)
    if twice := [name for name, times in names.items() if times > 1]:
        raise DataError(f"{path}: {len(twice)} images are listed more than once: {twice[0]}; list each once")
    require_images(material.images, [one.image for one in material.captioned])
    return material
