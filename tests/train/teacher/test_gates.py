"""Gates of quality: each limit by itself, and what is left."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.teacher.gates import EXACT, STOP_PHRASES, Gates, is_stopped, judge, sort_out, without_articles
from train.teacher.producer import Found


def region(x0=10, y0=10, x1=30, y1=30, **changes):
    mask = np.zeros((100, 100), bool)
    mask[y0:y1, x0:x1] = True
    return Found.of(mask, **{"box": (x0, y0, x1, y1), "score": 0.8, **changes})


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (region(), ""),
        (region(score=0.29), "score"),
        (region(score=0.3), ""),
        (region(predicted_iou=0.6), "predicted_iou"),
        (region(stability=0.6), "stability"),
        (region(10, 10, 14, 14), "small"),
        (region(0, 0, 100, 95), "large"),
        (region(box=(10, 10, 30, 60)), "box"),
        (region(10, 10, 10, 10), "empty"),
    ],
)
def test_each_limit(found, why):
    assert judge(found, Gates()) == why
    assert judge(found, EXACT) == ("empty" if why == "empty" else "")


def test_those_that_pass_come_first_in_their_order():
    found = [region(score=0.1), region(score=0.9), region(stability=0.1), region(score=0.5)]
    regions, kept, dropped = sort_out(found, Gates())
    assert [one.score for one in regions] == [0.9, 0.5, 0.1, 0.8]
    assert (kept, dropped) == (2, "score")
    assert sort_out([], Gates()) == ([], 0, "")
    many = [region() for _ in range(4)]
    assert sort_out(many, replace(Gates(), most_regions=3))[1:] == (0, "many")
    assert sort_out(many, replace(Gates(), most_regions=4))[1:] == (4, "")


PLACES = st.tuples(*[st.integers(0, 49)] * 4).map(lambda b: (b[0], b[1], b[0] + b[2] + 1, b[1] + b[3] + 1))


@given(PLACES, PLACES)
def test_a_mask_that_left_its_box_is_left_out(box, place):
    longhand = [{(x, y) for x in range(one[0], one[2]) for y in range(one[1], one[3])} for one in (box, place)]
    iou = len(longhand[0] & longhand[1]) / len(longhand[0] | longhand[1])
    gates = replace(EXACT, box_iou=0.5)
    assert judge(region(*place, box=box), gates) == ("box" if iou < 0.5 else "")


@pytest.mark.parametrize(
    ("phrase", "words", "stopped"),
    [
        ("The  red dog", "red dog", False),
        ("the image", "image", True),
        ("a background", "background", True),
        ("this", "this", True),
        ("theatre", "theatre", False),
        ("the the cat", "cat", False),
        ("x", "x", True),
        ("Its", "Its", True),
        ("the", "the", True),
        ("...", "...", True),
        ("猫", "猫", False),
        ("dog \ud83d", "dog \ud83d", True),
        ("very " * 80, ("very " * 80).strip(), True),
    ],
)
def test_articles_go_and_words_for_nothing_are_not_looked_for(phrase, words, stopped):
    assert without_articles(phrase) == words
    assert is_stopped(phrase) == stopped


def test_the_list_of_words_for_nothing():
    assert {"image", "picture", "background", "side", "left", "photo"} <= STOP_PHRASES
    assert "" not in STOP_PHRASES
