"""What a model says of held-out scenes: POPE-Scenes and CV-Scenes by ranked options, with and without the image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agevlm.data.annotations import InstanceImage, Instances
from agevlm.errors import CheckpointError
from agevlm.scenes.categories import CATEGORIES
from agevlm.scenes.questions import CV_KINDS, cv_scenes
from agevlm.vlm.contract import Ask, EncodedImages, Vlm
from benchmarks.pope.build import build_pope
from benchmarks.pope.types import SPLITS
from benchmarks.statistics.clusters import Interval
from benchmarks.statistics.paired import paired_gain
from benchmarks.statistics.scores import Floats
from reports.scenes.intervals import share
from train.scenes.store import SceneStore

CHUNK = 50
"""Images encoded together."""
POOLED: Mapping[str, Sequence[str]] = {"pope": SPLITS, "cv": CV_KINDS}
"""Kinds of questions that are also scored together."""


@dataclass(frozen=True)
class AnswerRow:
    """One question and how it was answered."""

    image: int
    kind: str
    """random, popular, adversarial, or a kind of CV-Scenes."""
    subject: str
    """The object asked about, for POPE-Scenes; else the question."""
    answer: str
    said: str
    """The most likely option."""
    blind: str
    """The same without the image."""
    letter: str = ""
    """The most likely letter, where the options were offered with letters too."""
    right_letter: str = ""

    @property
    def key(self) -> tuple[int, str, str]:
        """What makes two models' rows the same question."""
        return self.image, self.kind, self.subject


@dataclass(frozen=True)
class _Question:
    """A question as it is put, in both forms."""

    image: int
    kind: str
    subject: str
    text: str
    options: tuple[str, ...]
    answer: str
    lettered: str = ""
    letters: tuple[str, ...] = ()
    right_letter: str = ""


def instances_of(store: SceneStore, count: int) -> Instances:
    """The first scenes of a store as annotated images."""
    images = []
    for i, facts in enumerate(store.facts[:count]):
        seen = list(dict.fromkeys(thing.category for thing in facts.instances))
        images.append(InstanceImage(i, f"{i:09d}.png", facts.width, facts.height, tuple(seen)))
    return Instances(Path("scenes"), "", tuple(images), (), dict(enumerate(CATEGORIES)))


def _questions(store: SceneStore, count: int, seed: int) -> list[_Question]:
    """All questions about the first scenes, image by image."""
    found: list[_Question] = []
    for q in build_pope(instances_of(store, count), seed=seed).questions:
        answer = "yes" if q.label else "no"
        found.append(_Question(int(Path(q.image).stem), q.split, q.object_name, q.text, ("yes", "no"), answer))
    for cv in cv_scenes(store.facts[:count], seed):
        asked, lettered = cv.asked, cv.asked.lettered()
        text = asked.question.text
        also = (lettered.question.text, lettered.options, lettered.answer)
        found.append(_Question(cv.image, asked.kind, text, text, asked.options, asked.answer, *also))
    return sorted(found, key=lambda q: q.image)


def chunks(vlm: Vlm, store: SceneStore, count: int) -> Iterator[tuple[range, EncodedImages]]:
    """The first scenes, encoded so many at a time."""
    from PIL import Image

    for at in range(0, count, CHUNK):
        rows = range(at, min(at + CHUNK, count))
        yield rows, vlm.encode([Image.fromarray(store.image(i)) for i in rows])


def _ranked(
    vlm: Vlm, encoded: EncodedImages, wanted: Sequence[tuple[str, int | None, tuple[str, ...]]]
) -> list[dict[str, float]]:
    """Log-probability of each option of (text, image, options); what is asked more than once is ranked once."""
    every: dict[tuple[int | None, str], dict[str, None]] = {}
    for text, image, options in wanted:
        every.setdefault((image, text), {}).update(dict.fromkeys(options))
    # Rows of one length side by side are padded least.
    keys = sorted(every, key=lambda k: (-1 if k[0] is None else k[0], len(k[1]), k[1]))
    offered = [tuple(every[key]) for key in keys]
    scores = vlm.rank(encoded, [Ask(text, image) for image, text in keys], offered)
    found = {k: dict(zip(names, row, strict=True)) for k, names, row in zip(keys, offered, scores, strict=True)}
    return [found[image, text] for text, image, _ in wanted]


def _best(scores: Mapping[str, float], options: Sequence[str]) -> str:
    if any(math.isnan(scores[option]) for option in options):
        raise CheckpointError("the model's log-probabilities are not numbers: nothing can be said of its answers")
    return max(options, key=lambda option: scores[option])


def ask_all(vlm: Vlm, store: SceneStore, count: int, seed: int = 0) -> list[AnswerRow]:
    """POPE-Scenes by POPE's own sampling, and CV-Scenes, about the first `count` scenes; answers by ranked options."""
    questions = _questions(store, count, seed)
    blind = _ranked(vlm, vlm.encode([]), [(q.text, None, q.options) for q in questions])
    without = {id(q): _best(scores, q.options) for q, scores in zip(questions, blind, strict=True)}
    rows: list[AnswerRow] = []
    for images, encoded in chunks(vlm, store, count):
        held = [q for q in questions if q.image in images]
        plain = [(q.text, q.image - images.start, q.options) for q in held]
        lettered = [(q.lettered, q.image - images.start, q.letters) for q in held if q.letters]
        scores = _ranked(vlm, encoded, [*plain, *lettered])
        letters = iter(scores[len(plain) :])
        for q, own in zip(held, scores, strict=False):
            letter = _best(next(letters), q.letters) if q.letters else ""
            said = _best(own, q.options)
            rows.append(AnswerRow(q.image, q.kind, q.subject, q.answer, said, without[id(q)], letter, q.right_letter))
    return rows


def measures(rows: Sequence[AnswerRow]) -> dict[str, list[float | None]]:
    """What each row adds to each score: 1 or 0, None where it has no part in it.

    accuracy; blind, the same without the image; letters, the same by lettered options; fpr, of the questions whose
    answer is no the share that was answered yes; recall, the same of those whose answer is yes.
    """
    return {
        "accuracy": [float(r.said == r.answer) for r in rows],
        "blind": [float(r.blind == r.answer) for r in rows],
        "letters": [float(r.letter == r.right_letter) if r.letter else None for r in rows],
        "fpr": [float(r.said == "yes") if r.answer == "no" else None for r in rows],
        "recall": [float(r.said == "yes") if r.answer == "yes" else None for r in rows],
    }


def kinds_of(rows: Sequence[AnswerRow]) -> dict[str, list[AnswerRow]]:
    """Rows by kind, and the pooled ones."""
    found = {kind: [r for r in rows if r.kind == kind] for kind in (*SPLITS, *CV_KINDS)}
    found |= {name: [r for r in rows if r.kind in kinds] for name, kinds in POOLED.items()}
    return {kind: own for kind, own in found.items() if own}


def answer_scores(rows: Sequence[AnswerRow], weights: Floats) -> dict[str, dict[str, Interval | int]]:
    """Of every kind: how many questions and images, and every score with its interval over images.

    `weights` (draws, images) as `resampling_weights` gives them; `seeing` is accuracy minus the same without the image.
    """
    scored: dict[str, dict[str, Interval | int]] = {}
    for kind, own in kinds_of(rows).items():
        images = [r.image for r in own]
        found: dict[str, Interval | int] = {"questions": len(own), "images": len(set(images))}
        every = measures(own)
        for name, values in every.items():
            kept = [(v, i) for v, i in zip(values, images, strict=True) if v is not None]
            if kept:
                found[name] = share([v for v, _ in kept], [i for _, i in kept], weights)
        found["seeing"] = paired_gain(
            np.array(every["accuracy"], float), np.array(every["blind"], float), images, weights
        )
        scored[kind] = found
    return scored
