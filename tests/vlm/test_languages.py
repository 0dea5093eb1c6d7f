"""LLaVA over language models of many kinds: vouched for where that is shown here, else checked, or asked plainly."""

import functools
import math

import numpy as np
import pytest
import torch
import transformers as t

from agevlm.checkpoints.standins.common import stir
from agevlm.checkpoints.tiny import TinyLlava, build_model, build_processor
from agevlm.errors import DataError, NotSupported
from agevlm.vlm import Ask, ProbeSpec, Reply
from agevlm.vlm.contract import StateSpec
from agevlm.vlm.hf.reference import plain_generate
from agevlm.vlm.hf.session import HfVlm
from benchmarks.ranking import with_ranks
from tests.vlm.conftest import QUESTIONS, asks_about

ORIGINAL = 64
"""Tokens up to which stretching positions are what they are for any length."""


def language(kind, processor):
    tokenizer = processor.tokenizer
    sizes = {
        "vocab_size": max(len(tokenizer), TinyLlava().vocabulary), "hidden_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 4, "tie_word_embeddings": False, "pad_token_id": 0,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    rows = {**sizes, "intermediate_size": 96, "num_key_value_heads": 2, "max_position_embeddings": 2048}
    stretched = {"rope_theta": 1e4, "original_max_position_embeddings": ORIGINAL}
    if kind == "mpt":
        plain = {k: v for k, v in sizes.items() if k not in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
        return t.MptConfig(**plain, d_model=64, n_heads=4, n_layers=3, max_seq_len=2048)
    if kind == "longrope":
        rope = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8, **stretched}
        return t.Phi3Config(**rows, original_max_position_embeddings=ORIGINAL, rope_parameters=rope)
    if kind == "dynamic":
        rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
        return t.LlamaConfig(**{**rows, "max_position_embeddings": ORIGINAL}, rope_parameters=rope)
    return {"mistral": t.MistralConfig, "qwen2": t.Qwen2Config, "gemma": t.GemmaConfig}[kind](**rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    def build(kind):
        processor = build_processor(TinyLlava())
        shape = build_model(TinyLlava(), processor, 0).config
        config = t.LlavaConfig(
            vision_config=shape.vision_config, text_config=language(kind, processor), vision_feature_layer=-2,
            image_token_index=shape.image_token_id, vision_feature_select_strategy="default", tie_word_embeddings=False,
        )  # fmt: skip
        torch.manual_seed(0)
        model = stir(t.LlavaForConditionalGeneration(config), 3)
        model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
        where = tmp_path_factory.mktemp(kind)
        model.save_pretrained(where)
        processor.save_pretrained(where)
        return where

    return functools.cache(build)


def load(folder):
    return HfVlm.load(folder, device="cpu")


def assert_plain(model, pictures, asks):
    replies = model.answer(model.encode(pictures), asks)
    expected = [plain_generate(model, None if a.image is None else pictures[a.image], a)[0] for a in asks]
    assert [r.token_ids for r in replies] == expected


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize(("kind", "vouched"), [("mistral", True), ("qwen2", True), ("gemma", False), ("mpt", False)])
def test_answers_are_those_of_generate(folder, pictures, kind, vouched, packing):
    model = load(folder(kind))
    assert model.packing is vouched
    model.packing &= packing
    assert_plain(model, pictures, [a for image in (0, 1, None) for a in asks_about(image, 6)])
    # MPT's biases go by the key's place in the batch, not by positions.
    assert model.describe()["reuse"]["image"] is (kind != "mpt")


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_a_long_row_changes_no_positions_of_a_short_one(folder, pictures, kind, packing):
    model = load(folder(kind))
    model.packing &= packing
    model.family.context = 2048 if kind == "longrope" else ORIGINAL
    assert model.family.stretch == ORIGINAL
    encoded = model.encode(pictures[:1])
    short, long = Ask("dog", 0, 8), Ask("dog " * 14, 0, 30)
    lengths = [len(row.ids) + row.limit for row in (model.row(encoded, ask)[1] for ask in (short, long))]
    assert lengths[0] <= ORIGINAL <= lengths[1]
    assert_plain(model, pictures[:1], [short, long])


def test_a_row_that_has_ended_stays_within_the_context(checkpoint, pictures, monkeypatch):
    model = HfVlm.load(checkpoint("llava"), device="cpu")
    model.packing = False
    places = []
    inner = model.model.model.language_model
    hook = inner.register_forward_pre_hook(
        lambda _m, _a, kwargs: places.append(int(kwargs["position_ids"].max())), with_kwargs=True
    )
    encoded = model.encode(pictures[:1])
    long = Ask("Is there a cat? " * 4, 0, 2)
    model.family.context = len(model.row(encoded, long)[1].ids) + 2
    replies = model.answer(encoded, [long, Ask("?", 0, 40)])
    hook.remove()
    assert len(replies[0].token_ids) == 2 < len(replies[1].token_ids)
    assert max(places) < model.family.context


def test_prefixes_of_other_images_give_way_before_a_batch_shrinks(checkpoint, pictures, monkeypatch):
    model = HfVlm.load(checkpoint("llava"), device="cpu")
    asks = [a for image in (0, 1, 2) for a in asks_about(image, 3)]
    expected = [r.token_ids for r in model.answer(model.encode(pictures), asks)]
    encoded, forward = model.encode(pictures), model.model.forward

    def full(*args, **kwargs):
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length() and len(encoded.prefixes) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args, **kwargs)

    size = model.batcher.size
    monkeypatch.setattr(model.model, "forward", full)
    assert [r.token_ids for r in model.answer(encoded, asks)] == expected
    assert model.batcher.size == size


def nan_for(model, word):
    """The model's embedding of a word's last token is no number."""
    token = model.tokenizer.encode(word, add_special_tokens=False)[-1]
    with torch.no_grad():
        model.model.get_input_embeddings().weight[token] = torch.nan


def test_a_prefix_that_is_no_number_is_not_kept(checkpoint, pictures):
    model = HfVlm.load(checkpoint("llava"), device="cpu")
    nan_for(model, " cat")
    encoded = model.encode(pictures[:1])
    good = Ask("dog", 0, 4)
    fresh = model.answer(encoded, [good])[0]
    assert fresh.error is None
    encoded = model.encode(pictures[:1])
    assert "not numbers" in model.answer(encoded, [Ask("Is there a cat in it?", 0, 4)])[0].error
    assert model.answer(encoded, [good])[0] == fresh


def test_log_probabilities_that_are_no_numbers_rank_nowhere(checkpoint, pictures):
    model = HfVlm.load(checkpoint("llava"), device="cpu")
    nan_for(model, " cat")
    encoded, ask = model.encode(pictures[:1]), Ask("Is there a cat?", 0)
    assert all(map(math.isnan, model.rank(encoded, [ask], [[" yes", " no"]])[0]))
    (reply,) = with_ranks(model, encoded, [ask], [[" yes", " no"]], [Reply("yes", "eos")])
    assert "not numbers" in reply.error


def test_options_beyond_the_context_are_refused_the_plain_way_too(folder, pictures):
    model = load(folder("mpt"))
    encoded = model.encode(pictures[:1])
    ask = Ask("Is there a dog?", 0, 2)
    model.answer(encoded, [ask])
    assert not model.describe()["reuse"]["image"]
    model.family.context = len(model.row(encoded, ask)[1].ids) + 2
    with pytest.raises(DataError, match="ends beyond the model's context"):
        model.rank(encoded, [ask], [[" dog dog dog dog dog"]])


def test_one_bad_image_of_an_unlisted_type_is_no_reason_for_the_others(folder, pictures, monkeypatch):
    model = load(folder("gemma"))
    features, calls = model.family.features, []

    def sometimes(inputs):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("a bad image")
        return features(inputs)

    monkeypatch.setattr(model.family, "features", sometimes)
    for image in (0, 1):
        encoded = model.encode(pictures[image : image + 1])
        asks = [Ask(q, 0, 4) for q in QUESTIONS[:2]]
        expected = [plain_generate(model, pictures[image], a)[0] for a in asks]
        assert [r.token_ids for r in model.answer(encoded, asks)] == expected
    assert model.describe()["reuse"] == {"image": True, "prefix": True}


def test_attention_of_its_own_is_not_looked_into_and_nothing_passes_for_hidden(folder, pictures):
    model = load(folder("mpt"))
    encoded = model.encode(pictures[:1])
    asks = [Ask("Is there a dog?", 0)]
    hidden = [np.eye(4, dtype=bool)]
    for look in (
        lambda: model.probe(encoded, asks, [()], ProbeSpec()),
        lambda: model.answer_and_probe(encoded, asks, ProbeSpec(), [[5]]),
        lambda: model.knock_out(encoded, asks, hidden),
    ):
        with pytest.raises(NotSupported, match=r"type 'mpt'\) do not run on transformers' attention interface"):
            look()
    with pytest.raises(NotSupported, match="not where they are known"):
        model.similarities(encoded, asks, [[5]], StateSpec())
    assert model.answer(encoded, asks)[0].error is None
    other = load(folder("mistral"))
    encoded = other.encode(pictures[:1])
    assert other.probe(encoded, asks, [()], ProbeSpec())[0].layers == (0, 1, 2)
    assert other.knock_out(encoded, asks, hidden) != other.knock_out(encoded, asks, [np.zeros((4, 4), bool)])
