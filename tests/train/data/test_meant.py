"""Which category a phrase is about."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.naming import Names

COCO = [
    *("person", "bus", "bear", "dog", "cat", "orange", "hot dog", "teddy bear", "wine glass", "cup", "dining table"),
    *("skis", "scissors", "mouse", "knife", "tie", "traffic light", "sheep", "tv", "bowl", "potted plant", "car"),
]


@pytest.mark.parametrize(
    ("phrase", "category"),
    [
        ("a cat", "cat"),
        ("The two CATS", "cat"),
        ("hot dogs", "hot dog"),
        ("a dog", "dog"),
        ("a dog in a hot bath", "dog"),
        ("a hot-dog", "hot dog"),
        ("teddy bears", "teddy bear"),
        ("bears", "bear"),
        ("people", "person"),
        ("two persons", "person"),
        ("the buses", "bus"),
        ("knives", "knife"),
        ("mice", "mouse"),
        ("sheep", "sheep"),
        ("TVs", "tv"),
        ("skis", "skis"),
        ("a ski", "skis"),
        ("a pair of scissors", "scissors"),
        ("wine glasses", "wine glass"),
        ("a cup on the dining table", "cup"),
        ("an orange cat", "cat"),
        ("the dog's bowl", "bowl"),
        ("no cat", "cat"),
        ("left of the bowl", "bowl"),
        ("a catalog", None),
        ("glasses", None),
        ("a dog's tail", None),
        ("table", None),
        ("traffic", None),
        ("", None),
        ("??", None),
    ],
)
def test_phrases_name_categories(phrase, category):
    assert Names(COCO).meant(phrase) == category
    assert Names(list(reversed(COCO))).meant(phrase) == category


def test_the_longest_category_at_a_word_counts_whatever_others_there_are():
    assert Names(["dog", "hot dog"]).meant("hot dogs") == "hot dog"
    assert Names(["dog"]).meant("hot dogs") == "dog"
    assert Names([]).meant("hot dogs") is None


@given(
    st.sampled_from(COCO),
    st.sampled_from(["", "the ", "two small ", "there is no "]),
    st.sampled_from(["", " here", "!"]),
)
def test_every_category_is_named_by_its_own_name_and_plural(name, before, after):
    import inflect

    assert Names(COCO).meant(f"{before}{name}{after}") == name
    if name not in ("skis", "scissors"):
        assert Names(COCO).meant(f"{before}{inflect.engine().plural(name)}{after}") == name
