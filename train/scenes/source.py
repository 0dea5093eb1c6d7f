"""Rendered scenes as training samples: questions and captions drawn anew at every reading, with exact regions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from agevlm.errors import DataError
from agevlm.scenes.language import (
    QUESTIONS,
    Facts,
    Text,
    Writer,
    attributes,
    caption,
    draw_questions,
    draw_statements,
)
from agevlm.scenes.types import SPLIT_STARTS
from train.data.samples import Message, Phrase, Sample
from train.scenes.store import SceneStore
from train.validation import Where, build

SHORT = "Answer the question using a single word or phrase."
"""What evaluation suites add to a question."""


@dataclass(frozen=True)
class ScenesOptions:
    """Which scenes, and what is said of them."""

    root: str = "runs/scenes/data"
    """Where rendered scenes are kept."""
    split: str = "train"
    count: int = 20_000
    questions: Mapping[str, float] = field(
        default_factory=lambda: {
            "exist": 0.3,
            "count": 0.16,
            "color": 0.12,
            "relation": 0.2,
            "depth": 0.11,
            "distance": 0.11,
        }
    )
    """Weights of the kinds of questions."""
    turns: int = 6
    """Questions about one picture."""
    captions: float = 0.0
    """Share of samples that describe the picture instead: half captions, half lists of statements."""
    places: float = 0.0
    """Share of samples that ask for single attributes of objects, place and distance in words of the language model's
    own: "the dog x?" "x3"."""
    short: float = 0.1
    """Share of questions that ask for a single word."""
    lettered: float = 0.1
    """Share of questions (existence aside) with lettered options."""
    seed: int = 0
    """Of what is said."""
    workers: int = 2
    """Processes that render."""
    name: str = ""
    """Of the source; "scenes" and the split if empty."""


class ScenesSource:
    """See the module; one sample a scene."""

    def __init__(self, store: SceneStore, options: ScenesOptions) -> None:
        self.name = options.name or f"scenes {options.split}"
        self.store, self.options = store, options
        self.guided = range(len(store))

    @classmethod
    def open(cls, options: Mapping[str, Any]) -> ScenesSource:
        """From a stage's settings; scenes that are not on disk yet are rendered.

        Raises:
            ConfigError: an unknown option, or one of a wrong type.
            DataError: one out of its range.
        """
        chosen: ScenesOptions = build(ScenesOptions, options, (), Where("source scenes"))
        for name in ("captions", "places", "short", "lettered"):
            if not 0 <= (share := getattr(chosen, name)) <= 1:
                raise DataError(f"source scenes: {name}: {share} is no share: give a number from 0 to 1")
        if chosen.captions + chosen.places > 1:
            raise DataError(f"source scenes: captions {chosen.captions} and places {chosen.places} are more than 1")
        if unknown := sorted(set(chosen.questions) - set(QUESTIONS)):
            raise DataError(f"source scenes: no questions of kind {unknown[0]!r}; there are {', '.join(QUESTIONS)}")
        if min(chosen.questions.values(), default=0) < 0 or not sum(chosen.questions.values()):
            raise DataError("source scenes: questions: give weights of 0 or more, at least one above 0")
        if chosen.turns < 1 or chosen.workers < 1:
            raise DataError(f"source scenes: turns {chosen.turns} and workers {chosen.workers} must be at least 1")
        if chosen.split not in SPLIT_STARTS or chosen.count < 1:
            raise DataError(
                f"source scenes: {chosen.count} scenes of split {chosen.split!r}; give at least one, of "
                f"{', '.join(SPLIT_STARTS)}"
            )
        store = SceneStore.open(Path(chosen.root), chosen.split, chosen.count, workers=chosen.workers)
        return cls(store, chosen)

    @property
    def fingerprint(self) -> str:
        said = {key: value for key, value in asdict(self.options).items() if key not in ("root", "workers", "name")}
        text = json.dumps([self.store.folder.name, said], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.store)

    def read(self, index: int, epoch: int) -> Sample:
        from PIL import Image

        facts, options = self.store.facts[index], self.options
        draw = Random(f"{options.seed}/{index}/{epoch}")
        kind = draw.random()
        said: list[Text] = []
        if kind >= options.captions + options.places:
            said = self._questions(facts, draw)
        elif kind >= options.captions:
            said = self._places(facts, draw)
        if not said:
            if draw.random() < 0.5:
                said = [Text("Describe the image."), caption(facts, draw)]
            else:
                said = [Text("Describe the image."), _joined([s.text for s in draw_statements(facts, draw, 6)])]
        phrases = tuple(
            Phrase(number, mention.start, mention.end, self.store.mask(index, mention.instances))
            for number, text in enumerate(said)
            for mention in text.mentions
            if mention.instances and mention.kind == "object"
        )
        messages = tuple(Message(("user", "assistant")[i % 2], text.text) for i, text in enumerate(said))
        return Sample(f"{self.name} {index}", messages, Image.fromarray(self.store.image(index)), phrases)

    def _questions(self, facts: Facts, draw: Random) -> list[Text]:
        said = []
        for question in draw_questions(facts, draw, dict(self.options.questions), self.options.turns):
            asked = question
            if question.kind != "exist" and draw.random() < self.options.lettered:
                asked = question.lettered()
            elif draw.random() < self.options.short:
                text = Text(f"{question.question.text} {SHORT}", question.question.mentions)
                said += [text, Text(asked.answer)]
                continue
            said += [asked.question, Text(asked.answer)]
        return said

    def _places(self, facts: Facts, draw: Random) -> list[Text]:
        every = [(i, name, word) for i in facts.single for name, word in attributes(facts, facts.instances[i]).items()]
        said = []
        for i, name, word in draw.sample(every, min(self.options.turns, len(every))):
            said += [Writer().say("the").say(facts.instances[i].category, (i,)).say(f"{name}?").done(), Text(word)]
        return said


def _joined(texts: list[Text]) -> Text:
    """Sentences one after the other, their mentions moved along."""
    from dataclasses import replace

    whole, mentions = "", []
    for text in texts:
        start = len(whole) + 1 if whole else 0
        whole = f"{whole} {text.text}" if whole else text.text
        mentions += [replace(m, start=m.start + start, end=m.end + start) for m in text.mentions]
    return Text(whole, tuple(mentions))
