"""The tiny LLaMA's texts: as the chat template has them, and the loss on what is answered."""

from __future__ import annotations

from random import Random

import pytest
import torch

from agevlm.scenes.language import QUESTIONS, attributes, draw_questions
from tests.scenes import longhand
from train.scenes.language_model import (
    NEEDED,
    PHASES,
    LanguageRecipe,
    Phase,
    as_text,
    conversation,
    encode,
    in_context_accuracy,
    phase_at,
    pretrain_language,
    spelled,
    turns_of,
)
from train.scenes.words import build_tokenizer

torch.set_num_threads(1)
LAST = PHASES[-1]
TINY = LanguageRecipe(hidden=16, layers=1, heads=2, intermediate=16, steps=3, batch=4)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def conversations():
    draw = Random(0)
    return [conversation(facts, draw, LAST, 0.2) for facts in longhand.facts("train", 200)]


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
    assert abs(kinds["described"] - LAST.in_context * 200) < 25
    assert min(kinds.values()) > 5


def test_answers_of_a_text_are_true_of_its_scene():
    draw, count = Random(4), 0
    for scene in longhand.scenes("train", 100):
        truth = longhand.Truth(scene)
        for asked, said in turns_of(longhand.Facts.of(scene), draw, Phase(1.0, 1.0, 5, 0), 0.0):
            kind = next(k for k, form in longhand.QUESTIONS.items() if longhand.re.fullmatch(form, asked))
            options = tuple(asked.removesuffix("?").split(", ")[-1].split(" or ")) if kind == "relation" else ()
            assert longhand.answer(truth, kind, asked, options) == said
            count += 1
    assert count > 300
    assert all(set(phase.mix) == set(QUESTIONS) for phase in PHASES)


def test_places_are_spelled_out_behind_the_objects_they_are_of():
    found = set()
    for number, facts in enumerate(longhand.facts("train", 200)):
        for kind in NEEDED:
            for question in draw_questions(facts, Random(number), {kind: 1.0}, 2):
                words, plain = spelled(facts, question).split(" "), question.question.text.split(" ")
                for mention in question.question.mentions:
                    noun = question.question.text[mention.start : mention.end]
                    at = next(i for i, word in enumerate(words) if word == noun)
                    known = attributes(facts, facts.instances[mention.instances[0]])
                    end = at + 1 + len(NEEDED[kind])
                    # The last word has the sentence's mark behind it.
                    marked = [word.rstrip(",?") for word in words[at + 1 : end]]
                    assert marked == [known[name] for name in NEEDED[kind]]
                    words[at:end] = [noun + words[end - 1].removeprefix(marked[-1])]
                assert words == plain
                found.add(kind)
    assert found == set(NEEDED)


def test_phases_follow_each_other():
    assert sum(phase.share for phase in PHASES) == pytest.approx(1.0)
    steps = [PHASES.index(phase_at(PHASES, step / 1000)) for step in range(1000)]
    assert steps == sorted(steps)
    assert [steps.count(i) for i in range(len(PHASES))] == [round(1000 * phase.share) for phase in PHASES]
    assert phase_at(PHASES, 1.0) is PHASES[-1]


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


def test_accuracy_is_of_the_likeliest_option(tokenizer):
    """A model that likes "yes" best, and "left" better than "right", is right where these are; else at chance."""

    class SaysYes(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            logits = torch.zeros(*input_ids.shape, len(tokenizer))
            logits[..., tokenizer.convert_tokens_to_ids("yes")] = 2.0
            logits[..., tokenizer.convert_tokens_to_ids("left")] = 1.0
            return type("Output", (), {"logits": logits})

    facts = longhand.facts("train", 60)
    scores = in_context_accuracy(SaysYes(), tokenizer, facts, 3)
    assert set(scores) == set(QUESTIONS)
    assert 0.08 < scores.pop("color") < 0.45
    assert 0.08 < scores.pop("count") < 0.45
    assert all(0.25 < score < 0.75 for score in scores.values())
