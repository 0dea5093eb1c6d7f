"""What a question's image becomes under each condition, by content; and the pixels of that."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from agevlm.data.images import EncodedFile, decode
from agevlm.data.sources import ImageSource
from agevlm.errors import DataError
from benchmarks import controls
from benchmarks.controls import CHANGES, IMAGE
from benchmarks.plan import Shown

if TYPE_CHECKING:
    from PIL.Image import Image


class Shower:
    """What the images of one set of questions become under each condition.

    Args:
        source: where the images are.
        clusters: cluster -> its images; under `other-image` no image stands for one of its own cluster.
        conditions: "image" and controls.
        seed: of the controls.
        name: of the set, for messages.

    Raises:
        DataError: `other-image` is wanted and all images are of one cluster.
    """

    def __init__(
        self,
        source: ImageSource,
        clusters: Mapping[str, set[str]],
        conditions: Sequence[str],
        seed: int,
        name: str,
    ) -> None:
        self.source, self.seed = source, seed
        self._changes = [c for c in CHANGES if c in conditions]
        self._identities: dict[tuple[str, str | None], str] = {}
        self._others: dict[str, str] = {}
        if "other-image" in conditions:
            self._others = controls.derangement({c: sorted(i) for c, i in clusters.items()}, seed)
            if not self._others:
                raise DataError(f"control other-image: {name} has one image only; it needs at least two")

    def of(self, image: str, condition: str) -> Shown | None:
        """What is shown in an image's place; None for no image at all. Raises DataError for an unknown condition."""
        if condition == "blind":
            return None
        if condition == IMAGE:
            return self._shown(image, None)
        if condition == "other-image":
            return self._shown(self._others[image], None)
        if condition in CHANGES:
            return self._shown(image, condition)
        raise DataError(f"unknown control {condition!r}; known: {', '.join(controls.CONTROLS)}")

    def _shown(self, name: str, change: str | None) -> Shown:
        if (name, None) not in self._identities:
            file = _file(self.source, name)
            for each in (None, *self._changes):
                identity = _identity(file, each, self.seed) if file is not None else f"unreadable {name}"
                self._identities[name, each] = identity
        return Shown(self._identities[name, change], name, change)


def _file(source: ImageSource, name: str) -> EncodedFile | None:
    """The file; None if it is empty or unreadable, which the run reports when it comes to that image."""
    try:
        return source.read(name)
    except DataError:
        return None


def _identity(file: EncodedFile, change: str | None, seed: int) -> str:
    """Content identity of a file as shown: the same exactly if the pixels and how they came about are."""
    if change == "blank" and (size := _size(file)):
        return f"blank {size[0]}x{size[1]}"
    if change == "blank":
        return f"blank of {file.sha256}"
    if change == "shuffled":
        return f"shuffled {controls.GRID}x{controls.GRID} seed {seed} of {file.sha256}"
    return file.sha256


def _size(file: EncodedFile) -> tuple[int, int] | None:
    """(width, height) as shown, from the header alone; None if unreadable (the run reports that image)."""
    from PIL import ExifTags, Image

    try:
        with Image.open(io.BytesIO(file.data)) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (height, width) if turned else (width, height)
    except Exception:
        return None


def load_pixels(shown: Shown, sources: Sequence[ImageSource], seed: int) -> Image:
    """The pixels of an image as shown.

    Raises:
        DataError: its file is bad, or no longer what was planned.
    """
    holders = [s for s in dict.fromkeys(sources) if not s.missing([shown.name])]
    if not holders:
        raise DataError(f"image {shown.name}: gone since the run was planned")
    # Several containers may hold different files of one name.
    for file in (source.read(shown.name) for source in holders):
        if _identity(file, shown.control, seed) != shown.identity:
            continue
        if shown.control == "blank" and (size := _size(file)):
            return controls.blank(size)
        image = decode(file)
        return controls.shuffled(image, file.sha256, seed) if shown.control == "shuffled" else image
    raise DataError(f"image {shown.name}: changed since the run was planned; give the command again")
