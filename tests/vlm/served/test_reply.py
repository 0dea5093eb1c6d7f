"""Replies are read with suspicion."""

import copy
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agevlm.errors import EndpointError
from agevlm.vlm.served.candidates import candidate_logprobs, first_token_problem
from agevlm.vlm.served.reply import Completion, Position, Token, Usage, read_completion, same_model

GOOD = {
    "model": "m",
    "choices": [
        {
            "message": {"content": "Yes."},
            "finish_reason": "stop",
            "logprobs": {
                "content": [
                    {
                        "token": "Yes",
                        "logprob": -0.5,
                        "bytes": [89, 101, 115],
                        "top_logprobs": [
                            {"token": "Yes", "logprob": -0.5},
                            {"token": " yes", "logprob": -2.0},
                            {"token": "No", "logprob": -3.0},
                            {"token": "<0x0A>", "logprob": float("-inf")},
                        ],
                    }
                ]
            },
        }
    ],
    "usage": {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
}


def changed(path, value):
    body = copy.deepcopy(GOOD)
    place = body
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return body


TOP = ("choices", 0, "logprobs", "content", 0, "top_logprobs")


def test_a_reply_is_read_whole():
    got = read_completion(GOOD)
    assert (got.text, got.finish, got.model, got.usage) == ("Yes.", "stop", "m", Usage(10, 2, 4))
    assert got.logprobs[0].token == Token("Yes", -0.5, b"Yes")
    assert len(got.logprobs[0].top) == 4
    assert got.logprobs_problem is None


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ([], "no choices"),
        ("text", "no choices"),
        (changed(("choices",), []), "no choices"),
        (changed(("choices",), None), "no choices"),
        (changed(("choices", 0), "Yes"), "no choices"),
        (changed(("choices", 0, "finish_reason"), None), "no finish reason"),
        (changed(("choices", 0, "message"), None), "no text stop"),
        (changed(("choices", 0, "message", "content"), None), "no text stop"),
        (changed(("choices", 0, "message", "content"), 7), "no text stop"),
        (changed(("choices", 0, "message", "content"), [{"type": "image"}]), "no text stop"),
    ],
)
def test_what_holds_no_answer_is_an_error_and_never_an_empty_answer(body, kind):
    with pytest.raises(EndpointError) as caught:
        read_completion(body)
    assert caught.value.kind == kind


def test_text_in_parts_is_joined_and_an_empty_text_is_an_answer():
    parts = [{"type": "text", "text": "Ye"}, {"type": "text", "text": "s"}]
    assert read_completion(changed(("choices", 0, "message", "content"), parts)).text == "Yes"
    assert read_completion(changed(("choices", 0, "message", "content"), "")).text == ""


@pytest.mark.parametrize("message", [{"content": ""}, {"content": "", "reasoning_content": "Let me look"}])
def test_an_empty_text_at_the_limit_is_no_answer(message):
    body = changed(("choices", 0, "message"), message)
    body["choices"][0]["finish_reason"] = "length"
    with pytest.raises(EndpointError, match=r"used up its tokens: allow more [(]--max-new-tokens") as caught:
        read_completion(body)
    assert caught.value.kind == "no text length"


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ((*TOP, 1, "logprob"), "low", "'low' is no log-probability"),
        ((*TOP, 1, "logprob"), None, "None is no log-probability"),
        ((*TOP, 1, "logprob"), True, "True is no log-probability"),
        ((*TOP, 1, "logprob"), math.nan, "nan is no log-probability"),
        ((*TOP, 1, "logprob"), 0.7, "0.7 is no log-probability"),
        ((*TOP, 1), {"logprob": -1.0}, "a token is missing"),
        ((*TOP, 1), None, "a token is missing"),
        ((*TOP, 1, "logprob"), -0.1, "add up to 1.561"),
        (TOP, "Yes", "no list"),
        (("choices", 0, "logprobs", "content"), {"Yes": -0.5}, "no list of tokens"),
        (("choices", 0, "logprobs", "content", 0, "logprob"), [], "is no log-probability"),
    ],
)
def test_wrong_logprobs_are_left_out_and_said_and_cost_no_answer(path, value, problem):
    got = read_completion(changed(path, value))
    assert got.text == "Yes."
    assert got.logprobs == ()
    assert problem in got.logprobs_problem


@pytest.mark.parametrize("value", [None, {}, {"content": None}, {"content": []}])
def test_no_logprobs_are_no_problem(value):
    got = read_completion(changed(("choices", 0, "logprobs"), value))
    assert (got.logprobs, got.logprobs_problem) == ((), None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PLACES = [
    ("model",),
    ("usage",),
    ("usage", "prompt_tokens"),
    ("usage", "prompt_tokens_details"),
    ("choices",),
    ("choices", 0),
    ("choices", 0, "message"),
    ("choices", 0, "message", "content"),
    ("choices", 0, "finish_reason"),
    ("choices", 0, "logprobs"),
    ("choices", 0, "logprobs", "content", 0),
    ("choices", 0, "logprobs", "content", 0, "bytes"),
    TOP,
    (*TOP, 0),
    (*TOP, 0, "logprob"),
]


@given(st.sampled_from(PLACES), JSON)
def test_anything_anywhere_is_an_answer_or_our_error(place, value):
    try:
        got = read_completion(changed(place, value))
    except EndpointError:
        return
    assert isinstance(got, Completion)
    assert isinstance(got.text, str)
    for position in got.logprobs:
        assert all(token.logprob <= 0 for token in (position.token, *position.top))


def position(first, **tokens):
    return Position(first, tuple(Token(t, math.log(p), t.encode()) for t, p in tokens.items()))


YES = Token("Yes", math.log(0.4), b"Yes")


def test_forms_of_a_candidate_are_summed_and_one_that_was_not_reported_has_no_number():
    one = position(YES, **{"Yes": 0.4, " yes": 0.2, "▁YES": 0.1, "ĠYes": 0.05, "yesterday": 0.1, "  yes": 0.1})
    got = candidate_logprobs(one, ("yes", "no"))
    assert got == {"yes": pytest.approx(math.log(0.75))}
    assert candidate_logprobs(Position(YES, ()), ("yes", "no")) == {"yes": pytest.approx(math.log(0.4))}
    letters = position(YES, A=0.5, b=0.25)
    assert candidate_logprobs(letters, ("A", "B", "C")) == {"A": math.log(0.5), "B": math.log(0.25)}


def test_the_first_token_must_be_the_answers():
    assert first_token_problem(Position(YES, ()), "Yes, it is") is None
    assert first_token_problem(Position(Token(" Yes", -1, b" Yes"), ()), "Yes") is None
    assert first_token_problem(Position(Token("<|im_end|>", -1, b"<|im_end|>"), ()), "") is None
    # A character in two tokens: its first bytes.
    assert first_token_problem(Position(Token("\ufffd", -1, "é".encode()[:1]), ()), "été") is None
    # No bytes from the server, so those of the text: how SentencePiece and byte-level BPE write a leading space.
    for mark in ("▁", "Ġ"):
        assert first_token_problem(Position(Token(f"{mark}Yes", -1, f"{mark}Yes".encode()), ()), "Yes, it is") is None
        assert first_token_problem(Position(Token(f"{mark}Yes", -1, f"{mark}Yes".encode()), ()), f"{mark}Yes") is None
        assert f"{mark}No" in first_token_problem(Position(Token(f"{mark}No", -1, f"{mark}No".encode()), ()), "Yes")
    assert "<think>" in first_token_problem(Position(Token("<think>", -1, b"<think>"), ()), "Yes")


def test_dated_versions_and_paths_are_the_same_model_and_other_sizes_are_not():
    assert same_model("gpt-4o", "gpt-4o-2024-08-06")
    assert same_model("gpt-4", "gpt-4-0613")
    assert same_model("org/model", "org/model@main")
    assert same_model("gemini-2.0-flash", "models/gemini-2.0-flash-001") is False
    assert same_model("gemini-2.0-flash", "models/gemini-2.0-flash")
    assert same_model("Qwen/Qwen2-VL-7B", "Qwen2-VL-7B")
    assert not same_model("Qwen2-VL", "Qwen2-VL-72B")
    assert not same_model("gpt-4o", "gpt-4o-mini")
    assert not same_model("a", "b")
