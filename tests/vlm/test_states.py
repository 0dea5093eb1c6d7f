"""Similarities of text and visual states against longhand numpy, from what the plain models themselves give out.

The plain models are fed by their own processors, whole prompts at a time: nothing is shared between texts.
"""

import copy
import functools

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from agevlm.checkpoints.standins import STANDINS, build_standin
from agevlm.errors import DataError, NotSupported
from agevlm.model import ProbeRequest
from agevlm.vlm import Ask
from agevlm.vlm.contract import Centre, StateSpec, Vlm
from agevlm.vlm.hf import plain, states
from agevlm.vlm.hf.general import joined
from agevlm.vlm.hf.looking import sequences
from agevlm.vlm.hf.session import HfVlm
from tests.vlm.conftest import AGE_VLM, CROSS, IN_TEXT

ALL = ("hidden", "cross_output", "query_key")
TEXTS = ["two cups and a red dog in the park.", "a dog", "What? " * 9, "a dog and two red cups in the park."]


pytestmark = pytest.mark.usefixtures("numbers_in_words")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, checkpoint):
    """folder(kind): a tiny checkpoint or a stand-in."""

    def build(kind):
        own = kind in AGE_VLM or kind in IN_TEXT
        return checkpoint(kind) if own else build_standin(kind, tmp_path_factory.mktemp(kind), seed=1)

    return functools.cache(build)


@pytest.fixture(scope="module")
def vlm(folder):
    return functools.cache(lambda kind: HfVlm.load(folder(kind), device="cpu"))


@pytest.fixture(scope="module")
def network(folder):
    """network(kind): the checkpoint by transformers alone, with eager attention and without its final norm: its last
    hidden states are then what the last layer gave."""

    def load(kind):
        found = AutoModelForImageTextToText.from_pretrained(folder(kind), attn_implementation="eager").eval()
        inner = stack_of(found)
        inner.final, inner.norm = copy.deepcopy(inner.norm), nn.Identity()
        return found

    return functools.cache(load)


def stack_of(model):
    return getattr(model.model, "language_model", None) or model.model.text_model


def caption_tokens(model, encoded, ask):
    # Not `tokens`, which is for families whose visual tokens are known to lie somewhere.
    tokens = sequences(model, encoded, [ask], [()])[0].tokens
    return [i for i, token in enumerate(tokens) if token.part == "prompt"]


def similar(model, images, texts=TEXTS, image=0, **spec):
    """What the session gives for each text."""
    encoded = model.encode(images)
    asks = [Ask(text, image) for text in texts]
    wanted = [caption_tokens(model, encoded, ask) for ask in asks]
    assert all(wanted)
    return model.similarities(encoded, asks, wanted, StateSpec(spec.pop("spaces", ALL), **spec)), wanted


@torch.inference_mode()
def passed(model, network, image, text, **more):
    """The plain model's output for one text, its input ids, and where text and visual tokens stand."""
    inputs = dict(plain.plain_inputs(model, image, text))
    inputs.pop("labels", None)
    output = network(**inputs, output_hidden_states=True, **more)
    visual = inputs["input_ids"][0] == model.family.image_token_id
    if model.model.config.model_type == "qwen3_vl":
        # transformers notes what a layer gives before it adds the vision tower's states to it.
        vision = {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}
        added = network.model.get_image_features(**vision).deepstack_features
        assert len(added) > 1
        for layer, features in enumerate(added, start=1):
            output.hidden_states[layer][0, visual] += joined(features)
    return output, (~visual).nonzero().squeeze(1).tolist(), visual.nonzero().squeeze(1).tolist()


def cosine(a, b):
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def longhand(text, visual, text_mean=0.0, visual_mean=0.0):
    """The three poolings of (tokens, heads, size) states, in float64."""
    text, visual = (np.asarray(s.detach(), np.float64) - m for s, m in ((text, text_mean), (visual, visual_mean)))
    heads = range(text.shape[1])
    mean = np.mean([cosine(text[:, h].mean(0), visual[:, h].mean(0)) for h in heads])
    most = np.mean([[max(cosine(t, v) for v in visual[:, h]) for t in text[:, h]] for h in heads])
    last = np.mean([cosine(text[-1, h], visual[:, h].mean(0)) for h in heads])
    return [mean, most, last]


def hidden_of(output, network):
    """Every state that has a name, as (length, 1, size): embeddings, after each layer, after the norm."""
    found = [one[0][:, None] for one in output.hidden_states]
    return [*found, stack_of(network).final(output.hidden_states[-1])[0][:, None]]


# LLaVA-NeXT packs its tiles, PaliGemma sees its prompt both ways, Qwen has positions in three axes, Qwen3 adds states
# between layers, SmolVLM and Idefics write rows of tiles, Gemma sees its image both ways.
SEQUENCES = [*IN_TEXT, *sorted(set(STANDINS) - {"mllama"} - set(IN_TEXT))]


@pytest.mark.parametrize("kind", SEQUENCES)
def test_hidden_states_of_models_with_visual_tokens_in_the_text(vlm, network, pictures, kind):
    model, plainly = vlm(kind), network(kind)
    image = pictures[1]
    found, wanted = similar(model, [image])
    seen = []
    for text, own, result in zip(TEXTS, wanted, found, strict=True):
        output, words, visual = passed(model, plainly, image, text)
        chosen = [words[i] for i in own]
        layers = hidden_of(output, plainly)
        one = result["hidden"]
        assert one.layers == ("embeddings", *map(str, range(len(layers) - 2)), "norm")
        expected = [longhand(states[chosen], states[visual]) for states in layers]
        np.testing.assert_allclose(one.raw, expected, rtol=0, atol=2e-5)
        np.testing.assert_allclose(one.text[-1, 0], layers[-1][chosen].mean(0)[0].detach(), rtol=0, atol=2e-4)
        np.testing.assert_allclose(one.visual[1, 0], layers[1][visual].mean(0)[0].detach(), rtol=0, atol=2e-4)
        assert one.centred is None
        seen.append(one.raw)
    assert np.ptp(seen, axis=0)[1:-1].min() > 1e-3, "texts differ in every layer and pooling"


@pytest.mark.parametrize("kind", SEQUENCES)
def test_another_image_or_text_changes_what_is_found(vlm, pictures, kind):
    model = vlm(kind)
    one, other = (similar(model, pictures, image=image)[0] for image in (0, 2))
    for space in one[0]:
        assert np.abs(one[0][space].raw - other[0][space].raw).max() > 1e-3
        assert np.abs(one[0][space].raw - one[1][space].raw).max() > 1e-3
    # The same words in another order: pooled embeddings are the same, and everything after them is not.
    first, second = one[0]["hidden"].raw, one[3]["hidden"].raw
    assert np.abs(first[1:] - second[1:]).max() > 1e-4


@pytest.mark.parametrize("kind", SEQUENCES)
def test_queries_and_keys_of_models_with_visual_tokens_in_the_text(vlm, network, pictures, kind):
    model, plainly = vlm(kind), network(kind)
    found, wanted = similar(model, pictures[:2], image=1)
    stack = stack_of(plainly)
    for text, own, result in zip(TEXTS, wanted, found, strict=True):
        output, words, visual = passed(model, plainly, pictures[1], text)
        one = result["query_key"]
        assert one.layers == tuple(str(i) for i in range(len(stack.layers)))
        for at, layer in enumerate(stack.layers):
            attention = layer.self_attn
            given = layer.input_layernorm(output.hidden_states[at][0])
            queries, keys = (
                projection(given).unflatten(-1, (-1, attention.head_dim))
                for projection in (attention.q_proj, attention.k_proj)
            )
            if hasattr(attention, "q_norm"):
                queries, keys = attention.q_norm(queries), attention.k_norm(keys)
            groups = queries.shape[1] // keys.shape[1]
            keys = torch.stack([keys[:, h // groups] for h in range(queries.shape[1])], dim=1)
            expected = longhand(queries[[words[i] for i in own]], keys[visual])
            np.testing.assert_allclose(one.raw[at], expected, rtol=0, atol=2e-5)
        assert one.text.shape == one.visual.shape == (len(stack.layers), *queries.shape[1:])


@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("kind", CROSS)
@torch.inference_mode()
def test_cross_attention_is_compared_with_what_it_is_given(vlm, network, pictures, kind, image):
    """Against the model's own probe of queries and keys, and attention written out."""
    model, plainly = vlm(kind), network(kind)
    found, wanted = similar(model, pictures, image=image)
    hides = kind == "age_vlm_mask" and image == 1
    text_model = plainly.model.language_model
    for text, own, result in zip(TEXTS, wanted, found, strict=True):
        inputs = dict(plain.plain_inputs(model, pictures[image], text))
        length = inputs["input_ids"].shape[1]
        places = torch.arange(length)
        request = ProbeRequest(torch.zeros(length, dtype=torch.long), places, queries_keys=True)
        output = plainly(**inputs, output_hidden_states=True, output_vision_attentions=True, probe=request)
        seen = inputs["vision_token_mask"][0].bool() if hides else torch.ones(16, dtype=torch.bool)
        assert bool(seen.all()) != hides
        visual = output.image_hidden_states[0]
        layers = hidden_of(output, plainly)
        expected = [longhand(states[own], visual[seen][:, None]) for states in layers]
        np.testing.assert_allclose(result["hidden"].raw, expected, rtol=0, atol=2e-5)
        assert result["hidden"].layers == ("embeddings", *map(str, range(len(layers) - 2)), "norm")
        assert result["query_key"].layers == result["cross_output"].layers == ("1", "4")
        for at, layer in enumerate((1, 4)):
            attention = text_model.layers[layer].cross_attn
            queries, keys = output.probe.queries[at], output.probe.keys[at][0].transpose(0, 1)
            groups = queries.shape[1] // keys.shape[1]
            assert groups > 1
            keys = keys.repeat_interleave(groups, dim=1)
            np.testing.assert_allclose(
                result["query_key"].raw[at], longhand(queries[own], keys[seen]), rtol=0, atol=2e-5
            )
            values = attention.v_proj(visual).unflatten(-1, (-1, attention.head_dim)).repeat_interleave(groups, dim=1)
            weights = output.vision_attentions[at][0]
            attended = torch.einsum("htv,vhd->thd", weights, values).flatten(1)
            brought = attention.o_proj(attended)[own].detach().double().numpy()
            entered = output.hidden_states[layer][0][own].double().numpy()
            each = cosine(entered, brought)
            expected = [cosine(entered.mean(0), brought.mean(0)), each.mean(), each[-1]]
            np.testing.assert_allclose(result["cross_output"].raw[at], expected, rtol=0, atol=2e-5)
            np.testing.assert_allclose(result["cross_output"].visual[at, 0], brought.mean(0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["age_vlm", "mllama"])
def test_another_image_changes_all_but_embeddings_with_cross_attention(vlm, pictures, kind):
    model = vlm(kind)
    one, other = (similar(model, pictures, image=image)[0] for image in (0, 2))
    assert set(one[0]) == set(ALL)
    for space in ALL:
        assert np.abs(one[0][space].raw - other[0][space].raw).max() > 1e-3
        assert np.abs(one[0][space].raw - one[1][space].raw).max() > 1e-3
    assert (one[0]["hidden"].visual == one[0]["hidden"].visual[:1]).all(), "the same visual tokens in all layers"


def test_mllama_against_its_own_hidden_states_and_vision_model(vlm, network, pictures):
    model, plainly = vlm("mllama"), network("mllama")
    found, wanted = similar(model, pictures, image=1)
    for text, own, result in zip(TEXTS, wanted, found, strict=True):
        inputs = dict(plain.plain_inputs(model, pictures[1], text))
        with torch.inference_mode():
            output = plainly(**inputs, output_hidden_states=True)
            names = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")
            tiles = plainly.model.multi_modal_projector(
                plainly.model.vision_model(**{n: inputs[n] for n in names}).last_hidden_state
            )[0]
        there = inputs["cross_attention_mask"][0, -1, 0].bool()
        assert 0 < int(there.sum()) < len(there), "some tiles are empty"
        visual = tiles.reshape(len(there), -1, tiles.shape[-1])[there].flatten(0, 1)
        words = [i for i, token in enumerate(inputs["input_ids"][0].tolist()) if token != model.family.image_token_id]
        layers = hidden_of(output, plainly)
        expected = [longhand(states[[words[i] for i in own]], visual[:, None]) for states in layers]
        np.testing.assert_allclose(result["hidden"].raw, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", ["llava", "age_vlm", "age_vlm_concat", "paligemma"])
def test_centres_are_taken_from_states_before_they_are_compared(vlm, network, pictures, kind):
    model, plainly = vlm(kind), network(kind)
    plain_found, wanted = similar(model, pictures[:1])
    draw = np.random.default_rng(0)
    centres = {
        space: Centre(*(draw.normal(0, 0.3, one.text.shape).astype(np.float32) for _ in range(2)))
        for space, one in plain_found[0].items()
    }
    found, _ = similar(model, pictures[:1], centres=centres)
    for space, one in found[0].items():
        np.testing.assert_array_equal(one.raw, plain_found[0][space].raw)
        assert np.abs(one.centred - one.raw).max() > 0.01
    if kind == "age_vlm":
        return
    output, words, visual = passed(model, plainly, pictures[0], TEXTS[0])
    chosen, centre = [words[i] for i in wanted[0]], centres["hidden"]
    for at, states_ in enumerate(hidden_of(output, plainly)):
        expected = longhand(states_[chosen], states_[visual], centre.text[at], centre.visual[at])
        np.testing.assert_allclose(found[0]["hidden"].centred[at], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", [*CROSS, *IN_TEXT, "qwen2_5_vl", "gemma3"])
def test_shared_prefixes_and_batches_give_what_whole_rows_give(vlm, pictures, monkeypatch, kind):
    model = vlm(kind)
    together, _ = similar(model, pictures, image=3)
    calls = []
    build = states.build_prefix
    monkeypatch.setattr(states, "build_prefix", lambda f, ids, x: calls.append(len(ids)) or build(f, ids, x))
    shared, _ = similar(model, pictures, image=3)
    assert len(calls) == 1, "the image runs once for all its texts"
    assert calls[0] > 0
    monkeypatch.setattr(states, "_shared", lambda vlm, rows: 0)
    alone = [similar(model, pictures, [text], image=3)[0][0] for text in TEXTS]
    assert set(calls[1:]) == {0}
    for one, again, other in zip(together, shared, alone, strict=True):
        for space in one:
            np.testing.assert_array_equal(one[space].raw, again[space].raw)
            np.testing.assert_allclose(one[space].raw, other[space].raw, rtol=0, atol=2e-5)
            np.testing.assert_allclose(one[space].visual, other[space].visual, rtol=0, atol=2e-4)


def test_images_may_be_mixed_and_layers_chosen(vlm, pictures):
    model = vlm("llava")
    encoded = model.encode(pictures[:2])
    asks = [Ask(TEXTS[0], 1), Ask(TEXTS[1], 0), Ask(TEXTS[1], 1)]
    wanted = [caption_tokens(model, encoded, ask) for ask in asks]
    mixed = model.similarities(encoded, asks, wanted, StateSpec(("hidden",), (1, 0)))
    assert [set(one) for one in mixed] == [{"hidden"}] * 3
    assert mixed[0]["hidden"].layers == ("0", "1")
    for ask, own, one in zip(asks, wanted, mixed, strict=True):
        alone = model.similarities(encoded, [ask], [own], StateSpec(("hidden",)))[0]["hidden"]
        np.testing.assert_allclose(one["hidden"].raw, alone.raw[1:3], rtol=0, atol=2e-6)
    with pytest.raises(DataError, match=r"layers \[99\] do not exist"):
        model.similarities(encoded, asks, wanted, StateSpec(("hidden",), (99,)))


def test_memory_that_runs_out_makes_smaller_batches_and_no_difference(checkpoint, pictures, monkeypatch):
    model = HfVlm.load(checkpoint("age_vlm"), device="cpu", batch_size=4)
    expected, _ = similar(model, pictures)
    rows = []
    fill = states.prefill

    def small(family, prefix, suffixes, *more):
        rows.append(len(suffixes))
        if len(suffixes) > 1:
            raise MemoryError
        return fill(family, prefix, suffixes, *more)

    monkeypatch.setattr(states, "prefill", small)
    found, _ = similar(model, pictures)
    assert rows[:3] == [4, 2, 1]
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one["hidden"].raw, other["hidden"].raw, rtol=0, atol=2e-5)
    monkeypatch.setattr(states, "prefill", lambda *_: (_ for _ in ()).throw(MemoryError("full")))
    with pytest.raises(MemoryError, match="full"):
        similar(model, pictures)


@pytest.mark.parametrize("kind", ["llava", "age_vlm"])
def test_the_model_is_left_as_it_was_and_only_means_leave_its_device(checkpoint, pictures, monkeypatch, kind):
    model = HfVlm.load(checkpoint(kind), device="cpu")
    towers, left = [], []
    model.model.model.vision_tower.register_forward_hook(lambda *_: towers.append(1))
    encoded = model.encode(pictures[:1])
    before = model.answer(encoded, [Ask(TEXTS[0], 0, 6)])
    vision = model.vision_calls
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules()]
    asks = [Ask(text, 0) for text in TEXTS]
    wanted = [caption_tokens(model, encoded, ask) for ask in asks]
    with monkeypatch.context() as patch:
        leave = torch.Tensor.cpu
        patch.setattr(torch.Tensor, "cpu", lambda self: left.append(tuple(self.shape)) or leave(self))
        found = model.similarities(encoded, asks, wanted, StateSpec(ALL))
    assert set(left) == {part.shape for own in found for one in own.values() for part in (one.raw, one.text)}
    assert len(towers) == 1, "an image is encoded once for everything"
    with pytest.raises(IndexError):
        model.similarities(encoded, [Ask("?", 5)], [[0]], StateSpec(ALL))
    assert model.vision_calls == vision == 1
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules()] == hooks
    assert model.answer(encoded, [Ask(TEXTS[0], 0, 6)]) == before


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_models_are_compared_in_float32(checkpoint, pictures, vlm, dtype):
    narrow = HfVlm.load(checkpoint("age_vlm"), device="cpu", dtype=dtype)
    found, wide = similar(narrow, pictures)[0], similar(vlm("age_vlm"), pictures)[0]
    for one, other in zip(found, wide, strict=True):
        assert one["hidden"].raw.dtype == np.float32
        assert 0 < np.abs(one["hidden"].raw - other["hidden"].raw).max() < 0.05


def test_a_state_of_length_0_has_no_cosine():
    words, image = torch.ones(2, 1, 4), torch.zeros(3, 1, 4)
    assert states.cosines(words, image).isnan().all()
    assert states.cosines(words, torch.ones(3, 1, 4)).tolist() == [1, 1, 1]


def test_what_cannot_be_compared_is_refused(vlm, pictures):
    model = vlm("llava")
    encoded = model.encode(pictures[:1])
    with pytest.raises(ValueError, match="must name an image"):
        model.similarities(encoded, [Ask("?", None)], [[0]], StateSpec())
    with pytest.raises(ValueError, match="no token"):
        model.similarities(encoded, [Ask("?", 0)], [[]], StateSpec())
    with pytest.raises(DataError, match="shorten it"):
        model.similarities(encoded, [Ask("dog " * 5000, 0)], [[0]], StateSpec())
    with pytest.raises(NotSupported, match="cannot be looked into"):
        Vlm.similarities(model, encoded, [], [], StateSpec())
