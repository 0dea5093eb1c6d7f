"""What a model knows of held-out scenes: existence, CV-Scenes, and where it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agevlm.data.annotations import InstanceImage, Instances
from agevlm.scenes.categories import CATEGORIES
from agevlm.scenes.language import article
from agevlm.scenes.questions import cv_scenes
from agevlm.vlm.contract import Ask, ProbeSpec, Vlm
from benchmarks.pope.build import build_pope
from train.scenes.store import SceneStore

CHUNK = 50
"""Images encoded together."""


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
    blind: str = ""
    """The same without the image."""
    letter: str = ""
    """The most likely letter, where the options were offered with letters."""
    right_letter: str = ""


@dataclass(frozen=True)
class LookRow:
    """Where a model looked for one object that is there."""

    image: int
    category: str
    word_iou: float
    """Of the object word's attention, above the threshold that was chosen on other scenes, with the region's cells."""
    word_mass: float
    """Attention inside the region's cells."""
    word_hit: bool
    """The cell of most attention lies in the region."""
    answer_iou: float
    """The same of the position that predicts the answer."""
    answer_mass: float
    answer_hit: bool


def instances_of(store: SceneStore, count: int) -> Instances:
    """The first scenes of a store as annotated images."""
    images = []
    for i, facts in enumerate(store.facts[:count]):
        seen = list(dict.fromkeys(thing.category for thing in facts.instances))
        images.append(InstanceImage(i, f"{i:09d}.png", facts.width, facts.height, tuple(seen)))
    return Instances(Path("scenes"), "", tuple(images), (), dict(enumerate(CATEGORIES)))


def _chunks(vlm: Vlm, store: SceneStore, count: int) -> Any:
    from PIL import Image

    for at in range(0, count, CHUNK):
        rows = range(at, min(at + CHUNK, count))
        yield rows, vlm.encode([Image.fromarray(store.image(i)) for i in rows])


def ask_all(vlm: Vlm, store: SceneStore, count: int, seed: int = 0) -> list[AnswerRow]:
    """POPE-Scenes by POPE's own sampling, and CV-Scenes, about the first `count` scenes; answers by ranked options."""
    built = build_pope(instances_of(store, count), seed=seed)
    by_image: dict[int, list[tuple[str, str, str, str, tuple[str, ...]]]] = {}
    for q in built.questions:
        image = int(Path(q.image).stem)
        by_image.setdefault(image, []).append((q.split, q.text, q.object_name, "yes" if q.label else "no", ("yes", "no")))
    lettered = {}
    for cv in cv_scenes(store.facts[:count], seed):
        asked = cv.asked
        text = asked.question.text
        by_image.setdefault(cv.image, []).append((asked.kind, text, text, asked.answer, asked.options))
        lettered[cv.image, text] = asked.lettered()
    rows: list[AnswerRow] = []
    for images, encoded in _chunks(vlm, store, count):
        held = [(i, item) for i in images for item in by_image.get(i, [])]
        options = [item[4] for _, item in held]
        seen = vlm.rank(encoded, [Ask(item[1], i - images.start) for i, item in held], options)
        blind = vlm.rank(encoded, [Ask(item[1], None) for _, item in held], options)
        letters = [lettered.get((i, item[1])) for i, item in held]
        asked_letters = [(k, q, held[k][0]) for k, q in enumerate(letters) if q is not None]
        ranked = vlm.rank(
            encoded,
            [Ask(q.question.text, i - images.start) for _, q, i in asked_letters],
            [q.options for _, q, _ in asked_letters],
        )
        said_letters = {
            k: (q.options[int(np.argmax(scores))], q.answer)
            for (k, q, _), scores in zip(asked_letters, ranked, strict=True)
        }
        for k, (i, item) in enumerate(held):
            letter, right = said_letters.get(k, ("", ""))
            rows.append(
                AnswerRow(
                    i,
                    item[0],
                    item[2],
                    item[3],
                    item[4][int(np.argmax(seen[k]))],
                    item[4][int(np.argmax(blind[k]))],
                    letter,
                    right,
                )
            )
    return rows


def accuracies(rows: Sequence[AnswerRow]) -> dict[str, dict[str, float]]:
    """Of each kind: n, accuracy, the same without the image and by letters; for POPE the share of "no"s that were yes."""
    found: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(row.kind for row in rows):
        own = [row for row in rows if row.kind == kind]
        scores = {
            "n": float(len(own)),
            "accuracy": float(np.mean([r.said == r.answer for r in own])),
            "blind": float(np.mean([r.blind == r.answer for r in own])),
        }
        if own[0].letter:
            scores["letters"] = float(np.mean([r.letter == r.right_letter for r in own]))
        negatives = [r.said == "yes" for r in own if r.answer == "no"]
        if negatives:
            scores["fpr"] = float(np.mean(negatives))
        found[kind] = scores
    return found


@dataclass(frozen=True)
class _Looked:
    image: int
    category: str
    word: NDArray[np.float64]
    answer: NDArray[np.float64]
    region: NDArray[np.float64]


def _looks(vlm: Vlm, store: SceneStore, count: int, layers: tuple[int, ...] | None) -> list[_Looked]:
    """Attention of the object word and of the answer's position, mean over layers, for "Is there a dog in the image?"."""
    looked = []
    for images, encoded in _chunks(vlm, store, count):
        held = [(i, name) for i in images for name in store.facts[i].present]
        asks = [Ask(f"Is there {article(name)} {name} in the image?", i - images.start) for i, name in held]
        if not asks:
            continue
        probes = vlm.probe(encoded, asks, [()] * len(asks), ProbeSpec(layers))
        for (i, name), probe in zip(held, probes, strict=True):
            ends = [k for k, t in enumerate(probe.tokens) if t.part == "prompt" and t.text.strip().lower() == name]
            mean = probe.attention.astype(np.float64).mean(0)
            region = probe.geometry.mask_to_grid(store.mask(i, store.facts[i].having(name)))
            looked.append(_Looked(i, name, mean[ends[-1]], mean[len(probe.tokens) - 1], region))
    return looked


def best_threshold(looked: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> float:
    """The share of the largest attention above which cells count as looked at, best for mean IoU."""
    candidates = np.arange(0.05, 1.0, 0.05)
    return float(max(candidates, key=lambda t: np.mean([iou(a, r, float(t)) for a, r in looked])))


def iou(attention: NDArray[np.float64], region: NDArray[np.float64], threshold: float) -> float:
    """Soft IoU on the token grid: cells above `threshold` times the largest attention, against region coverage."""
    chosen = (attention >= threshold * attention.max()).astype(np.float64)
    return float(np.minimum(chosen, region).sum() / np.maximum(chosen, region).sum())


def look_all(
    vlm: Vlm, store: SceneStore, count: int, chosen_on: SceneStore, layers: tuple[int, ...] | None = None
) -> list[LookRow]:
    """Where the model looks, for every object that is there; thresholds are chosen on the scenes of `chosen_on`."""
    tuning = _looks(vlm, chosen_on, min(count, 200), layers)
    word = best_threshold([(x.word, x.region) for x in tuning])
    answer = best_threshold([(x.answer, x.region) for x in tuning])
    rows = []
    for x in _looks(vlm, store, count, layers):
        inside = x.region > 0
        rows.append(
            LookRow(
                x.image,
                x.category,
                iou(x.word, x.region, word),
                float(x.word[inside].sum() / max(x.word.sum(), 1e-9)),
                bool(inside.flat[x.word.argmax()]),
                iou(x.answer, x.region, answer),
                float(x.answer[inside].sum() / max(x.answer.sum(), 1e-9)),
                bool(inside.flat[x.answer.argmax()]),
            )
        )
    return rows


def look_means(rows: Sequence[LookRow]) -> Mapping[str, float]:
    """Means over all objects."""
    names = ("word_iou", "word_mass", "word_hit", "answer_iou", "answer_mass", "answer_hit")
    return {"n": float(len(rows)), **{name: float(np.mean([getattr(r, name) for r in rows])) for name in names}}
