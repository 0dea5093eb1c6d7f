"""What the language model is told to look up is what its context says."""

from __future__ import annotations

from random import Random

from agevlm.scenes.language import attributes, described
from tests.scenes import longhand
from train.scenes.language_model import Phase, conversation, recalls

NAMES = {"color", "x", "y", "z"}


def test_every_answer_is_in_the_objects_own_words():
    whole = single = 0
    for number, facts in enumerate(longhand.facts("train", 300)):
        draw = Random(number)
        objects = described(facts, draw)
        turns = list(recalls(facts, objects, draw, 4))
        assert len(turns) == (4 if facts.single else 0)
        for asked, said in turns:
            words = asked.removeprefix("the ").removesuffix("?").split(" ")
            (place,) = [i for i in facts.single if facts.instances[i].category == words[0]]
            if len(words) == 1:
                whole += 1
                assert said == objects[place]
            else:
                single += 1
                assert said == attributes(facts, facts.instances[place])[words[1]]
                assert words[1] in NAMES
    assert min(whole, single) > 300


def test_a_whole_description_is_repeated_as_the_context_has_it():
    """Word order too: drawn anew it could not be known."""
    found = 0
    for number, facts in enumerate(longhand.facts("train", 200)):
        turns = conversation(facts, Random(number), Phase(1.0, 1.0, 1, 4), 0.0)
        context = turns[0][0].partition(". ")[0]
        for asked, said in turns:
            if said.count(" ") == 4 and "the " in asked:
                found += 1
                assert said in context
    assert found > 100
