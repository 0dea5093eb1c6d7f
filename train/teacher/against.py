"""How good a producer's regions are against annotations, by what kind of words they are asked for.

Kinds: an object's word ("dog"); an attribute with its object ("red dog"); a relation with its two objects ("dog left
of the cat": the region is the dog's); a negation with its object ("no dog": no region is right). What is said but not
so (a dog that is not there, a red dog that is brown) has no region either. Teachers are trained on words of objects;
the other kinds are where they, and so the attention that they teach, fail.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from agevlm.data.annotations import Annotation, InstanceImage, Instances
from agevlm.data.images import decode, read_file
from agevlm.data.masks import Mask, decode_mask, mask_iou, union_of
from agevlm.data.noise import Noise, distort
from agevlm.data.paths import inside
from agevlm.errors import DataError
from train.teacher.gates import Gates, sort_out
from train.teacher.producer import MaskProducer, Picture

TEXTS = ("captions.jsonl", "statements.jsonl")
"""Looked for beside the annotations: texts with mentions, as `agevlm-eval build-scenes` writes them."""
KINDS = ("object", "attribute", "relation", "negation")
DRAWS = 1000


@dataclass(frozen=True)
class Asked:
    """A phrase of an image with its true region."""

    phrase: str
    kind: str
    """One of `KINDS`."""
    annotations: tuple[int, ...]
    """Places in the image's annotations that make up the region; empty: there is none."""


@dataclass(frozen=True)
class Outcome:
    """What came of one phrase."""

    image: str
    phrase: str
    kind: str
    there: bool
    """Whether it has a region."""
    found: bool
    """Whether the producer gave one that passes the gates."""
    iou: float
    """Of the two regions; 0 where none was found."""


@dataclass(frozen=True)
class Score:
    """Of one kind of phrase. Shares from 0 to 1, each with the ends of its 95 % interval over images."""

    kind: str
    there: int
    """Phrases that have a region."""
    found: tuple[float, float, float] | None
    """Share of these for which any was found; None without such phrases."""
    iou: tuple[float, float, float] | None
    """Mean IoU, 0 where none was found."""
    half: tuple[float, float, float] | None
    """Share with an IoU of at least 0.5."""
    absent: int
    """Phrases that have none."""
    false: tuple[float, float, float] | None
    """Share of these for which a region was given all the same."""


def questions(instances: Instances, texts: Sequence[Path], seed: int = 0) -> dict[str, list[Asked]]:
    """What to ask about every image: file name -> phrases, each once.

    Every category that is there, crowds aside, as many that are not, and the mentions of the texts.

    Raises:
        DataError: a text that is not as `agevlm-eval build-scenes` writes it, or of another image.
    """
    asked: dict[str, dict[tuple[str, str], Asked]] = {image.file_name: {} for image in instances.images}
    names = sorted(set(instances.categories.values()))
    for image in instances.images:
        there: dict[str, list[int]] = {}
        crowded = set()
        for place, one in enumerate(instances.of_image(image.id)):
            there.setdefault(one.category, []).append(place)
            if one.iscrowd or one.segmentation is None:
                crowded.add(one.category)
        absent = [name for name in names if name not in there]
        drawn = Random(f"against/{seed}/{image.file_name}").sample(absent, min(len(absent), len(there)))
        _add(
            asked[image.file_name],
            (Asked(name, "object", tuple(p)) for name, p in there.items() if name not in crowded),
        )
        _add(asked[image.file_name], (Asked(name, "object", ()) for name in drawn))
    places = _places(instances)
    for path in texts:
        for where, row in _rows(path):
            try:
                file_name = row["file_name"]
                said = [row] if "mentions" in row else [row["caption"], row["mismatched"]]
                found = [one for text in said for one in _mentioned(text, places)]
            except (KeyError, TypeError, IndexError) as error:
                raise DataError(
                    f"{where}: not a text with mentions as agevlm-eval build-scenes writes it ({error!r})"
                ) from None
            if file_name not in asked:
                raise DataError(f"{where}: image {file_name} is not in {instances.path}")
            _add(asked[file_name], found)
    return {name: list(phrases.values()) for name, phrases in asked.items() if phrases}


def _add(into: dict[tuple[str, str], Asked], found: Any) -> None:
    for one in found:
        into.setdefault((one.kind, one.phrase), one)


def _places(instances: Instances) -> dict[Any, int]:
    """Annotation id -> its place among its image's annotations."""
    return {one.id: place for image in instances.images for place, one in enumerate(instances.of_image(image.id))}


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield f"{path}:{number}", json.loads(line)
                except ValueError as error:
                    raise DataError(f"{path}:{number}: not JSON: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}; it lies beside the annotations, move it away") from None


def _mentioned(text: Mapping[str, Any], places: Mapping[Any, int]) -> Iterator[Asked]:
    """Phrases of one text: each mention of an object; any other with the objects that it is said of."""
    words = [text["text"][m["start"] : m["end"]] for m in text["mentions"]]
    ids = [tuple(places[i] for i in m["annotation_ids"]) for m in text["mentions"]]
    kinds = [m["kind"] for m in text["mentions"]]
    for i, kind in enumerate(kinds):
        before = words[i - 1] if i else ""
        after = words[i + 1] if i + 1 < len(words) else ""
        if kind == "object":
            if not (i and kinds[i - 1] == "attribute"):  # of "a white lamp" the lamp is the white one
                yield Asked(words[i], kind, ids[i])
        elif kind == "attribute":
            # "a white lamp", or "the lamp is white"
            noun = after if i + 1 < len(words) and kinds[i + 1] == "object" else before
            yield Asked(f"{words[i]} {noun}", kind, ids[i])
        elif kind == "relation":
            yield Asked(f"{before} {words[i]} the {after}", kind, ids[i][:1])
        elif kind == "negation":
            yield Asked(f"{words[i]} {after}", kind, ())


def score_producer(
    instances: Instances,
    images: Path,
    asked: Mapping[str, Sequence[Asked]],
    producer: MaskProducer,
    gates: Gates,
    *,
    noise: Noise | None = None,
    seed: int = 0,
    batch_images: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Ask a producer for all phrases and compare its regions with the annotations'.

    Args:
        instances: the annotations.
        images: folder of the images.
        asked: what to ask, by file name.
        producer: whose regions are compared.
        gates: which of them count.
        noise: put into them before; not swap, which needs a data set.
        seed: of the noise.
        batch_images: images that the producer is given at once.
        progress: called with (images done, of so many).

    Raises:
        DataError: an image that is missing, broken, or of another size than its annotations.
    """
    by_name = {image.file_name: image for image in instances.images}
    names, outcomes = list(asked), []
    for first in range(0, len(names), batch_images):
        batch = names[first : first + batch_images]
        pictures = []
        for name in batch:
            image, entry = decode(read_file(inside(images, name), name)), by_name[name]
            if image.size != (entry.width, entry.height):
                raise DataError(
                    f"image {name}: {image.width} x {image.height} pixels, but {instances.path} has "
                    f"{entry.width} x {entry.height}"
                )
            pictures.append(Picture(name, image, tuple(dict.fromkeys(one.phrase for one in asked[name]))))
        for picture, found in zip(pictures, producer.produce(pictures), strict=True):
            regions = dict(zip(picture.phrases, found, strict=True))
            entry = by_name[picture.key]
            truth = [_truth(one, entry, instances.path) for one in instances.of_image(entry.id)]
            for one in asked[picture.key]:
                kept = sort_out(regions[one.phrase], gates)
                masks = [region.mask for region in kept[0][: kept[1]]]
                outcomes.append(_outcome(picture.key, one, _noisy(masks, noise, seed, picture.key, one), truth))
        if progress is not None:
            progress(min(first + batch_images, len(names)), len(names))
    return outcomes


def _truth(annotation: Annotation, image: InstanceImage, path: Path) -> Mask:
    try:
        return decode_mask(annotation.segmentation or [], image.height, image.width)
    except DataError as error:
        raise DataError(f"image {image.file_name}: an annotation of {annotation.category} in {path}: {error}") from None


def has_mentions(path: Path) -> bool:
    """Whether a file beside annotations holds texts with mentions, and not somebody's captions of the same name."""
    try:
        _, row = next(_rows(path))
    except (StopIteration, DataError):
        return False
    return isinstance(row, dict) and ("mentions" in row or "mismatched" in row)


def _noisy(masks: Sequence[Mask], noise: Noise | None, seed: int, key: str, one: Asked) -> list[Mask]:
    if noise is None:
        return list(masks)
    draw = Random(f"noise/{seed}/{key}/{one.kind}/{one.phrase}")
    return [mask for given in masks if (mask := distort(given, noise, draw)) is not None and mask.any()]


def _outcome(image: str, one: Asked, masks: Sequence[Mask], truth: Sequence[Mask]) -> Outcome:
    there = bool(one.annotations)
    iou = 0.0
    if there and masks:
        shape = truth[one.annotations[0]].shape
        iou = mask_iou(union_of((truth[i] for i in one.annotations), *shape), union_of(masks, *shape))
    return Outcome(image, one.phrase, one.kind, there, bool(masks), iou)


def scores(outcomes: Sequence[Outcome]) -> list[Score]:
    """By kind, in the order of `KINDS`; kinds that were not asked are left out."""
    made = []
    for kind in KINDS:
        mine = [o for o in outcomes if o.kind == kind]
        there, absent = [o for o in mine if o.there], [o for o in mine if not o.there]
        if mine:
            made.append(
                Score(
                    kind,
                    len(there),
                    _mean(there, lambda o: o.found),
                    _mean(there, lambda o: o.iou),
                    _mean(there, lambda o: o.iou >= 0.5),
                    len(absent),
                    _mean(absent, lambda o: o.found),
                )
            )
    return made


def _mean(outcomes: Sequence[Outcome], value: Callable[[Outcome], float]) -> tuple[float, float, float] | None:
    """Mean with the ends of its 95 % bootstrap interval over images; both ends are the mean for a single image."""
    if not outcomes:
        return None
    from scipy.stats import bootstrap

    _, image = np.unique([o.image for o in outcomes], return_inverse=True)
    sums = np.bincount(image, [float(value(o)) for o in outcomes])
    counts = np.bincount(image).astype(float)
    mean = float(sums.sum() / counts.sum())
    if len(sums) < 2:
        return mean, mean, mean
    ends = bootstrap(
        (sums, counts),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=DRAWS,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return mean, float(ends.low), float(ends.high)
