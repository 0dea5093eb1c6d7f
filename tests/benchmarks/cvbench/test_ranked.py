"""Readings by log-probability: checked against a plain search over hand-written numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cvbench.questions import Question
from benchmarks.cvbench.ranked import RANKINGS, ranked_texts, read_ranking
from benchmarks.cvbench.readers import READERS
from benchmarks.cvbench.types import NO_ANSWER, Reading
from benchmarks.records import Answer

OPTIONS = ("a cup", "the dining table")
LOGPROBS = {"(A)": -2.0, "(B)": -1.0, "A": -0.5, "B": -3.0, "a cup": -6.0, "the dining table": -8.0}
QUESTION = Question("0", "COCO", "2D", "Count", "a.png", "a.png", "Which?", OPTIONS, 0, "here")


def test_each_ranking_reads_its_own_texts() -> None:
    assert ranked_texts(OPTIONS) == tuple(LOGPROBS)
    found = {name: read_ranking(one, LOGPROBS, OPTIONS) for name, one in RANKINGS.items()}
    assert found == {
        "ranked-letter": Reading(0, "most-probable"),
        "ranked-bracket": Reading(1, "most-probable"),
        "ranked-text": Reading(0, "most-probable"),
        # -6 / 5 characters against -8 / 16
        "ranked-text-norm": Reading(1, "most-probable"),
    }


@given(st.lists(st.floats(-50, 0), min_size=2, max_size=6))
def test_the_highest_wins_and_a_tie_names_none(values: list[float]) -> None:
    options = [f"option {place}" for place in range(len(values))]
    found = read_ranking(RANKINGS["ranked-text"], dict(zip(options, values, strict=True)), options)
    assert found is not None
    ordered = sorted(range(len(values)), key=lambda place: values[place])
    tied = values[ordered[-1]] == values[ordered[-2]]
    assert found == (Reading(None, "tie") if tied else Reading(ordered[-1], "most-probable"))


def test_options_of_one_text_are_a_tie_and_are_asked_once() -> None:
    assert ranked_texts(["3", "3"]) == ("(A)", "(B)", "A", "B", "3")
    assert read_ranking(RANKINGS["ranked-text"], {"3": -1.0}, ["3", "3"]) == Reading(None, "tie")


def test_what_was_not_ranked_has_no_reading_and_a_failed_answer_none_at_all() -> None:
    for name in RANKINGS:
        reader = READERS[name]
        assert reader.read(QUESTION, Answer("(A)", LOGPROBS)) is not None
        assert reader.read(QUESTION, Answer("(A)", {"yes": -1.0, "no": -1.0})) is None
        assert reader.read(QUESTION, Answer(None)) == NO_ANSWER


def test_rankings_never_look_at_the_text_nor_the_rules_at_the_log_probabilities() -> None:
    for name, reader in READERS.items():
        answers = [Answer("(A)", LOGPROBS), Answer("(B)", LOGPROBS), Answer("(A)")]
        first, other_text, no_ranks = (reader.read(QUESTION, answer) for answer in answers)
        assert (first == other_text) == (name in RANKINGS)
        assert (first == no_ranks) == (name not in RANKINGS)
