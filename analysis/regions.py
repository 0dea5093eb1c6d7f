"""Phrases of images with the masks that belong to them, from every source that has such.

    instances.json     COCO-style: a phrase for each category that an image has, with all of its instances
    panoptic.json      COCO-style, with a folder of PNG files beside it: things and stuff
    phrases.jsonl      RefCOCO-style: an image, a phrase (or `sentences`), a `segmentation` or an `ann_id`
    masks folder       what `agevlm-train masks` wrote
    scenes[:N][@PIXELS]  rendered test scenes: objects, attributes, relations, negation

A mask has the size of its image and is never resized. What cannot be used is counted and named, not dropped silently.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from agevlm.data.images import decode
from agevlm.data.masks import Mask, encode_mask, rle_area, rle_mask
from agevlm.data.sources import ImageSource, require_images
from agevlm.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

DETERMINERS = frozenset(
    {"a", "an", "the", "this", "that", "these", "those", "my", "your", "his", "her", "its", "our", "their", "some"}
    | {"any", "each", "every", "no", "several", "many", "few", "all", "both", "another", "other", "one", "two", "three"}
    | {"four", "five", "six", "seven", "eight", "nine", "ten"}
)
"""A phrase that begins with one of these needs no article."""
EMPTY, UNPLACED = "its mask is empty", "its question does not hold the phrase"


@dataclass(frozen=True)
class Region:
    """A phrase and where in its image is what it names."""

    image: str
    """Name of the image in `Regions.images`."""
    phrase: str
    counts: bytes
    """COCO's compressed run lengths, as `agevlm.data.masks.encode_mask` makes them."""
    size: tuple[int, int]
    """(height, width) of the mask, and of the upright image."""
    group: str = "object"
    """object, stuff, phrase; attribute, relation, negation: said of the objects in the mask."""
    question: str | None = None
    """Asked as it is; None for "Is there a PHRASE in the image?"."""
    id: str = ""
    """Stable and unique within a source."""
    answer: str | None = None
    """yes or no, where the source knows what is right."""
    start: int | None = None
    """First character of the phrase in `question`; None for the first place that holds it as whole words."""

    @property
    def mask(self) -> Mask:
        """(height, width)."""
        return rle_mask(self.counts, self.size)

    @property
    def share(self) -> float:
        """Share of the image that the mask covers, 0 to 1."""
        return rle_area(self.counts, self.size) / (self.size[0] * self.size[1])

    def asked(self) -> tuple[str, int, int]:
        """The question, and the first character and the one behind the last of the phrase in it.

        Raises:
            DataError: the question does not hold the phrase.
        """
        if self.question is None:
            before = f"Is there {with_article(self.phrase)}"
            return f"{before} in the image?", len(before) - len(self.phrase), len(before)
        if self.start is not None:
            return self.question, self.start, self.start + len(self.phrase)
        found = re.search(rf"(?<!\w){re.escape(self.phrase)}(?!\w)", self.question, re.IGNORECASE)
        if found is None:
            raise DataError(f"region {self.id}: its question {self.question!r} does not hold {self.phrase!r}")
        return self.question, found.start(), found.end()


@dataclass(frozen=True)
class Regions:
    """Regions of one source."""

    name: str
    """Of the source, for tables."""
    images: ImageSource
    regions: tuple[Region, ...]
    """With masks that are not empty; those of an image stand together."""
    absent: tuple[Region, ...] = ()
    """What can be asked but has no mask, since it is not there or not so: for answers alone. Scenes have such."""
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Why -> ids of what could not be used."""
    notes: tuple[str, ...] = ()
    """Choices and counts that a table has to state."""

    @cached_property
    def digest(self) -> str:
        """Hash of everything that is asked and of all masks, 16 hex digits."""
        content = hashlib.sha256()
        for one in (*self.regions, *self.absent):
            fields = [one.image, one.phrase, one.counts.decode("ascii"), *one.size, one.group, one.question, one.id]
            content.update(json.dumps([*fields, one.answer, one.start]).encode() + b"\n")
        return content.hexdigest()[:16]

    @cached_property
    def by_image(self) -> Mapping[str, tuple[Region, ...]]:
        """Regions of each image, in order; those without a mask after the others."""
        found: dict[str, list[Region]] = {}
        for one in (*self.regions, *self.absent):
            found.setdefault(one.image, []).append(one)
        return {name: tuple(held) for name, held in found.items()}

    def open(self, name: str) -> Image:
        """An image, decoded.

        Raises:
            DataError: it cannot be read, or a mask has another size.
        """
        image = decode(self.images.read(name))
        for one in self.by_image.get(name, ()):
            if (image.height, image.width) != one.size:
                raise DataError(
                    f"image {name}: is {image.width} x {image.height} pixels (width x height), but the mask of "
                    f"{one.id!r} is {one.size[1]} x {one.size[0]}; give the masks that belong to this image, at its "
                    "original size and orientation: masks are never resized"
                )
        return image


class Gathered:
    """Collects what a source has: regions with masks, and what could not be used."""

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self.absent: list[Region] = []
        self.left_out: dict[str, list[str]] = {}
        self.notes: list[str] = []
        self._ids: dict[str, int] = {}

    def add(
        self,
        image: str,
        phrase: str,
        mask: Mask,
        *,
        group: str = "object",
        question: str | None = None,
        key: str = "",
        answer: str | None = None,
        start: int | None = None,
        absent: bool = False,
    ) -> None:
        """Take a region; an empty mask is counted and named, unless what it is of is `absent`."""
        name = self._unique(f"{image}|{key}|{phrase}" if key else f"{image}|{phrase}")
        height, width = mask.shape
        one = Region(image, phrase, encode_mask(mask), (height, width), group, question, name, answer, start)
        if absent:
            self.absent.append(one)
        elif not mask.any():
            self.miss(EMPTY, name)
        elif not _holds(one):
            self.miss(UNPLACED, name)
        else:
            self.regions.append(one)

    def miss(self, why: str, what: str) -> None:
        """Note what could not be used."""
        self.left_out.setdefault(why, []).append(what)

    def _unique(self, name: str) -> str:
        """The same name with a number where it was there before."""
        self._ids[name] = self._ids.get(name, 0) + 1
        return name if self._ids[name] == 1 else f"{name}|{self._ids[name]}"

    def done(self, name: str, images: ImageSource) -> Regions:
        """All of it. Raises DataError if there is no region at all, or an image is missing."""
        if not self.regions:
            reasons = "; ".join(f"{len(ids)}: {why}, first {ids[0]}" for why, ids in self.left_out.items())
            raise DataError(f"{name}: no phrase with a mask in it" + (f" ({reasons})" if reasons else ""))
        require_images(images, (one.image for one in (*self.regions, *self.absent)))
        left_out = {why: tuple(ids) for why, ids in self.left_out.items()}
        return Regions(name, images, tuple(self.regions), tuple(self.absent), left_out, tuple(self.notes))


def _holds(one: Region) -> bool:
    try:
        one.asked()
    except DataError:
        return False
    return True


def with_article(phrase: str) -> str:
    """The phrase behind a or an, where it does not begin with a determiner."""
    words = phrase.split()
    if not words or words[0].lower() in DETERMINERS:
        return phrase
    return f"{_article(phrase)} {phrase}"


@cache
def _article(phrase: str) -> str:
    import inflect

    return str(inflect.engine().a(phrase)).split()[0]


def chosen(names: Iterable[str], limit: int | None, seed: int) -> Sequence[str]:
    """Images to take: all, or `limit` seeded ones, in their order; a larger limit takes the same ones and more."""
    from benchmarks.plan import drawn

    unique = list(dict.fromkeys(names))
    if limit is None:
        return unique
    kept = drawn(unique, limit, seed)
    return [name for name in unique if name in kept]


def load_regions(
    source: str | Path,
    images: Path | None = None,
    *,
    instances: Path | None = None,
    segments: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Regions:
    """Phrases with masks from any source.

    Args:
        source: see above; a JSON file's content says which kind it is.
        images: folder of the images; scenes bring theirs.
        instances: COCO-style instances.json that `ann_id` of RefCOCO-style phrases refer to.
        segments: folder of a panoptic file's PNG images; by default the folder beside it that has its name.
        limit: so many seeded images, with all their regions.
        seed: of the limit, and of what is asked about scenes.

    Raises:
        DataError: the source is none of these, damaged, without any region, or images are missing.
    """
    from agevlm.scenes.selection import is_selector

    if is_selector(str(source)):
        from analysis.region_sources.scenes import scenes_regions

        return scenes_regions(str(source), limit=limit, seed=seed)
    path = Path(source)
    if images is None:
        raise DataError(f"{path}: give the folder that holds its images with --images DIR")
    if path.is_dir():
        from analysis.region_sources.teacher import teacher_regions

        return teacher_regions(path, images, limit=limit, seed=seed)
    kind = _kind_of(path)
    if kind == "phrases":
        from analysis.region_sources.phrases import phrase_regions

        return phrase_regions(path, images, instances=instances, limit=limit, seed=seed)
    from analysis.region_sources.coco import instance_regions, panoptic_regions

    if kind == "panoptic":
        return panoptic_regions(path, images, segments=segments, limit=limit, seed=seed)
    return instance_regions(path, images, limit=limit, seed=seed)


def _kind_of(path: Path) -> str:
    """instances, panoptic or phrases, by what the file holds. Raises DataError if it cannot be read."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; give a COCO-style instances.json or panoptic.json, RefCOCO-style phrases, a folder "
            "of agevlm-train masks, or scenes"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if path.suffix.lower() in (".p", ".pkl", ".pickle"):
        raise DataError(f"{path}: a pickle runs code when it is opened, so it is not; convert it to JSON")
    if path.suffix.lower() in (".jsonl", ".ndjson") or content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[":
        return "phrases"
    return "panoptic" if b'"segments_info"' in content else "instances"
