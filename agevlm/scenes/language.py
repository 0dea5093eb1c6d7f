"""What can be said of a scene: statements, captions and questions, with the words that name regions.

Everything is drawn from the exact annotations by a random generator that the caller seeds. Texts follow the wording of
the benchmarks that ask for the same thing (POPE's and CV-Bench's questions), in words that `vocabulary` lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import log
from random import Random

from agevlm.scenes.categories import CATEGORIES, COLOURS
from agevlm.scenes.types import Instance, Scene

NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
IRREGULAR = {"person": "people", "bus": "buses"}
HORIZONTAL, VERTICAL = ("left", "right"), ("above", "below")
LETTERS = "ABCD"
SELECT = "Select from the following choices."
"""CV-Bench's words before the lettered options."""

COUNT_WEIGHTS = (1.0, 2.5, 5.0, 7.0)
"""How much likelier a category is asked for its number where there are 1, 2, 3, 4 or more of it."""
SIDE_MARGIN = 0.12
"""Centres must differ by so much of the picture's width (or height) for a relation to be asked."""
DEPTH_RATIO = 1.3
"""The farther object must be so many times as far for depth to be asked."""
DISTANCE_RATIO = 1.6
"""The farther of two objects must be so many times as far from the third."""


@dataclass(frozen=True)
class Mention:
    """Words of a text that name objects, or say something of them."""

    start: int
    end: int
    instances: tuple[int, ...]
    """Places in `Scene.instances`: those named, or those it is said of; empty for what is not there or not so."""
    kind: str = "object"
    """object; or one of the abstract kinds, which no region shows: attribute ("red"), relation ("left of"), negation
    ("no")."""


@dataclass(frozen=True)
class Text:
    """A text with the objects its words name."""

    text: str
    mentions: tuple[Mention, ...] = ()


@dataclass(frozen=True)
class SceneQuestion:
    """A question that the scene decides."""

    kind: str
    """exist, count, color, relation, depth or distance."""
    question: Text
    answer: str
    options: tuple[str, ...]
    """All answers to choose from, the right one among them, in the order in which they are offered."""

    def lettered(self) -> SceneQuestion:
        """The same question with lettered options in CV-Bench's layout; the answer is a letter, as in "(A)"."""
        letters = [f"({LETTERS[i]})" for i in range(len(self.options))]
        offered = " ".join(f"{letter} {option}" for letter, option in zip(letters, self.options, strict=True))
        question = replace(self.question, text=f"{self.question.text} {SELECT} {offered}")
        return replace(self, question=question, answer=letters[self.options.index(self.answer)], options=tuple(letters))


@dataclass(frozen=True)
class Facts:
    """What texts are made from: the instances and the picture's size, without its pixels."""

    instances: tuple[Instance, ...]
    width: int
    height: int
    setting: str

    @classmethod
    def of(cls, scene: Scene) -> Facts:
        """The facts of a rendered scene."""
        height, width = scene.ids.shape
        return cls(scene.instances, width, height, scene.setting)

    def having(self, category: str) -> tuple[int, ...]:
        """Places of a category's instances."""
        return tuple(i for i, thing in enumerate(self.instances) if thing.category == category)

    @property
    def present(self) -> list[str]:
        """Categories that are there, in the order of `CATEGORIES`."""
        seen = {thing.category for thing in self.instances}
        return [name for name in CATEGORIES if name in seen]

    @property
    def absent(self) -> list[str]:
        """Categories that are not."""
        seen = {thing.category for thing in self.instances}
        return [name for name in CATEGORIES if name not in seen]

    @property
    def single(self) -> list[int]:
        """Places of the instances that are the only ones of their category: "the dog" names them."""
        return [i for i, thing in enumerate(self.instances) if len(self.having(thing.category)) == 1]


def article(word: str) -> str:
    """a or an."""
    return "an" if word[0] in "aeiou" else "a"


def plural(category: str) -> str:
    """More than one of them."""
    return IRREGULAR.get(category, category + "s")


class Writer:
    """Joins pieces into a text and notes where objects are named."""

    def __init__(self) -> None:
        self._text = ""
        self._mentions: list[Mention] = []

    def say(self, words: str, instances: Sequence[int] | None = None, kind: str = "object") -> Writer:
        """Add words after a space; `instances` marks them as a mention of this kind."""
        if self._text and words[0] not in ".,?":
            self._text += " "
        start = len(self._text)
        self._text += words
        if instances is not None:
            self._mentions.append(Mention(start, len(self._text), tuple(instances), kind))
        return self

    def done(self) -> Text:
        """What was said."""
        return Text(self._text, tuple(self._mentions))


# --- questions -------------------------------------------------------------------------------------------------------


def ask_existence(facts: Facts, category: str) -> SceneQuestion:
    """POPE's question."""
    there = facts.having(category)
    text = Writer().say(f"Is there {article(category)}").say(category, there).say("in the image?").done()
    return SceneQuestion("exist", text, "yes" if there else "no", ("yes", "no"))


def _exist(facts: Facts, draw: Random) -> SceneQuestion | None:
    # Absent objects are drawn evenly: with frequent ones preferred, a model learns "asked about a car, so no".
    names = facts.present if draw.random() < 0.5 else facts.absent
    return ask_existence(facts, draw.choice(names)) if names else None


def _count(facts: Facts, draw: Random) -> SceneQuestion | None:
    if draw.random() < 0.06 and facts.absent:
        category = draw.choice(facts.absent)
    elif facts.present:
        # Single objects are the most frequent: evened out, or "1" is nearly always right.
        rarity = [COUNT_WEIGHTS[min(len(facts.having(name)), len(COUNT_WEIGHTS)) - 1] for name in facts.present]
        category = draw.choices(facts.present, rarity)[0]
    else:
        return None
    there = facts.having(category)
    text = Writer().say("How many").say(plural(category), there).say("are in the image?").done()
    low = max(0, min(len(there), 9) - draw.randrange(4))
    options = [str(n) for n in range(low, low + 4)]
    draw.shuffle(options)
    return SceneQuestion("count", text, str(len(there)), tuple(options))


def _color(facts: Facts, draw: Random) -> SceneQuestion | None:
    if not facts.single:
        return None
    number = draw.choice(facts.single)
    thing = facts.instances[number]
    text = Writer().say("What color is the").say(thing.category, (number,)).say("in the image?").done()
    others = draw.sample([c for c in COLOURS if c != thing.colour], 3)
    options = [thing.colour, *others]
    draw.shuffle(options)
    return SceneQuestion("color", text, thing.colour, tuple(options))


def side(facts: Facts, first: int, second: int, axis: int) -> str | None:
    """Where the first object is as seen from the second along an axis (0 horizontal); None where it is too close."""
    a, b = facts.instances[first].centre[axis], facts.instances[second].centre[axis]
    extent = (facts.width, facts.height)[axis]
    if abs(a - b) < SIDE_MARGIN * extent:
        return None
    return (HORIZONTAL, VERTICAL)[axis][0 if a < b else 1]


def _pair(facts: Facts, draw: Random) -> tuple[int, int] | None:
    return tuple(draw.sample(facts.single, 2)) if len(facts.single) > 1 else None  # type: ignore[return-value]


def _relation(facts: Facts, draw: Random) -> SceneQuestion | None:
    pair = _pair(facts, draw)
    if pair is None:
        return None
    axis = 0 if draw.random() < 0.6 else 1
    answer = side(facts, *pair, axis)
    if answer is None:
        return None
    first, second = (facts.instances[i].category for i in pair)
    options = list((HORIZONTAL, VERTICAL)[axis])
    draw.shuffle(options)
    # Without the two words nobody could know which of two true answers is meant.
    text = (
        Writer()
        .say("Where is the")
        .say(first, pair[:1])
        .say("located with respect to the")
        .say(second, pair[1:])
        .say(f"in the image, {options[0]} or {options[1]}?")
        .done()
    )
    return SceneQuestion("relation", text, answer, tuple(options))


def nearer(facts: Facts, first: int, second: int) -> int | None:
    """Which of two objects is clearly nearer to the camera; None if one flies or hangs: its place cannot be seen."""
    if any(CATEGORIES[facts.instances[i].category].place in ("air", "sky", "wall") for i in (first, second)):
        return None
    a, b = facts.instances[first].depth, facts.instances[second].depth
    if max(a, b) < DEPTH_RATIO * min(a, b):
        return None
    return first if a < b else second


def _depth(facts: Facts, draw: Random) -> SceneQuestion | None:
    pair = _pair(facts, draw)
    if pair is None or (answer := nearer(facts, *pair)) is None:
        return None
    return _which("depth", Writer().say("Which object is closer to the camera,"), facts, pair, answer)


def _which(kind: str, writer: Writer, facts: Facts, pair: tuple[int, int], answer: int) -> SceneQuestion:
    first, second = (facts.instances[i].category for i in pair)
    text = writer.say("the").say(first, pair[:1]).say("or the").say(second, pair[1:]).say("?").done()
    return SceneQuestion(kind, text, facts.instances[answer].category, (first, second))


def _distance(facts: Facts, draw: Random) -> SceneQuestion | None:
    if len(facts.single) < 3:
        return None
    anchor, first, second = draw.sample(facts.single, 3)
    x, y = facts.instances[anchor].centre
    apart = [
        ((facts.instances[i].centre[0] - x) ** 2 + (facts.instances[i].centre[1] - y) ** 2) ** 0.5
        for i in (first, second)
    ]
    if max(apart) < DISTANCE_RATIO * min(apart):
        return None
    answer = first if apart[0] < apart[1] else second
    start = Writer().say("Which object is closer to the").say(facts.instances[anchor].category, (anchor,)).say(",")
    return _which("distance", start, facts, (first, second), answer)


QUESTIONS: dict[str, Callable[[Facts, Random], SceneQuestion | None]] = {
    "exist": _exist,
    "count": _count,
    "color": _color,
    "relation": _relation,
    "depth": _depth,
    "distance": _distance,
}
"""Kinds of questions; each gives None where a scene has nothing clear to ask."""


def draw_questions(facts: Facts, draw: Random, mix: dict[str, float], count: int) -> Iterator[SceneQuestion]:
    """Up to `count` different questions, kinds drawn by the weights of `mix`."""
    kinds, weights = list(mix), list(mix.values())
    asked: set[str] = set()
    for kind in draw.choices(kinds, weights, k=3 * count + 5):
        if len(asked) == count:
            return
        question = QUESTIONS[kind](facts, draw)
        if question is not None and question.question.text not in asked:
            asked.add(question.question.text)
            yield question


# --- statements ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statement:
    """A sentence about the scene."""

    kind: str
    """exist, count, color, relation, depth or absence."""
    text: Text
    true: bool


def _several(writer: Writer, count: int, category: str, instances: Sequence[int], colour: str = "") -> Writer:
    """Two red cups; a dog. The noun is the mention."""
    noun = category if count == 1 else plural(category)
    first = colour or noun
    writer.say(article(first) if count == 1 else NUMBER_WORDS[min(count, 9)])
    if colour:
        writer.say(colour, instances, "attribute")
    return writer.say(noun, instances)


def _say_exist(facts: Facts, draw: Random, true: bool) -> Statement | None:
    names = facts.present if true else facts.absent
    if not names:
        return None
    name = draw.choice(names)
    text = Writer().say(f"there is {article(name)}").say(name, facts.having(name)).say(".").done()
    return Statement("exist", text, true)


def _say_absence(facts: Facts, draw: Random, true: bool) -> Statement | None:
    names = facts.absent if true else facts.present
    if not names:
        return None
    name = draw.choice(names)
    text = Writer().say("there is").say("no", (), "negation").say(name, facts.having(name)).say(".").done()
    return Statement("absence", text, true)


def _say_count(facts: Facts, draw: Random, true: bool) -> Statement | None:
    if not facts.present:
        return None
    name = draw.choice(facts.present)
    there = facts.having(name)
    said = len(there) if true else draw.choice([n for n in (1, 2, 3, 4) if n != len(there)])
    writer = Writer().say("there is" if said == 1 else "there are")
    writer.say("one" if said == 1 else NUMBER_WORDS[min(said, 9)])
    return Statement("count", writer.say(name if said == 1 else plural(name), there).say(".").done(), true)


def _say_color(facts: Facts, draw: Random, true: bool) -> Statement | None:
    if not facts.single:
        return None
    number = draw.choice(facts.single)
    thing = facts.instances[number]
    said = thing.colour if true else draw.choice([c for c in COLOURS if c != thing.colour])
    of = (number,) if true else ()
    writer = Writer().say("the").say(thing.category, (number,)).say("is").say(said, of, "attribute").say(".")
    return Statement("color", writer.done(), true)


def _say_relation(facts: Facts, draw: Random, true: bool) -> Statement | None:
    pair = _pair(facts, draw)
    axis = draw.randrange(2)
    where = side(facts, *pair, axis) if pair else None
    if pair is None or where is None:
        return None
    words = (HORIZONTAL, VERTICAL)[axis]
    said = where if true else words[1 - words.index(where)]
    return Statement("relation", _between(facts, pair, f"{said} of" if axis == 0 else said, true), true)


def _between(facts: Facts, pair: tuple[int, int], link: str, true: bool) -> Text:
    """The dog is left of the cat."""
    first, second = (facts.instances[i].category for i in pair)
    writer = Writer().say("the").say(first, pair[:1]).say("is").say(link, pair if true else (), "relation")
    return writer.say("the").say(second, pair[1:]).say(".").done()


def _say_depth(facts: Facts, draw: Random, true: bool) -> Statement | None:
    pair = _pair(facts, draw)
    near = nearer(facts, *pair) if pair else None
    if pair is None or near is None:
        return None
    said = "closer" if (near == pair[0]) == true else "farther"
    return Statement("depth", _between(facts, pair, f"{said} than", true), true)


STATEMENTS: dict[str, Callable[[Facts, Random, bool], Statement | None]] = {
    "exist": _say_exist,
    "absence": _say_absence,
    "count": _say_count,
    "color": _say_color,
    "relation": _say_relation,
    "depth": _say_depth,
}


def draw_statements(
    facts: Facts, draw: Random, count: int, true: bool = True, mix: dict[str, float] | None = None
) -> Iterator[Statement]:
    """Up to `count` different statements, all true or all false, kinds drawn by the weights of `mix`."""
    mix = mix or dict.fromkeys(STATEMENTS, 1.0)
    said: set[str] = set()
    for kind in draw.choices(list(mix), list(mix.values()), k=3 * count):
        statement = STATEMENTS[kind](facts, draw, true)
        if statement is not None and statement.text.text not in said:
            said.add(statement.text.text)
            yield statement
            if len(said) == count:
                return


# --- captions --------------------------------------------------------------------------------------------------------


def caption(facts: Facts, draw: Random, most: int = 4) -> Text:
    """What is seen, as in "a red dog, two cups and a tree in the park." Objects in random order, `most` at most."""
    names = facts.present
    draw.shuffle(names)
    return _listing(facts, [(name, name) for name in names[:most]], facts.setting)


def _listing(facts: Facts, names: Sequence[tuple[str, str]], setting: str) -> Text:
    """Each category that is there under the name that is said for it."""
    writer = Writer()
    for place, (name, said) in enumerate(names):
        if place:
            writer.say("and" if place == len(names) - 1 else ",")
        there = facts.having(name)
        colours = {facts.instances[i].colour for i in there}
        colour = next(iter(colours)) if len(colours) == 1 else ""
        _several(writer, len(there), said, there if said == name else (), colour)
    return writer.say(f"in the {setting}.").done()


def mismatched_caption(facts: Facts, draw: Random, most: int = 4) -> Text:
    """A caption that is wrong in one object: a thing that is not there stands in the place of one that is."""
    names = facts.present
    draw.shuffle(names)
    said = [(name, name) for name in names[:most]]
    wrong = draw.randrange(len(said))
    said[wrong] = (said[wrong][0], draw.choice(facts.absent))
    return _listing(facts, said, facts.setting)


# --- a scene in words alone ------------------------------------------------------------------------------------------

GRID = 10


def in_words(facts: Facts, draw: Random, objects: Sequence[str] | None = None) -> str:
    """Everything about the scene as text: "park: dog red x3 y7 z4, cat z6 x1 y5 blue, ...", objects in random order.

    x and y are tenths of the picture's width and height, z rises with the logarithm of the distance. From it a
    language model can learn, before it has ever seen an image, what the questions mean. `objects` as `described` has
    them, drawn if not given.
    """
    order = list(described(facts, draw) if objects is None else objects)
    draw.shuffle(order)
    return f"{facts.setting}: {', '.join(order)}."


def described(facts: Facts, draw: Random) -> list[str]:
    """Every object with its attributes in random order, as in "dog red x3 y7 z4".

    In a fixed order y follows from x, and nobody need know of which object it is.
    """
    found = []
    for thing in facts.instances:
        words = list(attributes(facts, thing).values())
        draw.shuffle(words)
        found.append(" ".join((thing.category, *words)))
    return found


def attributes(facts: Facts, thing: Instance) -> dict[str, str]:
    """An object's colour and place in one word each, by the word that asks for it: {"color": "red", "x": "x3", ...}."""
    x = min(GRID - 1, int(GRID * thing.centre[0] / facts.width))
    y = min(GRID - 1, int(GRID * thing.centre[1] / facts.height))
    z = max(0, min(2 * GRID - 1, round(6 * log(max(thing.depth, 0.1)))))
    return {"color": thing.colour, "x": f"x{x}", "y": f"y{y}", "z": f"z{z}"}


def vocabulary() -> list[str]:
    """Every word and mark that texts of scenes are made of, lower case, sorted."""
    import re

    words = {".", ",", "?", ":", "(", ")", *COLOURS, *"abcdxyz", *map(str, range(10)), *NUMBER_WORDS}
    for name in CATEGORIES:
        words |= {name, plural(name)}
    fixed = f"""Is there a an in the image? How many are What color is Where located with respect to Which object closer
        camera or left right above below yes no {SELECT} of than farther not and Describe the image. USER ASSISTANT
        Answer the question using a single word or phrase. from given please picture photo see do you this"""
    words |= set(re.findall(r"[a-z]+|[.?,:]", fixed.lower()))
    from agevlm.scenes.settings import SETTINGS

    for name in SETTINGS:
        words |= set(name.split())
    words |= {f"{axis}{n}" for axis in "xy" for n in range(GRID)} | {f"z{n}" for n in range(2 * GRID)}
    return sorted(words)
