"""Chosen tokens on shared prefixes, heads apart, cells hidden: against whole rows, longhand masks, the model's own."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from agevlm.errors import DataError, NotSupported
from agevlm.vlm import Ask, ProbeSpec
from agevlm.vlm.contract import Vlm
from agevlm.vlm.hf import prompts
from tests.vlm.conftest import CROSS, IN_TEXT, KINDS, QUESTIONS

ASKS = [Ask(QUESTIONS[0], 1), Ask(QUESTIONS[1], 0), Ask(QUESTIONS[4], 1), Ask(QUESTIONS[0], 0), Ask(QUESTIONS[4], 0)]
ANSWERS = [(5, 9), (), (7,), (), (8, 6, 9)]


@pytest.mark.parametrize("kind", KINDS)
def test_chosen_tokens_are_those_of_the_whole_and_share_the_prefix(vlm, pictures, kind):
    model = vlm(kind)
    encoded = model.encode(pictures)
    whole = model.probe(encoded, ASKS, ANSWERS, ProbeSpec())
    tokens = model.tokens(encoded, ASKS, ANSWERS)
    assert [probe.tokens for probe in whole] == tokens
    before = model.language_positions
    wanted = [[*[k for k, token in enumerate(own) if token.part == "prompt"][-2:], len(own) - 1] for own in tokens]
    some = model.probe(encoded, ASKS, ANSWERS, ProbeSpec(), wanted)
    spent = model.language_positions - before
    for own, full, part in zip(wanted, whole, some, strict=True):
        assert part.tokens == tuple(full.tokens[k] for k in own)
        np.testing.assert_allclose(part.attention, full.attention[:, own], atol=2e-6)
        np.testing.assert_allclose(part.elsewhere, full.elsewhere[:, own], atol=2e-6)
    assert float(np.ptp(some[0].attention)) > 0.05, "flat attention would prove nothing"
    length = sum(len(model.row(encoded, a)[1].ids) + len(b) for a, b in zip(ASKS, ANSWERS, strict=True))
    assert spent < length or kind in CROSS, "the image's tokens run once an image"
    model.answer(encoded, ASKS)
    before = model.language_positions
    model.probe(encoded, ASKS, ANSWERS, ProbeSpec(), wanted)
    assert model.language_positions - before <= spent, "a prefix that answering left is used"


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_over_heads_is_what_comes_without_them(vlm, pictures, kind):
    model = vlm(kind)
    encoded = model.encode(pictures)
    plain = model.probe(encoded, ASKS, ANSWERS, ProbeSpec())
    heads = model.probe(encoded, ASKS, ANSWERS, ProbeSpec(heads=True))
    for one, other in zip(plain, heads, strict=True):
        assert one.heads is None
        assert other.heads is not None
        assert other.heads.shape[:3] == (len(one.layers), other.heads.shape[1], len(one.tokens))
        assert other.heads.shape[1] > 1
        assert float(np.abs(other.heads[:, 0] - other.heads[:, 1]).max()) > 1e-3, "heads differ"
        np.testing.assert_allclose(other.heads.mean(1), one.attention, atol=2e-6)
        np.testing.assert_allclose(other.attention, one.attention, atol=2e-6)


def cells(geometry, seed):
    hidden = np.random.default_rng(seed).random((geometry.rows, geometry.columns)) < 0.5
    hidden[0, 0], hidden[-1, -1] = True, False
    return hidden


@pytest.mark.parametrize("kind", KINDS)
def test_with_nothing_hidden_it_begins_as_it_answers(vlm, pictures, kind):
    model = vlm(kind)
    encoded = model.encode(pictures)
    nothing = [np.zeros_like(cells(model.geometry(encoded, a.image), 0)) for a in ASKS]
    said = model.answer(encoded, ASKS)
    for reply, found in zip(said, model.knock_out(encoded, ASKS, nothing), strict=True):
        assert found.keys() == reply.logprobs.keys()
        assert found == pytest.approx(reply.logprobs, abs=1e-5)


def plain(checkpoint, kind):
    return AutoModelForImageTextToText.from_pretrained(
        checkpoint(kind), attn_implementation="eager", dtype=torch.float32
    ).eval()


@pytest.mark.parametrize("kind", [kind for kind in IN_TEXT if kind != "llava_next"])
def test_hidden_tokens_are_masked_for_the_text_behind_them_alone(vlm, checkpoint, pictures, kind):
    model, network = vlm(kind), plain(checkpoint, kind)
    encoded = model.encode(pictures)
    hidden = [cells(model.geometry(encoded, a.image), n) for n, a in enumerate(ASKS)]
    found = model.knock_out(encoded, ASKS, hidden)
    shown = model.knock_out(encoded, ASKS, [np.zeros_like(h) for h in hidden])
    assert max(abs(a["yes"] - b["yes"]) for a, b in zip(found, shown, strict=True)) > 1e-3, "hiding is felt"
    for ask, gone, own in zip(ASKS, hidden, found, strict=True):
        text = prompts.render(model.processor, ask.prompt, with_image=True)
        inputs = dict(model.processor(text=text, images=pictures[ask.image], return_tensors="pt"))
        ids = inputs["input_ids"][0]
        places = (ids == model.family.image_token_id).nonzero().squeeze(1)
        # Longhand: causal, and rows behind the image see no hidden column.
        mask = torch.full((len(ids), len(ids)), -math.inf).triu(1)
        mask[int(places[-1]) + 1 :, places[torch.from_numpy(gone.ravel())]] = -math.inf
        embedded = network.get_input_embeddings()(ids[None])
        features = model.family.features(model.family.moved(model.family.preprocess(pictures[ask.image])))
        embedded = embedded.masked_scatter((ids == model.family.image_token_id)[None, :, None], features)
        with torch.inference_mode():
            states = network.model.language_model(inputs_embeds=embedded, attention_mask=mask[None, None])[0]
            logprobs = network.lm_head(states[0, -1]).log_softmax(-1)
        for word, tokens in model.candidate_ids(ask.candidates).items():
            assert own[word] == pytest.approx(float(logprobs[tokens].logsumexp(0)), abs=2e-5)


@pytest.mark.parametrize("kind", CROSS)
def test_hidden_cells_of_cross_attention_are_the_models_own_mask(vlm, checkpoint, pictures, kind):
    model, network = vlm(kind), plain(checkpoint, kind)
    encoded = model.encode(pictures)
    hidden = [cells(model.geometry(encoded, a.image), n) for n, a in enumerate(ASKS)]
    found = model.knock_out(encoded, ASKS, hidden)
    shown = model.knock_out(encoded, ASKS, [np.zeros_like(h) for h in hidden])
    assert max(abs(a["yes"] - b["yes"]) for a, b in zip(found, shown, strict=True)) > 1e-3, "hiding is felt"
    network.config.mask_padding = True
    for ask, gone, own in zip(ASKS, hidden, found, strict=True):
        text = prompts.render(model.processor, ask.prompt, with_image=True)
        inputs = dict(model.processor(text=text, images=pictures[ask.image], return_tensors="pt"))
        mask = torch.from_numpy(~gone.ravel())[None]
        if kind == "age_vlm_mask":
            mask = mask & inputs["vision_token_mask"].bool()
        with torch.inference_mode():
            logits = network(**{**inputs, "vision_token_mask": mask}).logits[0, -1].log_softmax(-1)
        for word, tokens in model.candidate_ids(ask.candidates).items():
            assert own[word] == pytest.approx(float(logits[tokens].logsumexp(0)), abs=2e-5)
    assert not model.model.config.mask_padding or kind == "age_vlm_mask", "the model is left as it was"


def test_hiding_the_padding_is_mask_padding(vlm, checkpoint, pictures):
    model, network = vlm("age_vlm"), plain(checkpoint, "age_vlm")
    encoded = model.encode(pictures)
    ask = Ask(QUESTIONS[0], 1)
    padding = model.geometry(encoded, 1).coverage() == 0
    assert padding.any()
    found = model.knock_out(encoded, [ask], [padding])[0]
    assert found["yes"] != pytest.approx(model.answer(encoded, [ask])[0].logprobs["yes"], abs=1e-4)
    network.config.mask_padding = True
    text = prompts.render(model.processor, ask.prompt, with_image=True)
    inputs = dict(model.processor(text=text, images=pictures[1], return_tensors="pt"))
    inputs["vision_token_mask"] = torch.from_numpy(~padding.ravel())[None]
    with torch.inference_mode():
        logits = network(**inputs).logits[0, -1].log_softmax(-1)
    for word, tokens in model.candidate_ids(ask.candidates).items():
        assert found[word] == pytest.approx(float(logits[tokens].logsumexp(0)), abs=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_how_much_is_hidden_is_told_in_tokens(vlm, pictures, kind):
    model = vlm(kind)
    encoded = model.encode(pictures)
    for image in range(len(pictures)):
        geometry = model.geometry(encoded, image)
        grid = (geometry.rows, geometry.columns)
        one, patch, scattered = (np.zeros(grid, bool) for _ in range(3))
        one[0, 0] = True
        patch[: grid[0] // 2] = True
        # As many cells, none of them beside another.
        scattered[::2, ::2] = scattered[1::2, 1::2] = True
        shares = model.hidden_share(encoded, image, [np.zeros(grid, bool), one, patch, scattered, np.ones(grid, bool)])
        assert shares[0] == 0
        assert shares[1] > 0, "no cell is without a token of its own"
        assert shares[-1] == 1
        if kind == "llava_next":
            # A view of the whole image beside the tiles: its tokens go with patches.
            assert shares[2] > shares[1] > 0
        else:
            assert shares[1:4] == pytest.approx([float(cells.mean()) for cells in (one, patch, scattered)])


def test_the_mean_colour_is_that_of_the_processor(vlm, monkeypatch):
    model = vlm("llava")
    images = model.processor.image_processor
    assert model.mean_colour() == pytest.approx(tuple(images.image_mean))
    monkeypatch.setattr(images, "do_normalize", False)
    assert model.mean_colour() is None


def test_what_cannot_be_hidden_is_said(vlm, pictures):
    model = vlm("llava")
    encoded = model.encode(pictures)
    geometry = model.geometry(encoded, 0)
    with pytest.raises(DataError, match="all of the image"):
        model.knock_out(encoded, [Ask("?", 0)], [np.ones((geometry.rows, geometry.columns), bool)])
    with pytest.raises(DataError, match="shape"):
        model.hidden_share(encoded, 0, [np.ones((2, 2), bool)])
    with pytest.raises(DataError, match="shape"):
        model.knock_out(encoded, [Ask("?", 0)], [np.ones((2, 2), bool)])
    with pytest.raises(ValueError, match="must name an image"):
        model.knock_out(encoded, [Ask("?", None)], [np.zeros((4, 4), bool)])
    for method in (Vlm.tokens, Vlm.geometry, Vlm.knock_out, Vlm.hidden_share, Vlm.similarities):
        arguments = [None] * (method.__code__.co_argcount - 1)
        with pytest.raises(NotSupported, match="cannot be looked into"):
            method(model, *arguments)


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_answering_and_looking_at_once_is_one_after_the_other(vlm, pictures, monkeypatch, kind, heads):
    model = vlm(kind)
    encoded = model.encode(pictures)
    asks = [*ASKS, Ask(QUESTIONS[3], 0), Ask(QUESTIONS[4], 1, max_new_tokens=1)]
    tokens = model.tokens(encoded, asks, [()] * len(asks))
    wanted = [[*[k for k, token in enumerate(own) if token.part == "prompt"][-2:], len(own) - 1] for own in tokens]
    wanted[1] = []
    spec = ProbeSpec(heads=heads)
    calls = []
    real = model.answer
    monkeypatch.setattr(model, "answer", lambda *given: calls.append(1) or real(*given))
    before = model.language_positions
    replies, probes = model.answer_and_probe(encoded, asks, spec, wanted)
    spent = model.language_positions - before
    assert not calls, "in one go"
    expected_replies, expected = Vlm.answer_and_probe(model, model.encode(pictures), asks, spec, wanted)
    assert calls
    for one, other in zip(replies, expected_replies, strict=True):
        assert (one.text, one.stop, one.token_ids) == (other.text, other.stop, other.token_ids)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    assert spent < model.language_positions - before - spent
    assert [probe is None for probe in probes] == [not own for own in wanted]
    for one, other in zip(probes, expected, strict=True):
        if one is None:
            continue
        assert one.tokens == other.tokens
        np.testing.assert_allclose(one.attention, other.attention, atol=3e-6)
        np.testing.assert_allclose(one.elsewhere, other.elsewhere, atol=3e-6)
        if heads:
            np.testing.assert_allclose(one.heads, other.heads, atol=3e-6)
    assert probes[0].tokens[-1].part == "answer"
    assert probes[-1].tokens[-1].part != "answer", "an answer of one token has none that looks"


def test_without_packing_one_follows_the_other(vlm, pictures, monkeypatch):
    model = vlm("llava")
    encoded = model.encode(pictures)
    wanted = [[3], [4], [], [5], [6]]
    packed = model.answer_and_probe(encoded, ASKS, ProbeSpec(), wanted)
    monkeypatch.setattr(model, "packing", False)
    batched = model.answer_and_probe(encoded, ASKS, ProbeSpec(), wanted)
    assert [r.token_ids for r in packed[0]] == [r.token_ids for r in batched[0]]
    for one, other in zip(packed[1], batched[1], strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.tokens == other.tokens
            np.testing.assert_allclose(one.attention, other.attention, atol=3e-6)
