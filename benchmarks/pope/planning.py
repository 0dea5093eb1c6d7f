"""One POPE run: from question sets, images and a model's fingerprint to planned asks, and back to scores."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from agevlm.data.images import EncodedFile, decode
from agevlm.data.sources import ImageSource, require_images
from agevlm.errors import DataError
from benchmarks import controls
from benchmarks.plan import Group, Planner, Shown, lot
from benchmarks.pope.rows import IMAGE
from benchmarks.pope.types import LIMIT, Question, QuestionSet
from benchmarks.prompts import Prompt

if TYPE_CHECKING:
    from PIL.Image import Image

CHANGES = ("blank", "shuffled")
"""Controls that change the pixels of the question's own image."""


@dataclass(frozen=True)
class PopePlan:
    """What a POPE run will ask, and which answer each question waits for."""

    groups: list[Group]
    rows: list[dict[str, Any]]
    """The rows of questions.jsonl: the set's number in the manifest, the question, its answer key by condition."""

    @property
    def images(self) -> int:
        """Distinct images as shown, controls included."""
        return sum(g.shown is not None for g in self.groups)

    @property
    def pairs(self) -> int:
        """Distinct (image as shown, prompt) pairs."""
        return sum(len(g.asks) for g in self.groups)

    @property
    def questions(self) -> int:
        return len(self.rows)


def limit_images(sets: Sequence[QuestionSet], limit: int | None, seed: int) -> tuple[QuestionSet, ...]:
    """`limit` seeded images (pairs in POPEv2) of each set, with all their questions in all splits.

    A larger limit takes the same images and more, and sets of the same images (RePOPE's) take the same ones. The limit
    becomes part of the data version: a score on some images is none on the published set.
    """
    if limit is None:
        return tuple(sets)
    limited = []
    for one in sets:
        clusters = {q.cluster for q in one.questions}
        chosen = set(sorted(clusters, key=lambda c: lot(seed, c))[:limit])
        kept = tuple(q for q in one.questions if q.cluster in chosen)
        version = (
            f"{one.data_version}{LIMIT}{limit} seed {seed}" if len(kept) < len(one.questions) else one.data_version
        )
        limited.append(replace(one, data_version=version, questions=kept))
    return tuple(limited)


def plan_pope(
    sets: Sequence[QuestionSet],
    sources: Sequence[ImageSource],
    *,
    prompt: Prompt,
    conditions: Sequence[str],
    decoding: Mapping[str, Any],
    fingerprint: str,
    seed: int,
) -> PopePlan:
    """Plan every question under every condition; identical (image, prompt) pairs are planned once.

    Args:
        sets: the questions.
        sources: where each set's images are, one per set.
        prompt: template of the asks.
        conditions: "image" and controls.
        decoding: settings that are part of an answer's identity.
        fingerprint: the model's digest, likewise.
        seed: of the order and the controls.

    Raises:
        DataError: images are missing (how many, the first names), or a control is impossible.
    """
    planner = Planner(decoding, fingerprint)
    rows = []
    for number, (one, source) in enumerate(zip(sets, sources, strict=True)):
        require_images(source, (q.image for q in one.questions))
        shown = _Shower(one, source, conditions, seed)
        for question in one.questions:
            text = prompt.of(question.text)
            keys = {c: planner.add(shown.of(question, c), text) for c in conditions}
            plain = {k: v for k, v in asdict(question).items() if k != "where"}
            rows.append({"set": number, "question": plain, "keys": keys})
    return PopePlan(planner.groups(seed), rows)


class _Shower:
    """What a question's image becomes under each condition, by content."""

    def __init__(self, one: QuestionSet, source: ImageSource, conditions: Sequence[str], seed: int) -> None:
        self.source, self.seed = source, seed
        self._changes = [c for c in CHANGES if c in conditions]
        self._identities: dict[tuple[str, str | None], str] = {}
        self._others: dict[str, str] = {}
        if "other-image" in conditions:
            clusters: dict[str, set[str]] = {}
            for q in one.questions:
                clusters.setdefault(q.cluster, set()).add(q.image)
            self._others = controls.derangement({c: sorted(i) for c, i in clusters.items()}, seed)
            if not self._others:
                raise DataError(f"control other-image: {one.name} has one image only; it needs at least two")

    def of(self, question: Question, condition: str) -> Shown | None:
        if condition == "blind":
            return None
        if condition == IMAGE:
            return self._shown(question.image, None)
        if condition == "other-image":
            return self._shown(self._others[question.image], None)
        if condition in CHANGES:
            return self._shown(question.image, condition)
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
