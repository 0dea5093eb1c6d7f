from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.reading import Label, read_yes_no

GOLDEN = [
    ("Yes", "yes", "leading-yes"),
    ("no.", "no", "leading-no"),
    ("YES!!!", "yes", "leading-yes"),
    ("**Yes**", "yes", "leading-yes"),
    ("_No_", "no", "leading-no"),
    ("'no'", "no", "leading-no"),
    ("[Yes]", "yes", "leading-yes"),
    ("### No", "no", "leading-no"),
    ("✅ Yes", "yes", "leading-yes"),
    ("Ｙｅｓ", "yes", "leading-yes"),
    ("𝐍𝐨", "no", "leading-no"),
    ("ＮＯ。", "no", "leading-no"),
    ("Y\u200bes", "yes", "leading-yes"),
    ("\ufeffYes", "yes", "leading-yes"),
    ("\u00a0No", "no", "leading-no"),
    ("yes</s>", "yes", "leading-yes"),
    ("ASSISTANT: yes<|im_end|>", "yes", "leading-yes"),
    ("[INST] yes [/INST]", "yes", "leading-yes"),
    ("Yes, there is a dog.", "yes", "leading-yes"),
    ("No. There is no dog.", "no", "leading-no"),
    ("No\nbecause it is a cat", "no", "leading-no"),
    ("No dogs can be seen", "no", "leading-no"),
    ("Yes, there is no doubt about it", "yes", "leading-yes"),
    ("No, yes is wrong", "no", "leading-no"),
    ("Nope, none here", "no", "leading-no"),
    ("nah", "no", "leading-no"),
    ("Yeah!", "yes", "leading-yes"),
    ("yep", "yes", "leading-yes"),
    ("Sorry, no.", "no", "leading-no"),
    ("Negative.", "no", "leading-no"),
    ("affirmative", "yes", "leading-yes"),
    ("Correct.", "yes", "leading-yes"),
    ("True", "yes", "leading-yes"),
    ("false", "no", "leading-no"),
    ("y", "yes", "leading-yes"),
    ("N.", "no", "leading-no"),
    ("Certainly not.", "no", "leading-no"),
    ("Not really", "no", "leading-no"),
    ("None", "no", "leading-no"),
    ("Answer: yes", "yes", "explicit-yes"),
    ("A: No.", "no", "explicit-no"),
    ("Q: Is there a dog? A: No.", "no", "explicit-no"),
    ("The answer is no", "no", "explicit-no"),
    ("The answer to the question is no.", "no", "explicit-no"),
    ("<answer>yes</answer>", "yes", "explicit-yes"),
    ("\\boxed{yes}", "yes", "explicit-yes"),
    ("The final answer is: $\\boxed{\\text{No}}$", "no", "explicit-no"),
    ('{"answer": "yes"}', "yes", "explicit-yes"),
    ('```json\n{"answer": "no"}\n```', "no", "explicit-no"),
    ("There is a cat. No wait. Answer: Yes", "yes", "explicit-yes"),
    ("Yes. Final answer: no", "no", "explicit-no"),
    ("Answer: yes. Checking again. Answer: no.", "no", "explicit-no"),
    ("<think>There is no dog, so no.</think>Yes", "yes", "leading-yes"),
    ("<think>There is no dog", "unparsed", "unfinished-thought"),
    ("Based on the image, yes.", "yes", "lone-yes"),
    ("I would say no.", "no", "lone-no"),
    ("Answer with yes or no: No.", "no", "lone-no"),
    ("1. Yes", "yes", "lone-yes"),
    ("There is a dog in the image.", "yes", "affirmed-existence"),
    ("There's a dog.", "yes", "affirmed-existence"),
    ("There appears to be a dog", "yes", "affirmed-existence"),
    ("I can see a dog", "yes", "affirmed-existence"),
    ("A dog is visible in the image.", "yes", "affirmed-existence"),
    ("The image contains a dog.", "yes", "affirmed-existence"),
    ("There is a dog, possibly a labrador.", "yes", "affirmed-existence"),
    ("No doubt, there is a dog.", "yes", "affirmed-existence"),
    ("There isn't a dog", "no", "denied-existence"),
    ("There isn\u2019t a dog", "no", "denied-existence"),
    ("There are no dogs", "no", "denied-existence"),
    ("There is not a dog", "no", "denied-existence"),
    ("I do not see a dog", "no", "denied-existence"),
    ("I can't see a dog", "no", "denied-existence"),
    ("I don't see any image of a dog", "no", "denied-existence"),
    ("I see no dog.", "no", "denied-existence"),
    ("The dog is not present.", "no", "denied-existence"),
    ("The image does not contain a dog.", "no", "denied-existence"),
    ("I'm sorry, but there is no dog in the image.", "no", "denied-existence"),
    ("The image shows a man on a bench. There is no dog.", "no", "denied-existence"),
    ("I don't think so.", "no", "denied-existence"),
    ("I cannot see the image", "refused", "refusal"),
    ("I don't see any image attached.", "refused", "refusal"),
    ("I'm sorry, I can't help with that", "refused", "refusal"),
    ("As an AI language model, I cannot view images.", "refused", "refusal"),
    ("Please provide the image.", "refused", "refusal"),
    ("No image was provided.", "refused", "refusal"),
    ("maybe", "unparsed", "hedged"),
    ("I'm not sure", "unparsed", "hedged"),
    ("Unable to tell", "unparsed", "hedged"),
    ("It is not possible to determine whether there is a dog.", "unparsed", "hedged"),
    ("It is unclear", "unparsed", "hedged"),
    ("There might be a dog.", "unparsed", "hedged"),
    ("There is possibly a dog", "unparsed", "hedged"),
    ("Probably not.", "unparsed", "hedged"),
    ("No idea.", "unparsed", "hedged"),
    ("I don't know", "unparsed", "hedged"),
    ("yes or no", "unparsed", "both-words"),
    ("Yes and no", "unparsed", "both-words"),
    ("Yes/No", "unparsed", "both-words"),
    ("Yes. No.", "unparsed", "both-words"),
    ("The answer is either yes or no.", "unparsed", "both-words"),
    ("No... wait, yes.", "unparsed", "self-corrected"),
    ("There is a man. There is no dog.", "unparsed", "mixed"),
    ("There is a man, but no dog", "unparsed", "mixed"),
    ("know", "unparsed", "no-rule"),
    ("not", "unparsed", "no-rule"),
    ("cannot", "unparsed", "no-rule"),
    ("snow", "unparsed", "no-rule"),
    ("nose", "unparsed", "no-rule"),
    ("eyes", "unparsed", "no-rule"),
    ("Yesss", "unparsed", "no-rule"),
    ("№ 5", "unparsed", "no-rule"),
    ("dog", "unparsed", "no-rule"),
    ("Oui", "unparsed", "no-rule"),
    ("1", "unparsed", "no-rule"),
    ("Is there a dog in the image?", "unparsed", "no-rule"),
    ("There is a dog?", "unparsed", "no-rule"),
    ("Correct me if I'm wrong", "unparsed", "no-rule"),
    ("Answer:", "unparsed", "no-rule"),
    ("", "empty", "no-words"),
    (" \n\t", "empty", "no-words"),
    ("...", "empty", "no-words"),
    ("</s>", "empty", "no-words"),
    ("<|endoftext|>", "empty", "no-words"),
    ("👍", "empty", "no-words"),
    (None, "error", "no-answer"),
]


@pytest.mark.parametrize(("answer", "label", "rule"), GOLDEN, ids=[repr(row[0]) for row in GOLDEN])
def test_golden(answer: str | None, label: str, rule: str) -> None:
    reading = read_yes_no(answer)
    assert (reading.label.value, reading.rule) == (label, rule)


@pytest.mark.parametrize(
    ("answer", "stretch"),
    [
        ("  **Yes**, there is", "Yes"),
        ("Y\u200bes!", "Y\u200bes"),
        ("Well,\n\n\n  no.", "no"),
        ("<think>no</think>\n\nYes", "Yes"),
        ("<answer> No </answer>", "No"),
        ("I don\u2019t see a dog", "I don\u2019t see"),
        ("dog", "dog"),
        ("yes or no?", "yes or no"),
    ],
)
def test_span_is_the_stretch_that_decided(answer: str, stretch: str) -> None:
    span = read_yes_no(answer).span
    assert span is not None
    assert answer[slice(*span)] == stretch


FRAGMENTS = st.sampled_from(
    [
        *"yn.,!?'\"*_<>{}[]()\n \u00a0\u200b\u2019/\\:",
        "yes",
        "no",
        "not",
        " there is ",
        " no dog",
        "I can't see ",
        "answer",
        "İ",
    ]
)


@given(st.one_of(st.text(), st.lists(FRAGMENTS).map("".join)))
def test_reading_is_total(answer: str) -> None:
    reading = read_yes_no(answer)
    assert reading.label in set(Label) - {Label.ERROR}
    assert reading.rule
    if reading.span is not None:
        start, end = reading.span
        assert 0 <= start < end <= len(answer)


@given(
    st.sampled_from(["Yes", "No"]),
    st.text(alphabet=" \n*\"'`(#>\u00a0\u200b", max_size=8),
    st.text(" \n.!*\"'`)", max_size=8),
)
def test_wrapping_changes_nothing(word: str, before: str, after: str) -> None:
    assert read_yes_no(before + word + after).label == word.lower()


@pytest.mark.parametrize(
    "fragment",
    [
        *(
            "there is a x without ",
            "if there is ",
            "answer: ",
            "answer to the ",
            "yes or ",
            "no ",
            " ",
            "\n",
            "<",
            "<|",
            "*_",
        ),
        *(
            "i cannot see ",
            "as an ai x ",
            "\\boxed{",
            "well ",
            "é",
            "a: ",
            "is not ",
            "actually ",
            "the image ",
            "\u200b",
        ),
    ],
)
def test_long_answers_take_linear_time(fragment: str) -> None:
    answer = fragment * (200_000 // len(fragment))
    started = time.process_time()
    read_yes_no(answer)
    # 0.2 s where the growth is linear; a quadratic rule takes minutes
    assert time.process_time() - started < 5
