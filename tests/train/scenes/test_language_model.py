"""The tiny LLaMA's texts: as the chat template has them, and the loss on what is answered."""

from __future__ import annotations

from random import Random

import pytest
import torch

from agevlm.scenes.language import QUESTIONS
from tests.scenes import longhand
from train.scenes.language_model import (
    QUESTION_MIX,
    LanguageRecipe,
    as_text,
    conversation,
    encode,
    in_context_accuracy,
    pretrain_language,
    turns_of,
)
from train.scenes.words import build_tokenizer

torch.set_num_threads(1)
RECIPE = LanguageRecipe()
TINY = LanguageRecipe(hidden=16, layers=1, heads=2, intermediate=16, steps=3, batch=4)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def conversations():
    draw = Random(0)
    return [conversation(facts, draw, RECIPE) for facts in longhand.facts("train", 200)]


def messages(turns):
    return [
        message
        for asked, said in turns
        for message in ({"role": "user", "content": asked}, {"role": "assistant", "content": said})
    ]


def test_the_text_is_what_the_template_writes(tokenizer, conversations):
    for turns in conversations:
        assert as_text(turns) == "<s>" + tokenizer.apply_chat_template(messages(turns), tokenize=False)


def test_answers_are_where_the_template_has_them(tokenizer, conversations):
    ids, mask, answers = encode(tokenizer, [as_text(turns) for turns in conversations])
    assert ids.shape == mask.shape == answers.shape
    assert len({int(row.sum()) for row in mask}) > 5
    for row, seen, answered, turns in zip(ids, mask, answers, conversations, strict=True):
        made = tokenizer.apply_chat_template(messages(turns), return_dict=True, return_assistant_tokens_mask=True)
        # The template writes no BOS of its own.
        length = int(seen.sum())
        assert length == len(made["input_ids"]) + 1
        assert seen[:length].all()
        assert row[:length].tolist() == [tokenizer.bos_token_id, *made["input_ids"]]
        assert answered[:length].tolist() == [False, *map(bool, made["assistant_masks"])]
        assert (row[length:] == tokenizer.pad_token_id).all()
        assert not answered[length:].any()


def test_most_texts_describe_the_scene_and_others_do_not(conversations):
    kinds = {"described": 0, "asked": 0, "told": 0}
    for turns in conversations:
        first = turns[0][0]
        kinds["told" if first == "Describe the image." else "described" if ": " in first else "asked"] += 1
        if ": " in first:
            assert not any(": " in asked for asked, _ in turns[1:])
    assert 0.6 * 200 < kinds["described"] < 0.8 * 200
    assert min(kinds.values()) > 5


def test_answers_of_a_text_are_true_of_its_scene():
    draw, count = Random(4), 0
    for scene in longhand.scenes("train", 100):
        truth = longhand.Truth(scene)
        for asked, said in turns_of(longhand.Facts.of(scene), draw, LanguageRecipe(lettered=0.0)):
            kind = next(k for k, form in longhand.QUESTIONS.items() if longhand.re.fullmatch(form, asked))
            options = (said, {"left": "right", "right": "left", "above": "below", "below": "above"}.get(said, ""))
            assert longhand.answer(truth, kind, asked, options) == said
            count += 1
    assert count > 300
    assert set(QUESTION_MIX) == set(QUESTIONS)


def test_training_saves_a_model_and_is_the_same_twice(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    facts = longhand.facts("train", 40)
    scores = [pretrain_language(facts[:30], tmp_path / n, TINY, 0, facts[30:], lambda _: None) for n in ("a", "b")]
    assert scores[0] == scores[1]
    assert set(scores[0]) <= set(QUESTIONS)
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / n) for n in ("a", "b")]
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    assert models[0].config.vocab_size == len(tokenizer)
    assert models[0].generation_config.eos_token_id == tokenizer.eos_token_id


def test_accuracy_counts_right_first_words(tokenizer):
    """A model that always says yes is right exactly where the answer is yes."""

    class SaysYes(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            logits = torch.zeros(*input_ids.shape, len(tokenizer))
            logits[..., tokenizer.convert_tokens_to_ids("yes")] = 1.0
            return type("Output", (), {"logits": logits})

    facts = longhand.facts("train", 60)
    scores = in_context_accuracy(SaysYes(), tokenizer, facts, 3)
    assert set(scores) == set(QUESTIONS)
    assert 0.25 < scores.pop("exist") < 0.75
    assert set(scores.values()) == {0.0}
