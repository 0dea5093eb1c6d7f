"""Texts that do not match: no image gets its own, swaps stay grammatical, shuffles differ."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.similarity.negatives import deranged, reordered, spelled
from analysis.similarity.pairs import swap_of

WORDS = st.sampled_from(["a dog", "a cat", "A  Dog", "two cups", "a red car"])
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=3), min_size=2, max_size=12)


@given(TEXTS, st.integers(0, 5))
def test_no_image_is_paired_with_itself_or_with_one_that_shares_a_text(texts, seed):
    partners = deranged(texts, seed)
    said = [set(map(spelled, own)) for own in texts]
    for image, partner in enumerate(partners):
        fitting = [other for other in range(len(texts)) if other != image and not said[image] & said[other]]
        assert (partner is None) == (not fitting)
        assert partner is None or partner in fitting
    assert deranged(texts, seed) == partners


@given(st.integers(2, 40), st.integers(0, 3))
def test_where_all_texts_differ_every_image_serves_once(count, seed):
    partners = deranged([[f"text {i}"] for i in range(count)], seed)
    assert sorted(partners) == list(range(count))
    assert all(partner != image for image, partner in enumerate(partners))


def test_the_seed_decides():
    texts = [[f"text {i}"] for i in range(30)]
    assert len({tuple(deranged(texts, seed)) for seed in range(5)}) == 5


def test_conflicts_are_mended_by_exchanges():
    # Half of the images say the same: a permutation without conflicts exists, and is found for nearly every seed.
    texts = [["the same"] if i < 10 else [f"text {i}"] for i in range(20)]
    for seed in range(20):
        partners = deranged(texts, seed)
        assert all(partners[i] >= 10 for i in range(10))
    assert deranged([["one"], ["one"], ["one"]], 0) == [None] * 3


@given(st.lists(st.sampled_from(["a", "dog", "Dog", "red", "the"]), max_size=6), st.sampled_from(["", ".", "?!"]))
def test_shuffles_keep_words_and_end_mark_and_differ(words, mark):
    text = " ".join(words) + mark
    shuffled = reordered(text, random.Random(0))
    if len({word.lower() for word in words}) < 2:
        assert shuffled is None
        return
    assert spelled(shuffled) != spelled(text)
    assert shuffled.endswith(mark)
    assert sorted(shuffled.removesuffix(mark).split()) == sorted(words)


@pytest.mark.parametrize(
    ("text", "present", "expected"),
    [
        # One category is left to take: the swap is then certain.
        ("A man walks a dog.", {"person", "dog"}, "A man walks an elephant."),
        ("Two dogs and a car", {"dog", "car"}, None),
        ("an elephant eats", {"elephant"}, "a dog eats"),
        ("Dogs", {"dog"}, "Elephants"),
        ("nothing of note", set(), None),
    ],
)
def test_one_category_takes_the_place_of_another(text, present, expected):
    categories = ("dog", "elephant") if "car" not in text else ("dog", "car")
    assert swap_of(categories)(text, frozenset(present), random.Random(0)) == expected


def test_a_category_is_replaced_by_its_kin():
    swap = swap_of()
    animals = {"bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"}
    taken = {swap("a cat on a mat", frozenset({"cat", "dog"}), random.Random(seed)) for seed in range(60)}
    named = {swap.names.find(text)[0].category for text in taken}
    assert named <= animals - {"cat", "dog"}
    assert len(named) > 4
