"""The tokenizer knows every word that is ever said, and the chat template marks what is answered."""

from __future__ import annotations

from random import Random

import pytest

from agevlm.scenes.language import (
    QUESTIONS,
    Text,
    ask_existence,
    caption,
    draw_questions,
    draw_statements,
    in_words,
    mismatched_caption,
    vocabulary,
)
from benchmarks.prompts import SUFFIX
from tests.scenes import longhand
from train.config import load_stage
from train.scenes.language_model import Phase, conversation
from train.scenes.source import SHORT
from train.scenes.words import ASSISTANT, IMAGE, SPECIAL, USER, build_tokenizer

SCENES = 2000


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def said_of(facts, seed):
    """All texts that any generator makes."""
    draw = Random(seed)
    for question in draw_questions(facts, draw, dict.fromkeys(QUESTIONS, 1.0), 8):
        for one in (question, question.lettered()):
            yield from (one.question.text, one.answer, *one.options)
    for true in (True, False):
        yield from (s.text.text for s in draw_statements(facts, draw, 6, true))
    yield from (caption(facts, draw).text, mismatched_caption(facts, draw).text, in_words(facts, draw))
    for turn in conversation(facts, draw, Phase(1.0, 1.0, 5, 2, 0.5), 0.2):
        yield from turn


def test_no_word_is_unknown(tokenizer):
    texts = {text for number, facts in enumerate(longhand.facts("train", SCENES)) for text in said_of(facts, number)}
    nothing = longhand.facts("train", 1)[0]
    for name in longhand.CATEGORIES:
        asked = ask_existence(nothing, name).question.text
        texts |= {asked, asked + SUFFIX, f"{asked} {SHORT}"}
    texts |= {"Describe the image.", "USER: Is there a dog? ASSISTANT:"}
    texts |= set(load_stage("scenes/age-vlm/1-align").language_texts)
    assert len(texts) > 10_000
    unknown = {
        word
        for text, row in zip(texts, tokenizer(list(texts)).input_ids, strict=True)
        if tokenizer.unk_token_id in row
        for word in text.split()
    }
    assert not unknown


def test_a_word_of_no_scene_is_unknown(tokenizer):
    assert tokenizer.unk_token_id in tokenizer("Is there a zebra in the image?").input_ids
    assert "zebra" not in vocabulary()


def test_every_word_of_the_vocabulary_is_one_token_of_its_own(tokenizer):
    words = vocabulary()
    assert words == sorted(set(words))
    assert all(word == word.lower() for word in words)
    ids = [tokenizer(word, add_special_tokens=False).input_ids for word in words]
    assert all(len(row) == 1 for row in ids)
    assert len({row[0] for row in ids}) == len(words)
    assert len(tokenizer) == len(words) + len(SPECIAL) + 3


def test_numbers_of_two_digits_are_never_said(tokenizer):
    """They would be unknown. No scene has more than five of a kind, so that options end at 8."""
    options = {
        option
        for facts in longhand.facts("train", SCENES)
        for seed in range(4)
        for question in draw_questions(facts, Random(seed), {"count": 1.0}, 3)
        for option in question.options
    }
    assert options == set("012345678")


def test_texts_are_split_at_blanks_and_marks_and_begin_with_bos(tokenizer):
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("Select: (A) Dogs, (B) x3.").input_ids)
    assert tokens == ["<s>", "select", ":", "(", "a", ")", "dogs", ",", "(", "b", ")", "x3", "."]
    special = f"<s>{USER}{IMAGE}Is{ASSISTANT}yes</s>"
    ids = tokenizer(special, add_special_tokens=False).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", USER, IMAGE, "is", ASSISTANT, "yes", "</s>"]


def chat(facts, seed):
    messages, answers = [], []
    for question in draw_questions(facts, Random(seed), dict.fromkeys(QUESTIONS, 1.0), 5):
        content = [{"type": "image"}] * (not messages) + [{"type": "text", "text": f"{question.question.text} "}]
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": question.answer}]
        answers.append(question.answer)
    return messages, answers


def runs(mask):
    """(first, behind the last) of each stretch of ones."""
    borders = [i for i in range(len(mask) + 1) if (mask[i - 1] if i else 0) != (mask[i] if i < len(mask) else 0)]
    return list(zip(borders[::2], borders[1::2], strict=True))


def test_generation_spans_are_the_answers_and_their_ends(tokenizer):
    for number, facts in enumerate(longhand.facts("train", 100)):
        messages, answers = chat(facts, number)
        made = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        spans = runs(made["assistant_masks"])
        spoken = [tokenizer.decode(made["input_ids"][a:b]) for a, b in spans]
        assert [text.replace(" ", "") for text in spoken] == [f"{answer}</s>" for answer in answers]
        assert tokenizer.convert_ids_to_tokens([made["input_ids"][a - 1] for a, _ in spans]) == [ASSISTANT] * len(spans)


def test_a_prompt_ends_where_the_answer_begins(tokenizer):
    messages, _ = chat(longhand.facts("train", 1)[0], 0)
    whole = tokenizer.apply_chat_template(messages[:2], tokenize=False)
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert prompt.startswith(f"{USER}{IMAGE}")
    assert prompt.endswith(ASSISTANT)
    assert whole == f"{prompt}{messages[1]['content']}</s>"


def test_saved_and_read_again_it_is_the_same(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = Text(f"<s>{USER}Is there a Dog in the image?{SUFFIX}{ASSISTANT}yes</s>").text
    assert again(text).input_ids == tokenizer(text).input_ids
    assert (again.padding_side, again.chat_template) == ("left", tokenizer.chat_template)
    assert again.image_token == IMAGE
