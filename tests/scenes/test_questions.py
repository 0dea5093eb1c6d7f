"""CV-Scenes: rows that can be read as CV-Bench's, whose letters are the right ones."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from scipy.stats import binomtest

from agevlm.scenes.questions import CV_KINDS, cv_scenes, to_jsonl
from tests.scenes import longhand
from tests.scenes.longhand import Truth

MANY = 300


@pytest.fixture(scope="module")
def facts():
    return longhand.facts("test", MANY)


@pytest.fixture(scope="module")
def made(facts):
    return list(cv_scenes(facts))


def test_each_picture_is_asked_at_most_one_question_of_each_kind_and_most_kinds_often(made, facts):
    assert CV_KINDS == ("count", "color", "relation", "depth", "distance")
    assert max(Counter((q.image, q.asked.kind) for q in made).values()) == 1
    kinds = Counter(q.asked.kind for q in made)
    assert kinds["count"] == MANY
    assert min(kinds.values()) > 0.15 * MANY
    assert [(q.image, CV_KINDS.index(q.asked.kind)) for q in made] == sorted(
        (q.image, CV_KINDS.index(q.asked.kind)) for q in made
    )


def test_rows_hold_the_right_answer_under_its_letter(made):
    truths = [Truth(one) for one in longhand.scenes("test", MANY)]
    names = [f"images/{i}.png" for i in range(MANY)]
    rows = [json.loads(line) for line in to_jsonl(made, names).splitlines()]
    assert [row["idx"] for row in rows] == list(range(len(made)))
    for row in rows:
        number = int(re.fullmatch(r"images/(\d+)\.png", row["filename"])[1])
        kind = row["task"].lower()
        assert row["type"] == ("3D" if kind in ("depth", "distance") else "2D")
        right = longhand.answer(truths[number], kind, row["question"], tuple(row["choices"]))
        letter = re.fullmatch(r"\(([A-D])\)", row["answer"])[1]
        assert row["choices"]["ABCD".index(letter)] == right
        offered = " ".join(f"({'ABCD'[i]}) {choice}" for i, choice in enumerate(row["choices"]))
        assert row["prompt"] == f"{row['question']} Select from the following choices. {offered}"
        assert row["source"] == "CV-Scenes"


@pytest.mark.parametrize("kind", ["color", "relation", "depth", "distance"])
def test_the_first_letter_is_right_as_often_as_chance(made, kind):
    letters = Counter(q.asked.lettered().answer for q in made if q.asked.kind == kind)
    assert binomtest(letters["(A)"], letters.total(), 0.25 if kind == "color" else 0.5).pvalue > 1e-4, letters


def test_no_number_and_no_letter_answers_every_count(made):
    counts = [q.asked for q in made if q.asked.kind == "count"]
    for guesses in (Counter(q.answer for q in counts), Counter(q.lettered().answer for q in counts)):
        assert max(guesses.values()) < 0.5 * len(counts), guesses


def test_a_picture_draws_from_its_own_stream(made, facts):
    assert list(cv_scenes(facts)) == made
    few = list(cv_scenes(facts[:20]))
    assert few == [q for q in made if q.image < 20]
    # Another scene in the place of one changes what is asked about that one alone.
    other = [*facts[:5], facts[100], *facts[6:20]]
    assert [q for q in cv_scenes(other) if q.image != 5] == [q for q in few if q.image != 5]
    assert list(cv_scenes(other)) != few
    assert list(cv_scenes(facts[:20], seed=1)) != few


def test_more_of_a_kind_begin_with_the_same_and_differ(facts):
    three = list(cv_scenes(facts[:60], per_kind=3))
    groups = Counter((q.image, q.asked.kind) for q in three)
    assert set(groups.values()) >= {1, 3}
    assert max(groups.values()) == 3
    assert len({(q.image, q.asked.question.text) for q in three}) == len(three)


def test_nothing_to_ask_makes_no_rows():
    assert list(cv_scenes(())) == []
    assert to_jsonl([], []) == ""
