"""The distinct questions of each image, with what is known of the object they ask about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agevlm.data.sources import ImageSource, require_images
from agevlm.errors import DataError
from analysis.linkage.annotated import Annotated, Objects
from benchmarks.pope.types import Question, QuestionSet
from benchmarks.prompts import Prompt


@dataclass(frozen=True)
class Case:
    """One distinct question about one image. POPE asks about present objects in every split: that is one case."""

    text: str
    prompt: str
    """The text as it is put to the model."""
    name: str
    """The object that is asked about."""
    label: bool
    """The official answer."""
    splits: tuple[str, ...]
    ids: tuple[str, ...]
    """Official ids, `SPLIT ID`."""
    cluster: str
    """The sampling unit: the image, or in POPEv2 the pair of original and edited image."""
    prior: float | None
    mask: bytes | None
    """Run lengths of the object's region where it is annotated; None otherwise."""


@dataclass(frozen=True)
class Sheet:
    """All cases of one image."""

    image: str
    sha256: str
    """Of the image file; what is not readable has none, and fails when it is looked at."""
    source: int
    """Which of the image sources."""
    cases: tuple[Case, ...]
    objects: Objects | None
    annotations: str
    """What identifies the annotations, or nothing."""

    def key(self, **how: object) -> str:
        """What the image's records are known by: everything that decides them but the model."""
        asked = [(c.prompt, c.name, c.label, c.cluster, c.ids) for c in self.cases]
        content = json.dumps([self.image, self.sha256, asked, self.annotations, how], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:32]


@dataclass
class Sheets:
    """The images in order, and what is to be told of the data."""

    sheets: list[Sheet] = field(default_factory=list)
    repeated: int = 0
    """Questions that another split asks, too."""
    not_annotated: int = 0
    """Cases about present objects without a region in the annotations."""
    contradicted: int = 0
    """Cases about absent objects that the annotations show."""
    unknown: int = 0
    """Cases whose object is no category of the annotations."""
    images_without: int = 0
    """Images that the annotations do not have."""

    @property
    def cases(self) -> int:
        return sum(len(sheet.cases) for sheet in self.sheets)


def make_sheets(
    sets: Sequence[QuestionSet], sources: Sequence[ImageSource], prompt: Prompt, annotated: Annotated | None
) -> Sheets:
    """Group questions by image, each distinct one once.

    Raises:
        DataError: images are missing; one question of one image has two labels.
    """
    made = Sheets()
    for number, (one, source) in enumerate(zip(sets, sources, strict=True)):
        require_images(source, (q.image for q in one.questions))
        by_image: dict[str, dict[str, list[Question]]] = {}
        for question in one.questions:
            by_image.setdefault(question.image, {}).setdefault(question.text, []).append(question)
        lacking = set(annotated.missing(by_image)) if annotated is not None else set()
        made.images_without += len(lacking)
        for image in sorted(by_image):
            asked = by_image[image]
            made.repeated += sum(len(same) - 1 for same in asked.values())
            objects = annotated.of(image) if annotated is not None and image not in lacking else None
            cases = tuple(_case(asked[text], prompt, objects, made) for text in sorted(asked))
            digest = annotated.digest if annotated is not None else ""
            made.sheets.append(Sheet(image, _sha256(source, image), number, cases, objects, digest))
    return made


def _case(same: Sequence[Question], prompt: Prompt, objects: Objects | None, made: Sheets) -> Case:
    first = same[0]
    if other := next((q for q in same if q.label != first.label), None):
        raise DataError(f"{other.where}: {first.text!r} about {first.image} has the other label at {first.where}")
    masks: Mapping[str, bytes | None] = objects.masks if objects is not None else {}
    mask = masks.get(first.object_name) if first.label else None
    if objects is not None:
        made.unknown += first.object_name not in objects.prior
        made.not_annotated += first.label and mask is None
        made.contradicted += not first.label and first.object_name in masks
    return Case(
        first.text,
        prompt.of(first.text),
        first.object_name,
        first.label,
        tuple(dict.fromkeys(q.split for q in same)),
        tuple(f"{q.split} {q.question_id}" for q in same),
        first.cluster,
        None if objects is None else objects.prior.get(first.object_name),
        mask,
    )


def _sha256(source: ImageSource, image: str) -> str:
    try:
        return source.read(image).sha256
    except DataError:
        return f"unreadable {image}"
