"""Texts for Grounding DINO, and which of their tokens are a phrase's."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.teacher import tiny
from train.teacher.prompts import make_prompts, plain, tokens_of

PHRASES = st.lists(st.text("abcd e", min_size=1, max_size=12).map(plain).filter(bool), max_size=8)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.grounding_dino()[1].tokenizer


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("The  red Cat", "the red cat"),
        ("Mt. Everest?", "mt everest"),
        ("a man's hat", "a man's hat"),
        ("?..", ""),
        ("\tan\numbrella ", "an umbrella"),
    ],
)
def test_phrases_are_lower_case_without_delimiters(phrase, expected):
    assert plain(phrase) == expected


@given(PHRASES, st.integers(2, 20))
def test_prompts_hold_every_phrase_once_in_order_and_have_room(phrases, room):
    prompts = make_prompts(phrases, len, room)
    assert [span.phrase for prompt in prompts for span in prompt.spans] == list(range(len(phrases)))
    for prompt in prompts:
        assert prompt.text == " ".join(f"{phrases[span.phrase]}." for span in prompt.spans)
        assert [prompt.text[span.start : span.end] for span in prompt.spans] == [
            phrases[span.phrase] for span in prompt.spans
        ]
        assert len(prompt.spans) == 1 or sum(len(phrases[span.phrase]) + 1 for span in prompt.spans) <= room
    for one, following in itertools.pairwise(prompts):
        first = phrases[following.spans[0].phrase]
        assert sum(len(phrases[span.phrase]) + 1 for span in one.spans) + len(first) + 1 > room  # no room was left


@given(PHRASES)
def test_without_room_each_phrase_has_a_prompt_of_its_own(phrases):
    assert [prompt.text for prompt in make_prompts(phrases, len, None)] == [f"{phrase}." for phrase in phrases]


@given(phrases=PHRASES.filter(bool))
def test_tokens_of_phrases_are_those_counted_phrase_by_phrase(phrases, tokenizer):
    """Longhand: a start token, then each phrase's own tokens and a period."""
    (prompt,) = make_prompts(phrases, len, 10_000)
    coded = tokenizer(prompt.text, return_offsets_mapping=True)
    place = 1
    for span in prompt.spans:
        alone = tokenizer(phrases[span.phrase], add_special_tokens=False)["input_ids"]
        tokens = tokens_of(span, coded["offset_mapping"])
        assert tokens == list(range(place, place + len(alone)))
        assert [coded["input_ids"][token] for token in tokens] == alone
        place += len(alone) + 1
    assert place == len(coded["input_ids"]) - 1
