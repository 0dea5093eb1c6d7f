"""Regions of rendered test scenes: objects, and what is said of them, asked so that yes and no are equally often right.

    object     Is there a dog in the image?         mask of "dog": all dogs
    attribute  Is there a red dog in the image?     mask of "red": the red dogs
    relation   Is the dog left of the cat?          mask of "left of": both objects
    negation   Is there no dog in the image?        mask of "no": the dogs that it denies

Where the answer is no (or yes, for a negation) there is nothing to look at: such questions are asked for their answers.
The words of abstract kinds name no region; their masks are those of the objects that they are said of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

import numpy as np

from agevlm.data.sources import ContainerImages
from agevlm.scenes.categories import COLOURS
from agevlm.scenes.coco import file_name
from agevlm.scenes.language import HORIZONTAL, VERTICAL, Facts, Text, Writer, article, ask_existence, side
from agevlm.scenes.selection import png, selected
from agevlm.scenes.types import Scene, split_seeds
from agevlm.scenes.world import render
from analysis.regions import Gathered, Regions

IMAGES = 200


def scenes_regions(selector: str, *, limit: int | None, seed: int) -> Regions:
    """Regions of the first so many test scenes that show anything.

    Raises:
        DataError: no such selector.
    """
    count, size = selected(selector, IMAGES)
    count = min(count, limit or count)
    gathered, encoded = Gathered(), {}
    for number in split_seeds("test", 100 * count):
        scene = render(number, size)
        if not scene.instances:
            continue
        encoded[file_name(number)] = png(scene)
        _add_scene(gathered, scene, Random(f"regions:{seed}:{number}"))
        if len(encoded) == count:
            break
    gathered.notes.append("masks of attribute, relation and negation words are those of the objects they are said of")
    return gathered.done(selector, ContainerImages(encoded))


def _add_scene(gathered: Gathered, scene: Scene, draw: Random) -> None:
    facts, name = Facts.of(scene), file_name(scene.seed)
    for text, kind, answer, there in _questions(facts, draw):
        mention = next(m for m in text.mentions if m.kind == kind)
        gathered.add(
            name,
            text.text[mention.start : mention.end],
            scene.mask(*there) if there else np.zeros(scene.ids.shape, np.bool_),
            group=kind,
            question=text.text,
            key=text.text,
            answer=answer,
            start=mention.start,
            absent=not there,
        )


Asked = tuple[Text, str, str, Sequence[int]]
"""A question, the kind of words in it that are looked at, the right answer, and the instances of their mask."""


def _questions(facts: Facts, draw: Random) -> Iterator[Asked]:
    there = facts.present
    absent = draw.sample(facts.absent, min(len(there), len(facts.absent)))
    for name in (*there, *absent):
        asked = ask_existence(facts, name)
        yield asked.question, "object", asked.answer, facts.having(name)
    yield from _attributes(facts, draw)
    yield from _relations(facts, draw)
    for name in (draw.choice(there), *absent[:1]):
        held = facts.having(name)
        text = Writer().say("Is there").say("no", held, "negation").say(name, held).say("in the image?").done()
        yield text, "negation", "no" if held else "yes", held


def _attributes(facts: Facts, draw: Random) -> Iterator[Asked]:
    """One colour that an object has, and one that none of the same category has."""
    name = draw.choice(facts.present)
    held = facts.having(name)
    colours = sorted({facts.instances[i].colour for i in held})
    for colour in (draw.choice(colours), draw.choice([c for c in COLOURS if c not in colours])):
        of = [i for i in held if facts.instances[i].colour == colour]
        text = Writer().say(f"Is there {article(colour)}").say(colour, of, "attribute").say(name, held)
        yield text.say("in the image?").done(), "attribute", "yes" if of else "no", of


def _relations(facts: Facts, draw: Random) -> Iterator[Asked]:
    """One relation as it is, and its reverse, of two objects that are the only ones of their kind."""
    if len(facts.single) < 2:
        return
    first, second = draw.sample(facts.single, 2)
    axis = draw.randrange(2)
    right = side(facts, first, second, axis)
    if right is None:
        return
    words = (HORIZONTAL, VERTICAL)[axis]
    for said in (right, words[1 - words.index(right)]):
        of = (first, second) if said == right else ()
        text = Writer().say("Is the").say(facts.instances[first].category, (first,))
        text = text.say(f"{said} of" if axis == 0 else said, of, "relation")
        text = text.say("the").say(facts.instances[second].category, (second,)).say("?")
        yield text.done(), "relation", "yes" if of else "no", of
