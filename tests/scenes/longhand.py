"""What is true of scenes, worked out from their pixels in other words than the package's, and their texts read back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import numpy as np

from agevlm.scenes.language import Facts
from agevlm.scenes.types import Scene, split_seeds
from agevlm.scenes.world import render

CATEGORIES = [
    *("person", "bicycle", "car", "bus", "truck", "boat", "sign", "tree", "bird", "cat", "dog", "kite", "ball"),
    *("umbrella", "bottle", "cup", "bowl", "vase", "fork", "spoon", "apple", "book", "clock", "laptop", "lamp", "sofa"),
]
COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "white", "black"]
NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
PLURALS = {name: f"{name}s" for name in CATEGORIES} | {"person": "people", "bus": "buses"}
CATEGORY_OF = {word: name for name in CATEGORIES for word in (name, PLURALS[name])}
UNGROUNDED = {"bird", "kite", "clock"}
"""What flies or hangs: where it stands cannot be seen."""


@cache
def scene(seed: int) -> Scene:
    return render(seed)


def scenes(split: str, count: int) -> list[Scene]:
    return [scene(seed) for seed in split_seeds(split, count)]


@cache
def facts(split: str, count: int) -> tuple[Facts, ...]:
    return tuple(Facts.of(one) for one in scenes(split, count))


@dataclass(frozen=True)
class Thing:
    category: str
    colour: str
    x: float
    y: float
    """Of the mean of its pixels."""
    depth: float


class Truth:
    """A scene as its id image and its list of objects have it."""

    def __init__(self, of: Scene) -> None:
        self.height, self.width = of.ids.shape
        self.setting = of.setting
        self.things = []
        for number, instance in enumerate(of.instances, start=1):
            ys, xs = np.nonzero(of.ids == number)
            x, y = float(np.mean(xs)) + 0.5, float(np.mean(ys)) + 0.5
            self.things.append(Thing(instance.category, instance.colour, x, y, instance.depth))

    def places(self, category: str) -> tuple[int, ...]:
        return tuple(i for i, thing in enumerate(self.things) if thing.category == category)

    def number(self, category: str) -> int:
        return len(self.places(category))

    def only(self, category: str) -> Thing:
        (place,) = self.places(category)
        return self.things[place]

    def side(self, a: str, b: str, words: tuple[str, str]) -> str | None:
        """Left or right (above or below) as seen from b; None where less than 12 % of the picture is between."""
        one, other = self.only(a), self.only(b)
        off = (one.x - other.x) / self.width if words == ("left", "right") else (one.y - other.y) / self.height
        return None if abs(off) < 0.12 else words[off > 0]

    def nearer(self, a: str, b: str) -> str | None:
        if UNGROUNDED & {a, b}:
            return None
        ratio = self.only(a).depth / self.only(b).depth
        return None if 1 / 1.3 < ratio < 1.3 else (a if ratio < 1 else b)

    def closer(self, to: str, a: str, b: str) -> str | None:
        first, second = (float(np.hypot(t.x - self.only(to).x, t.y - self.only(to).y)) for t in map(self.only, (a, b)))
        return None if max(first, second) < 1.6 * min(first, second) else (a if first < second else b)


def article(word: str) -> str:
    return "an" if word in ("umbrella", "apple", "orange") else "a"


QUESTIONS = {
    "exist": r"Is there (an?) (\w+) in the image\?",
    "count": r"How many (\w+) are in the image\?",
    "color": r"What color is the (\w+) in the image\?",
    "relation": r"Where is the (\w+) located with respect to the (\w+) in the image, (\w+) or (\w+)\?",
    "depth": r"Which object is closer to the camera, the (\w+) or the (\w+)\?",
    "distance": r"Which object is closer to the (\w+), the (\w+) or the (\w+)\?",
}


def answer(truth: Truth, kind: str, text: str, options: tuple[str, ...]) -> str | None:
    """The right answer to a question as it is asked; None if it should not have been."""
    match = re.fullmatch(QUESTIONS[kind], text)
    assert match, text
    words = match.groups()
    if kind == "exist":
        assert words[0] == article(words[1])
        return "yes" if truth.number(words[1]) else "no"
    if kind == "count":
        (name,) = (n for n in CATEGORIES if PLURALS[n] == words[0])
        return str(truth.number(name))
    if kind == "color":
        return truth.only(words[0]).colour
    if kind == "relation":
        assert words[2:] == options
        across = {"left", "right"} == set(options)
        assert across or {"above", "below"} == set(options)
        return truth.side(*words[:2], ("left", "right") if across else ("above", "below"))
    if kind == "depth":
        return truth.nearer(*words)
    return truth.closer(*words)


def holds(truth: Truth, kind: str, text: str) -> bool | None:
    """Whether a statement is true; None if nothing clear is said."""
    if kind == "exist":
        a, name = re.fullmatch(r"there is (an?) (\w+)\.", text).groups()  # type: ignore[union-attr]
        assert a == article(name)
        return truth.number(name) > 0
    if kind == "absence":
        (name,) = re.fullmatch(r"there is no (\w+)\.", text).groups()  # type: ignore[union-attr]
        return truth.number(name) == 0
    if kind == "count":
        verb, number, noun = re.fullmatch(r"there (is|are) (?!no )(\w+) (\w+)\.", text).groups()  # type: ignore[union-attr]
        name, said = CATEGORY_OF[noun], NUMBERS.index(number)
        assert (verb, noun) == (("is", name) if said == 1 else ("are", PLURALS[name]))
        return truth.number(name) == said
    if kind == "color":
        name, colour = re.fullmatch(r"the (\w+) is (\w+)\.", text).groups()  # type: ignore[union-attr]
        return truth.only(name).colour == colour
    if kind == "relation":
        a, word, b = re.fullmatch(r"the (\w+) is (left of|right of|above|below) the (\w+)\.", text).groups()  # type: ignore[union-attr]
        word = word.removesuffix(" of")
        where = truth.side(a, b, ("left", "right") if word in ("left", "right") else ("above", "below"))
        return None if where is None else where == word
    a, word, b = re.fullmatch(r"the (\w+) is (closer|farther) than the (\w+)\.", text).groups()  # type: ignore[union-attr]
    near = truth.nearer(a, b)
    return None if near is None else (near == a) == (word == "closer")


@dataclass(frozen=True)
class Listed:
    """One entry of a caption."""

    number: int
    colour: str | None
    category: str


def listed(text: str) -> tuple[list[Listed], str]:
    """A caption's entries and setting."""
    entries, setting = re.fullmatch(r"(.+?) in the (\w+(?: \w+)?)\.", text).groups()  # type: ignore[union-attr]
    found = []
    for entry in re.split(r", | and ", entries):
        number, colour, noun = re.fullmatch(r"(\w+)(?: (\w+))?? (\w+)", entry).groups()  # type: ignore[union-attr]
        one = number in ("a", "an")
        assert not one or number == article(colour or noun)
        category = CATEGORY_OF[noun]
        assert noun == (category if one else PLURALS[category])
        found.append(Listed(1 if one else NUMBERS.index(number), colour, category))
    return found, setting


def true_of(truth: Truth, entry: Listed) -> bool:
    colours = {truth.things[i].colour for i in truth.places(entry.category)}
    return truth.number(entry.category) == entry.number and (
        entry.colour == next(iter(colours)) if len(colours) == 1 else entry.colour is None
    )
