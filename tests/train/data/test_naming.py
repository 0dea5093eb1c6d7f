"""Words that name categories."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.naming import Names

CATEGORIES = ["person", "dog", "hot dog", "bus", "skis", "scissors", "knife", "mouse", "tv", "teddy bear", "bear"]
NAMES = Names(CATEGORIES, {"person": ["man", "young woman"]})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("A dog and two DOGS.", [("dog", "dog"), ("DOGS", "dog")]),
        ("hot dogs, no dog", [("hot dogs", "hot dog"), ("dog", "dog")]),
        ("a hot  dog", [("hot  dog", "hot dog")]),
        ("a hot-dog stand", [("hot-dog", "hot dog")]),
        ("It is hot. Dog days", [("Dog", "dog")]),
        ("a hotdog, a doghouse, a dog-like thing, a corn-dog", []),
        ("the dog's (dog) dog!", [("dog", "dog")] * 3),
        ("people and a person", [("people", "person"), ("person", "person")]),
        ("buses, a bus, knives, mice", [("buses", "bus"), ("bus", "bus"), ("knives", "knife"), ("mice", "mouse")]),
        ("a ski, skis and scissors", [("ski", "skis"), ("skis", "skis"), ("scissors", "scissors")]),
        ("teddy bears and bears", [("teddy bears", "teddy bear"), ("bears", "bear")]),
        ("man, men, young women", [("man", "person"), ("men", "person"), ("young women", "person")]),
        ("a young man, a woman", [("man", "person")]),
        ("TVs are busy", [("TVs", "tv")]),
        ("", []),
    ],
)
def test_names(text, named):
    found = [(text[one.start : one.end], one.category) for one in NAMES.find(text)]
    assert found == named


def longhand(text, forms):
    """One regular expression of all forms, the longest first."""
    every = sorted(forms, key=lambda form: -len(form.split()))
    pattern = "|".join(r"(?:\s+|-)".join(map(re.escape, form.split())) for form in every)
    return [m.span() for m in re.finditer(rf"(?<![\w-])(?:{pattern})(?![\w-])", text, re.IGNORECASE)]


@given(st.lists(st.sampled_from(["hot", "dog", "dogs", "Bear", "teddy", "a", "s", "bus"]), max_size=9), st.randoms())
def test_as_one_regular_expression_finds_them(words, random):
    text = "".join(word + random.choice([" ", "  ", ". ", ", ", "\n"]) for word in words)
    forms = ["hot dog", "hot dogs", "dog", "dogs", "teddy bear", "bear", "bus"]
    assert [(one.start, one.end) for one in NAMES.find(text)] == longhand(text, forms)
