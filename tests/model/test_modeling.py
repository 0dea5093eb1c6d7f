"""One forward pass: against LLaMA alone, against a longhand of each layer, and what is refused."""

import pytest
import torch
from torch.nn import functional

from agevlm.model import AgeVlmTextModel
from tests.model import longhand
from tests.model.conftest import CONTEXT, IMAGE_MATTERS, TOKENS, WORDS, close_gates, pixels, ragged, words

ATTENTION = ["sdpa", "eager"]


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("mlp", [True, False])
@torch.no_grad()
def test_with_closed_gates_the_image_changes_no_bit_and_the_model_is_llama(fresh, attention, mlp):
    model = fresh({"cross_attention_mlp": mlp}, attention=attention)
    batch = ragged([9, 5], side="right")
    texts = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    opened = model(**texts, pixel_values=pixels(2)).logits
    close_gates(model)
    closed, blind = model(**texts, pixel_values=pixels(2)).logits, model(**texts).logits
    assert float((opened - closed).abs().max()) > IMAGE_MATTERS
    assert torch.equal(closed, blind)
    assert torch.equal(blind, longhand.llama_of(model)(**texts).logits)


@pytest.mark.parametrize("attention", ATTENTION)
@torch.no_grad()
def test_text_alone_is_llama_even_with_open_gates(vlm, attention):
    model = vlm(attention)
    assert torch.equal(model(words(2, 9)).logits, longhand.llama_of(model)(words(2, 9)).logits)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("mlp", [True, False])
@torch.no_grad()
def test_each_cross_attention_layer_equals_its_longhand(fresh, attention, mlp):
    model = fresh({"cross_attention_mlp": mlp}, attention=attention)
    output = model(words(2, 7), pixel_values=pixels(2), output_hidden_states=True)
    assert len(output.hidden_states) == 7
    for index in (1, 4):
        layer = model.model.language_model.layers[index]
        before, after = output.hidden_states[index], output.hidden_states[index + 1]
        expected = longhand.cross_attention_layer(layer, before, output.image_hidden_states)
        assert float((expected - before).abs().max()) > 0.3, "the layer does nothing here"
        torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_heads_of_equal_number_and_one_shared_key_head_equal_their_longhand_too(fresh):
    for key_heads in (1, 4):
        model = fresh({"num_key_value_heads": key_heads})
        output = model(words(2, 7), pixel_values=pixels(2), output_hidden_states=True)
        layer = model.model.language_model.layers[4]
        expected = longhand.cross_attention_layer(layer, output.hidden_states[4], output.image_hidden_states)
        torch.testing.assert_close(output.hidden_states[5], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_logits_are_the_normed_states_times_the_head(vlm):
    model = vlm()
    output = model(words(2, 7), pixel_values=pixels(2), output_hidden_states=True)
    states = model.model(words(2, 7), pixel_values=pixels(2)).last_hidden_state
    assert torch.equal(output.hidden_states[-1], states)
    torch.testing.assert_close(output.logits, states @ model.model.language_model.embed_tokens.weight.T)
    assert torch.equal(output.hidden_states[0], model.get_input_embeddings()(words(2, 7)))


@torch.no_grad()
def test_the_loss_is_the_mean_cross_entropy_of_the_next_token(vlm):
    model, ids = vlm(), words(2, 7)
    labels = ids.clone()
    labels[0, :4] = -100
    output = model(ids, pixel_values=pixels(2), labels=labels)
    picked = [
        -output.logits[row, at].log_softmax(-1)[labels[row, at + 1]]
        for row in range(2)
        for at in range(6)
        if labels[row, at + 1] >= 0
    ]
    assert len(picked) == 9
    torch.testing.assert_close(output.loss, torch.stack(picked).mean())
    summed = model(ids, pixel_values=pixels(2), labels=labels, num_items_in_batch=torch.tensor(5)).loss
    torch.testing.assert_close(summed, torch.stack(picked).sum() / 5)


@pytest.mark.parametrize("kept", [1, 3, torch.tensor([0, 4])], ids=str)
@torch.no_grad()
def test_logits_to_keep_are_those_of_the_full_pass(vlm, kept):
    full = vlm()(words(2, 7), pixel_values=pixels(2)).logits
    part = vlm()(words(2, 7), pixel_values=pixels(2), logits_to_keep=kept).logits
    expected = full[:, -kept:] if isinstance(kept, int) else full[:, kept]
    torch.testing.assert_close(part, expected)


@torch.no_grad()
def test_features_embeddings_and_positions_may_be_given_in_place_of_pixels_tokens_and_the_default(vlm):
    model, ids = vlm(), words(2, 7)
    expected = model(ids, pixel_values=pixels(2)).logits
    features = model.get_image_features(pixels(2)).pooler_output
    assert features.shape == (2, TOKENS, 48)
    embeddings = model.get_input_embeddings()(ids)
    output = model(inputs_embeds=embeddings, image_features=features, position_ids=torch.arange(7).expand(2, -1))
    assert torch.equal(output.logits, expected)
    assert torch.equal(output.image_hidden_states, features)
    # Rotary positions tell distances: stretched ones give other logits.
    stretched = model(
        ids, pixel_values=pixels(2), attention_mask=torch.ones(2, 7), position_ids=3 * torch.arange(7).expand(2, -1)
    )
    assert float((stretched.logits - expected).abs().max()) > 0.05


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padded_rows_equal_rows_by_themselves(vlm, attention, side):
    model, batch = vlm(attention), ragged([9, 4, 6], side)
    together = model(batch.input_ids, attention_mask=batch.attention_mask, pixel_values=pixels(3)).logits
    unmasked = model(batch.input_ids, pixel_values=pixels(3)).logits
    for i, row in enumerate(batch.rows):
        n = row.shape[1]
        at = slice(-n, None) if side == "left" else slice(n)
        alone = model(row, pixel_values=pixels(3)[i : i + 1]).logits[0]
        torch.testing.assert_close(together[i, at], alone, rtol=0, atol=1e-4)
        if side == "left" and n < 9:
            assert float((unmasked[i, at] - alone).abs().max()) > 0.05


@pytest.mark.parametrize("attention", ATTENTION)
@torch.no_grad()
def test_the_first_word_already_sees_the_last_visual_token(vlm, attention):
    model = vlm(attention)
    features = model.get_image_features(pixels(1)).pooler_output
    changed = features.clone()
    changed[:, -1] = 3 * torch.randn(48, generator=torch.Generator().manual_seed(0))
    one, other = (model(words(1, 5), image_features=f).logits for f in (features, changed))
    assert bool(((one - other).abs().amax(-1) > 0.01).all()), "every position sees every visual token"


@torch.no_grad()
def test_a_word_does_not_see_later_words(vlm):
    ids = words(1, 7)
    changed = ids.clone()
    changed[0, 4] = (ids[0, 4] + 1) % WORDS
    one, other = (vlm()(i, pixel_values=pixels(1)).logits[0] for i in (ids, changed))
    torch.testing.assert_close(one[:4], other[:4], rtol=0, atol=1e-5)
    assert bool(((one[4:] - other[4:]).abs().amax(-1) > 0.05).all())


@torch.no_grad()
def test_visual_tokens_have_no_order_of_their_own(vlm):
    features = vlm().get_image_features(pixels(1)).pooler_output
    one, other = (vlm()(words(1, 7), image_features=f).logits for f in (features, features.flip(1)))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@torch.no_grad()
def test_eager_attention_equals_sdpa(vlm):
    eager, sdpa = vlm("eager"), vlm("sdpa")
    assert eager.model.language_model.config._attn_implementation == "eager"
    batch = ragged([7, 4])
    for more in ({}, {"attention_mask": batch.attention_mask}):
        for image in ({}, {"pixel_values": pixels(2)}, {"pixel_values": pixels(1), "image_mask": torch.tensor([0, 1])}):
            one, other = (m(batch.input_ids, **more, **image).logits for m in (eager, sdpa))
            at = batch.attention_mask.bool()
            torch.testing.assert_close(one[at], other[at], rtol=0, atol=1e-4)


@torch.no_grad()
def test_vision_attentions_equal_their_longhand_and_need_eager(vlm):
    model = vlm("eager")
    output = model(words(2, 7), pixel_values=pixels(2), output_vision_attentions=True, output_hidden_states=True)
    assert len(output.vision_attentions) == 2
    for index, weights in zip((1, 4), output.vision_attentions, strict=True):
        layer = model.model.language_model.layers[index]
        states = longhand.rms_norm(output.hidden_states[index], layer.input_layernorm.weight, 1e-5)
        _, expected = longhand.cross_attention(layer.cross_attn, states, output.image_hidden_states)
        assert weights.shape == (2, 4, 7, TOKENS)
        torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="needs attn_implementation='eager'"):
        vlm("sdpa")(words(2, 7), pixel_values=pixels(2), output_vision_attentions=True)


@torch.no_grad()
def test_output_attentions_are_those_of_the_self_attention_layers(vlm):
    output = vlm("eager")(words(2, 7), pixel_values=pixels(2), output_attentions=True)
    assert [tuple(a.shape) for a in output.attentions] == [(2, 4, 7, 7)] * 4
    assert output.vision_attentions is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_ids": words(2, 5), "pixel_values": pixels(1)}, "1 images for 2 rows"),
        ({"input_ids": words(2, 5), "pixel_values": pixels(3)}, "3 images for 2 rows"),
        ({"input_ids": words(2, 5), "inputs_embeds": torch.zeros(2, 5, 48)}, "exactly one of"),
        ({}, "exactly one of"),
    ],
)
def test_inputs_that_do_not_go_together_are_refused(vlm, given, message):
    with pytest.raises(ValueError, match=message):
        vlm()(**given)


def test_the_text_stack_too_refuses_images_for_other_rows(vlm):
    with pytest.raises(ValueError, match=r"3 images .* 2 rows"):
        vlm().model.language_model(words(2, 5), vision_states=torch.zeros(3, TOKENS, 48))


@torch.no_grad()
def test_more_positions_than_the_model_has_are_refused(vlm):
    assert vlm()(words(1, CONTEXT)).logits.shape[1] == CONTEXT
    with pytest.raises(ValueError, match=f"{CONTEXT + 1} positions are more than the model's {CONTEXT}"):
        vlm()(words(1, CONTEXT + 1))
    cache = vlm()(words(1, CONTEXT - 2), use_cache=True).past_key_values
    vlm()(words(1, 2), past_key_values=cache)
    with pytest.raises(ValueError, match=f"{CONTEXT + 1} positions"):
        vlm()(words(1, 1), past_key_values=cache)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("mask_padding", [False, True])
def test_bfloat16_runs_and_is_finite(fresh, attention, mask_padding):
    model = fresh(attention=attention, mask_padding=mask_padding).to(torch.bfloat16)
    ids = words(3, 7)
    output = model(
        ids,
        pixel_values=pixels(2),
        image_mask=torch.tensor([True, False, True]),
        vision_token_mask=torch.arange(TOKENS).expand(2, -1) < 5,
        labels=ids,
    )
    output.loss.backward()
    assert output.logits.dtype == torch.bfloat16
    assert bool(output.logits.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_attention_dropout_acts_in_training_only(fresh, rate):
    model = fresh({"attention_dropout": rate})
    layer = model.model.language_model.layers[1].cross_attn
    generator = torch.Generator().manual_seed(0)
    states, image = (torch.randn(1, n, 48, generator=generator) for n in (5, TOKENS))
    one, other = (layer.train()(states, image)[0] for _ in range(2))
    assert torch.equal(one, other) == (rate == 0)
    one, other = (layer.eval()(states, image)[0] for _ in range(2))
    assert torch.equal(one, other)


@torch.no_grad()
def test_a_mask_made_by_the_caller_is_taken_as_it_is(vlm):
    batch = ragged([7, 4])
    length = batch.input_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril() & batch.attention_mask.bool()[:, None, None]
    made = torch.zeros(causal.shape).masked_fill(~causal, torch.finfo(torch.float32).min)
    expected = vlm()(batch.input_ids, attention_mask=batch.attention_mask, pixel_values=pixels(2)).logits
    at = batch.attention_mask.bool()
    for mask in (made, {"full_attention": made, "cross_attention": None}):
        found = vlm()(batch.input_ids, attention_mask=mask, pixel_values=pixels(2)).logits
        torch.testing.assert_close(found[at], expected[at], rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_text_stack_alone_can_be_used(vlm):
    inner = vlm().model.language_model
    assert isinstance(inner, AgeVlmTextModel)
    states = inner(words(2, 5)).last_hidden_state
    torch.testing.assert_close(functional.linear(states, vlm().lm_head.weight), vlm()(words(2, 5)).logits)
