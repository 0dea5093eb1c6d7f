"""The probe against eager attention, recorded hidden states and longhand projections; its gradients too."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agevlm.model import ProbeRequest
from agevlm.model.probe import attention_rows
from tests.model import longhand
from tests.model.conftest import TOKENS, close_gates, pixels, words

ROWS, POSITIONS = torch.tensor([1, 0, 1, 2, 0]), torch.tensor([6, 2, 0, 3, 2])
WHO = torch.tensor([True, False, True])
SHOWN = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0, 1], [0, 1, 1, 1, 1, 0, 1, 1, 1], [1, 0, 0, 0, 0, 0, 1, 0, 0]]).bool()
MODES = {
    "plain": {},
    "mixed, some images": {"pixel_values": pixels(3)[WHO], "image_mask": WHO},
    "mixed, all images": {"image_mask": WHO},
    "padding hidden": {"vision_token_mask": SHOWN},
    "padding hidden, mixed, all images": {"image_mask": WHO, "vision_token_mask": SHOWN},
    "padding hidden, mixed": {"pixel_values": pixels(3)[WHO], "image_mask": WHO, "vision_token_mask": SHOWN[WHO]},
}


def inputs_of(mode):
    return {"input_ids": words(3, 7), "pixel_values": pixels(3)} | MODES[mode]


def asked_of_rows_with_image(mode):
    keep = WHO[ROWS] if "image_mask" in MODES[mode] else torch.ones_like(ROWS, dtype=torch.bool)
    return ROWS[keep], POSITIONS[keep]


def eager_means(model, rows, positions, **given):
    output = model(**given, output_vision_attentions=True)
    return output, [weights[rows, :, positions].mean(1) for weights in output.vision_attentions]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_attention_is_the_head_mean_of_eager_weights(vlm, attention, mode):
    masked = "vision_token_mask" in MODES[mode]
    rows, positions = asked_of_rows_with_image(mode)
    _, expected = eager_means(vlm("eager", mask_padding=masked), rows, positions, **inputs_of(mode))
    probe = ProbeRequest(rows, positions)
    output = vlm(attention, mask_padding=masked)(**inputs_of(mode), probe=probe)
    assert output.probe.layers == (1, 4)
    assert len(output.probe.attention) == 2
    assert output.probe.queries == output.probe.keys == output.probe.hidden_states == ()
    for found, mean in zip(output.probe.attention, expected, strict=True):
        assert found.shape == (len(rows), TOKENS)
        assert float(found.amax() - found.amin()) > 0.1, "uniform attention would prove nothing"
        torch.testing.assert_close(found, mean, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.sum(-1), torch.ones(len(rows)))
    if masked:
        images = SHOWN if mode == "padding hidden" else SHOWN * WHO[:, None]
        assert not bool(output.probe.attention[0][~images[rows]].any())


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_a_probe_changes_no_logit(vlm, mode):
    model = vlm(mask_padding="vision_token_mask" in MODES[mode])
    probe = ProbeRequest(ROWS, POSITIONS, queries_keys=True, hidden_states=(0, 3, -1))
    output = model(**inputs_of(mode), probe=probe)
    assert torch.equal(output.logits, model(**inputs_of(mode)).logits)
    # Rows sum to 1; those without an image look at nothing.
    mass = torch.ones(len(ROWS)) if "image_mask" not in MODES[mode] else WHO[ROWS].float()
    for found in output.probe.attention:
        torch.testing.assert_close(found.sum(-1), mass)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_cached_decoding_is_probed_too(vlm, attention, mode):
    masked = "vision_token_mask" in MODES[mode]
    model, image = vlm(attention, mask_padding=masked), inputs_of(mode)
    ids = image.pop("input_ids")
    cache = model(ids[:, :5], **image, use_cache=True).past_key_values
    rows = torch.tensor([2, 0])
    _, expected = eager_means(vlm("eager", mask_padding=masked), rows, torch.tensor([6, 5]), input_ids=ids, **image)
    found = model(ids[:, 5:], past_key_values=cache, probe=ProbeRequest(rows, torch.tensor([1, 0]))).probe
    for one, other in zip(found.attention, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@torch.no_grad()
def test_attention_is_float32_whatever_the_model(fresh):
    model = fresh().to(torch.bfloat16)
    probe = ProbeRequest(ROWS, POSITIONS)
    output = model(words(3, 7), pixel_values=pixels(3).bfloat16(), probe=probe)
    assert {a.dtype for a in output.probe.attention} == {torch.float32}
    torch.testing.assert_close(output.probe.attention[1].sum(-1), torch.ones(len(ROWS)))


@torch.no_grad()
def test_hidden_states_are_those_of_output_hidden_states(vlm):
    wanted = (0, -1, 2, 6, 5, -3, 1)
    probe = ProbeRequest(ROWS, POSITIONS, attention=False, hidden_states=wanted)
    output = vlm()(words(3, 7), pixel_values=pixels(3), probe=probe, output_hidden_states=True)
    assert len(output.probe.hidden_states) == len(wanted)
    assert output.probe.attention == output.probe.layers == ()
    for index, found in zip(wanted, output.probe.hidden_states, strict=True):
        assert torch.equal(found, output.hidden_states[index][ROWS, POSITIONS])
    assert not torch.equal(output.hidden_states[5], output.hidden_states[6])


@torch.no_grad()
def test_hidden_states_of_text_alone_are_llamas(vlm):
    # Before each layer of the fused stack, what LLaMA has before the same layer of its own; at last the normed ones.
    places = {
        "cross": ((0, 0), (1, 1), (2, 1), (3, 2), (4, 3), (5, 3), (6, 4)),
        "concat": tuple((i, i) for i in range(5)),
    }
    for fusion, pairs in places.items():
        model = vlm(fusion=fusion)
        probe = ProbeRequest(ROWS, POSITIONS, attention=False, hidden_states=[fused for fused, _ in pairs])
        expected = longhand.llama_of(model)(words(3, 7), output_hidden_states=True).hidden_states
        found = model(words(3, 7), probe=probe).probe.hidden_states
        for (_, own), states in zip(pairs, found, strict=True):
            assert torch.equal(states, expected[own][ROWS, POSITIONS])


@torch.no_grad()
def test_queries_and_keys_equal_a_longhand_projection(vlm):
    model = vlm()
    probe = ProbeRequest(ROWS, POSITIONS, attention=False, queries_keys=True)
    output = model(words(3, 7), pixel_values=pixels(3), probe=probe, output_hidden_states=True)
    assert output.probe.layers == (1, 4)
    assert output.probe.attention == ()
    for at, index in enumerate((1, 4)):
        layer = model.model.language_model.layers[index]
        states = longhand.rms_norm(output.hidden_states[index], layer.input_layernorm.weight, 1e-5)[ROWS, POSITIONS]
        queries = (states @ layer.cross_attn.q_proj.weight.T).view(len(ROWS), 4, 16)
        keys = (output.image_hidden_states @ layer.cross_attn.k_proj.weight.T).view(3, TOKENS, 2, 16).transpose(1, 2)
        queries = longhand.rms_norm(queries, layer.cross_attn.q_norm.weight, 1e-5)
        keys = longhand.rms_norm(keys, layer.cross_attn.k_norm.weight, 1e-5)
        torch.testing.assert_close(output.probe.queries[at], queries, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(output.probe.keys[at], keys, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_layers_come_in_the_order_asked_for(vlm):
    def probed(layers):
        return vlm()(words(3, 7), pixel_values=pixels(3), probe=ProbeRequest(ROWS, POSITIONS, layers)).probe

    every, turned, one = probed(None), probed([4, 1]), probed((4,))
    assert (every.layers, turned.layers, one.layers) == ((1, 4), (4, 1), (4,))
    assert [torch.equal(a, b) for a, b in zip(turned.attention, every.attention[::-1], strict=True)] == [True, True]
    assert len(one.attention) == 1
    assert torch.equal(one.attention[0], every.attention[1])
    assert not torch.allclose(every.attention[0], every.attention[1], atol=0.05)


@torch.no_grad()
def test_layers_that_nobody_asked_for_cost_nothing(vlm, monkeypatch):
    computed = []
    monkeypatch.setattr(
        "agevlm.model.cross_attention.attention_rows", lambda *given: computed.append(1) or attention_rows(*given)
    )
    for wanted, layers in (({"layers": [4]}, 1), ({}, 2), ({"attention": False, "hidden_states": (0,)}, 0)):
        vlm()(words(3, 7), pixel_values=pixels(3), probe=ProbeRequest(ROWS, POSITIONS, **wanted))
        assert len(computed) == layers
        computed.clear()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"layers": [1, 2]}, r"layers \[2\] have no cross-attention; those that do: \[1, 4\]"),
        ({"layers": [-2]}, r"layers \[-2\]"),
        ({"hidden_states": (7,)}, r"hidden states \[7\] do not exist; there are 7"),
        ({"hidden_states": (-8, 0)}, r"hidden states \[-8\]"),
    ],
)
def test_what_does_not_exist_cannot_be_probed(vlm, request_, message):
    with pytest.raises(ValueError, match=message):
        vlm()(words(3, 7), pixel_values=pixels(3), probe=ProbeRequest(ROWS, POSITIONS, **request_))


@pytest.mark.parametrize("wanted", [{"attention": True}, {"attention": False, "queries_keys": True}], ids=str)
def test_without_an_image_there_is_nothing_to_look_at(vlm, wanted):
    probe = ProbeRequest(ROWS, POSITIONS, **wanted)
    with pytest.raises(ValueError, match="no cross-attention to an image"):
        vlm()(words(3, 7), probe=probe)
    with pytest.raises(ValueError, match="fusion 'concat' has no cross-attention"):
        vlm(fusion="concat")(words(3, 7), probe=probe)


def score(attention):
    """Some function of attention that no symmetry makes flat."""
    weights = torch.linspace(-1, 2, TOKENS)
    return sum(((a @ weights) ** 2).sum() * (n + 1) for n, a in enumerate(attention))


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: None if w.grad is None else w.grad.clone() for name, w in model.named_parameters()}


def assert_close_for_its_size(gradient, expected, name):
    assert float((gradient - expected).abs().max()) <= 1e-4 * float(expected.abs().max()), name


REACHED = (
    "cross_attn.q_proj",
    "cross_attn.k_proj",
    "cross_attn.q_norm",
    "cross_attn.k_norm",
    "adapter",
    "vision_tower",
)


@pytest.mark.parametrize("closed", [False, True], ids=["gates open", "gates closed"])
@pytest.mark.parametrize("mode", MODES)
def test_gradients_equal_those_through_eager_weights(fresh, mode, closed):
    masked = "vision_token_mask" in MODES[mode]
    rows, positions = asked_of_rows_with_image(mode)
    found = {}
    for attention in ("eager", "sdpa"):
        model = fresh(attention=attention, mask_padding=masked).train()
        if closed:
            close_gates(model)
        if attention == "eager":
            output, means = eager_means(model, rows, positions, **inputs_of(mode))
        else:
            output = model(**inputs_of(mode), probe=ProbeRequest(rows, positions))
            means = output.probe.attention
        found[attention] = score(means), gradients(model, score(means))
    torch.testing.assert_close(found["eager"][0], found["sdpa"][0])
    for name, expected in found["eager"][1].items():
        gradient = found["sdpa"][1][name]
        assert (gradient is None) == (expected is None), name
        if any(part in name for part in REACHED):
            assert bool(gradient.any()), name
        if gradient is not None:
            assert_close_for_its_size(gradient, expected, name)


def test_gradients_of_queries_keys_and_hidden_states_equal_those_of_what_they_record(fresh):
    def loss(tensors):
        return sum((t * torch.linspace(-1, 1, t.numel()).view(t.shape)).sum() for t in tensors)

    def by_hand(model):
        output = model(words(3, 7), pixel_values=pixels(3), output_hidden_states=True)
        for index in (1, 4):
            layer = model.model.language_model.layers[index]
            states = longhand.rms_norm(output.hidden_states[index], layer.input_layernorm.weight, 1e-5)
            queries = layer.cross_attn.q_proj(states[ROWS, POSITIONS]).view(len(ROWS), 4, 16)
            keys = layer.cross_attn.k_proj(output.image_hidden_states).view(3, TOKENS, 2, 16).transpose(1, 2)
            yield longhand.rms_norm(queries, layer.cross_attn.q_norm.weight, 1e-5)
            yield longhand.rms_norm(keys, layer.cross_attn.k_norm.weight, 1e-5)
        yield from (output.hidden_states[i][ROWS, POSITIONS] for i in (2, 6))

    model = fresh()
    expected = gradients(model, loss(list(by_hand(model))))
    probe = ProbeRequest(ROWS, POSITIONS, attention=False, queries_keys=True, hidden_states=(2, 6))
    found = model(words(3, 7), pixel_values=pixels(3), probe=probe).probe
    pairs = [t for pair in zip(found.queries, found.keys, strict=True) for t in pair]
    for name, gradient in gradients(model, loss([*pairs, *found.hidden_states])).items():
        assert bool(expected[name].any()), name
        assert_close_for_its_size(gradient, expected[name], name)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_checkpointing_changes_neither_values_nor_gradients(fresh, mode, reentrant):
    masked = "vision_token_mask" in MODES[mode]
    ids, found = words(3, 7), {}
    for checkpointing in (False, True):
        model = fresh(mask_padding=masked).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        probe = ProbeRequest(*asked_of_rows_with_image(mode), queries_keys=True, hidden_states=(2, -2))
        result = model(**inputs_of(mode), labels=ids, probe=probe)
        loss = result.loss + score(result.probe.attention)
        recorded = (*result.probe.queries, *result.probe.keys, *result.probe.hidden_states)
        assert len(recorded) == 6
        loss = loss + sum((r * r).sum() * 0.01 for r in recorded)
        values = (result.logits.detach(), *(r.detach() for r in (*result.probe.attention, *recorded)))
        found[checkpointing] = values, gradients(model, loss)
    for one, other in zip(found[False][0], found[True][0], strict=True):
        assert torch.equal(one, other)
    for name, expected in found[False][1].items():
        assert bool(expected.any()), name
        assert_close_for_its_size(found[True][1][name], expected, name)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_loss_on_attention_alone_reaches_the_projections_under_checkpointing(fresh, reentrant):
    found = {}
    for checkpointing in (False, True):
        model = fresh().train()
        close_gates(model)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        result = model(words(3, 7), pixel_values=pixels(3), probe=ProbeRequest(ROWS, POSITIONS))
        found[checkpointing] = gradients(model, score(result.probe.attention))
    for name, expected in found[False].items():
        if any(part in name for part in REACHED):
            assert bool(expected.any()), name
            assert_close_for_its_size(found[True][name], expected, name)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(0, 6),
    st.booleans(), st.integers(0, 2**31),
)  # fmt: skip
def test_attention_rows_equal_a_loop(batch, groups, shared, keys, size, asked, hide, seed):
    generator = torch.Generator().manual_seed(seed)
    queries = 2 * torch.randn(asked, groups * shared, size, generator=generator)
    held = 2 * torch.randn(batch, groups, keys, size, generator=generator)
    rows = torch.randint(0, batch, (asked,), generator=generator)
    visible = None
    if hide:
        visible = torch.rand(asked, keys, generator=generator) < 0.6
    found = attention_rows(queries, held, rows, 0.7, visible)
    expected = longhand.attention_rows(queries, held, rows.tolist(), 0.7, visible)
    assert found.dtype == torch.float32
    assert found.shape == (asked, keys)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.sum(-1), torch.ones(asked) if visible is None else visible.any(-1).float())


def test_attention_rows_of_large_scores_neither_overflow_nor_lose_the_winner():
    queries = torch.tensor([[[1e4]]], dtype=torch.bfloat16)
    keys = torch.tensor([[[[1.0], [2.0], [-3.0]]]], dtype=torch.bfloat16)
    assert attention_rows(queries, keys, torch.tensor([0]), 1.0).tolist() == [[0.0, 1.0, 0.0]]


def test_attention_rows_stay_in_float32_under_autocast():
    drawn = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(5, 4, 8, generator=drawn) * 3, torch.randn(2, 2, 9, 8, generator=drawn) * 3
    rows = torch.tensor([0, 1, 1, 0, 1])
    expected = attention_rows(queries, keys, rows, 8**-0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (queries[0] @ keys[0, 0].T).dtype == torch.bfloat16
        assert torch.equal(attention_rows(queries, keys, rows, 8**-0.5), expected)
