"""Scenes as training samples: what is said is true, its regions are exact, reading is a function of index and epoch."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import pytest

from agevlm.errors import DataError, TrainError
from tests.scenes import longhand
from tests.scenes.longhand import CATEGORY_OF, Truth
from tests.train.scenes.test_store import InThisProcess
from train.data.sources import open_source
from train.scenes import store as store_module
from train.scenes.source import SHORT, ScenesOptions, ScenesSource
from train.spec import SourceSpec

COUNT = 60
FORMS = longhand.QUESTIONS


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def opened(root):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "ProcessPoolExecutor", InThisProcess)
        yield lambda **options: ScenesSource.open({"root": str(root), "count": COUNT, "workers": 1, **options})


def texts(sample):
    return [(message.role, message.text) for message in sample.messages]


def same(one, other):
    return (
        texts(one) == texts(other)
        and one.id == other.id
        and np.array_equal(np.asarray(one.image), np.asarray(other.image))
        and [(p.message, p.start, p.end) for p in one.phrases] == [(p.message, p.start, p.end) for p in other.phrases]
        and all(np.array_equal(a.mask, b.mask) for a, b in zip(one.phrases, other.phrases, strict=True))
    )


def union(scene, places):
    """Longhand: the pixels of any of these objects."""
    mask = np.zeros(scene.ids.shape, bool)
    for place in places:
        mask |= scene.ids == place + 1
    return mask


@pytest.mark.parametrize("shares", [{"captions": 0.0}, {"captions": 1.0}, {"places": 1.0}])
def test_phrases_are_words_of_objects_and_their_masks_all_their_pixels(opened, shares):
    source, several = opened(**shares), 0
    assert len(source) == COUNT
    assert list(source.guided) == list(range(COUNT))
    for i, scene in enumerate(longhand.scenes("train", COUNT)):
        sample, truth = source.read(i, 0), Truth(scene)
        assert np.array_equal(np.asarray(sample.image), scene.image)
        assert sample.image.mode == "RGB"
        named = set()
        for phrase in sample.phrases:
            word = sample.messages[phrase.message].text[phrase.start : phrase.end]
            places = truth.places(CATEGORY_OF[word])
            assert places
            assert np.array_equal(phrase.mask, union(scene, places))
            several += len(places) > 1
            named.add((phrase.message, phrase.start))
        # Every noun of what is there is a phrase, and no other is.
        for number, message in enumerate(sample.messages):
            if "Select from" in message.text or message.text in CATEGORY_OF:
                continue  # options and one-word answers name nothing
            for match in re.finditer(r"\w+", message.text):
                there = match.group() in CATEGORY_OF and truth.number(CATEGORY_OF[match.group()]) > 0
                assert ((number, match.start()) in named) == there, message.text
    assert several > 20 or "places" in shares


def test_places_are_those_of_the_objects_they_are_asked_of(opened):
    source, asked = opened(places=1.0), Counter()
    for i, scene in enumerate(longhand.scenes("train", COUNT)):
        messages, truth = source.read(i, 0).messages, Truth(scene)
        texts = [m.text for m in messages]
        assert len(set(texts[::2])) == len(texts) // 2
        if texts[0] == "Describe the image.":
            assert not [t for t in truth.things if truth.number(t.category) == 1]
            continue
        for question, said in zip(texts[::2], texts[1::2], strict=True):
            noun, name = re.fullmatch(r"the (\w+) (\w+)\?", question).groups()
            thing = truth.only(noun)
            known = {
                "color": thing.colour,
                "x": f"x{int(10 * thing.x / truth.width)}",
                "y": f"y{int(10 * thing.y / truth.height)}",
                "z": f"z{round(6 * math.log(thing.depth))}",
            }
            assert said == known[name]
            asked[name] += 1
    assert len(asked) == 4
    assert min(asked.values()) > 0.15 * asked.total()


def test_turns_alternate_and_answers_are_right(opened):
    source, count, short, lettered = opened(), 0, 0, 0
    for i, scene in enumerate(longhand.scenes("train", COUNT)):
        truth = Truth(scene)
        for epoch in range(2):
            messages = source.read(i, epoch).messages
            assert [m.role for m in messages] == ["user", "assistant"] * (len(messages) // 2)
            assert 2 <= len(messages) <= 12
            for asked, said in zip(messages[::2], messages[1::2], strict=True):
                question, given = asked.text, said.text
                if question.endswith(f" {SHORT}"):
                    question, short = question.removesuffix(f" {SHORT}"), short + 1
                question, _, offered = question.partition(" Select from the following choices. ")
                if offered:
                    given, lettered = dict(re.findall(r"\(([A-D])\) (\w+)", offered))[given.strip("()")], lettered + 1
                kind = next(k for k, form in FORMS.items() if re.fullmatch(form, question))
                options = tuple(question.removesuffix("?").split(", ")[-1].split(" or ")) if kind == "relation" else ()
                assert longhand.answer(truth, kind, question, options) == given
                count += 1
    assert count > 500
    assert 0.05 * count < short < 0.15 * count
    assert 0.03 * count < lettered < 0.15 * count


def test_descriptions_are_true(opened):
    source, kinds = opened(captions=1.0), set()
    for i, scene in enumerate(longhand.scenes("train", COUNT)):
        asked, said = source.read(i, 0).messages
        assert asked.text == "Describe the image."
        truth = Truth(scene)
        if said.text.endswith(f"in the {truth.setting}."):
            entries, _ = longhand.listed(said.text)
            assert all(longhand.true_of(truth, entry) for entry in entries)
            kinds.add("caption")
            continue
        sentences = re.findall(r"[^.]+\.", said.text)
        assert 2 <= len(sentences) <= 6
        for sentence in map(str.strip, sentences):
            truths = []
            for kind in ("exist", "absence", "count", "color", "relation", "depth"):
                try:
                    truths.append(longhand.holds(truth, kind, sentence))
                except (AttributeError, KeyError, ValueError):  # another form
                    continue
            assert True in truths, sentence
        kinds.add("statements")
    assert kinds == {"caption", "statements"}


def test_reading_is_a_function_of_index_and_epoch_alone(opened):
    source = opened(captions=0.4)
    first = {(i, epoch): source.read(i, epoch) for i in range(8) for epoch in (0, 1)}
    fresh = opened(captions=0.4)
    for i, epoch in reversed(first):
        assert same(fresh.read(i, epoch), first[i, epoch])
        assert same(source.read(i, epoch), first[i, epoch])
    assert len({str(texts(sample)) for sample in first.values()}) == len(first)
    assert not any(same(opened(captions=0.4, seed=1).read(i, e), sample) for (i, e), sample in first.items())


CHANGES = {
    "count": COUNT - 1,
    "split": "validation",
    "questions": {"exist": 1.0},
    "turns": 5,
    "captions": 0.5,
    "places": 0.5,
    "short": 0.2,
    "lettered": 0.0,
    "seed": 1,
}


@pytest.mark.parametrize("option", CHANGES)
def test_the_fingerprint_changes_with_what_is_said(opened, option):
    assert opened(**{option: CHANGES[option]}).fingerprint != opened().fingerprint


def test_and_not_with_where_it_is_kept_or_who_renders(opened, tmp_path):
    assert opened().fingerprint == opened(root=str(tmp_path), workers=2, name="mine").fingerprint
    assert (opened().name, opened(name="mine").name) == ("scenes train", "mine")
    assert set(CHANGES) | {"root", "workers", "name"} == set(ScenesOptions.__dataclass_fields__)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"caption": 0.5}, "caption: no such setting; did you mean captions?"),
        ({"turns": "six"}, "turns: expected a whole number, not 'six'"),
        ({"count": "a"}, "count: expected a whole number"),
        ({"captions": -1}, "captions: -1.0 is no share"),
        ({"short": 1.5}, "short: 1.5 is no share"),
        ({"captions": 0.6, "places": 0.6}, "are more than 1"),
        ({"questions": {}}, "at least one above 0"),
        ({"questions": {"exist": 0}}, "at least one above 0"),
        ({"questions": {"exist": 1, "count": -1}}, "weights of 0 or more"),
        ({"questions": {"colour": 1}}, "no questions of kind 'colour'"),
        ({"turns": 0}, "must be at least 1"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(option, says):
    with pytest.raises((DataError, TrainError), match=re.escape(says)):
        ScenesSource.open(option)


def test_stages_open_it_by_its_kind(opened, root):
    source = open_source(SourceSpec("scenes", 1.0, {"root": str(root), "count": COUNT}))
    assert isinstance(source, ScenesSource)
    assert same(source.read(3, 0), opened().read(3, 0))


def test_one_kind_alone_is_asked_where_it_can_be_and_else_the_picture_described(opened):
    source, described = opened(questions={"distance": 1.0}, lettered=0.0, short=0.0), 0
    for i in range(COUNT):
        messages = source.read(i, 0).messages
        if messages[0].text == "Describe the image.":
            described += 1
        else:
            assert all(re.fullmatch(FORMS["distance"], m.text) for m in messages[::2])
    assert 0 < described < COUNT
