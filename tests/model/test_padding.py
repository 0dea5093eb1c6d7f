"""mask_padding: visual tokens that hold nothing but padding are hidden, from the first word to the last."""

import copy

import pytest
import torch

from tests.model import longhand
from tests.model.conftest import TOKENS, answer, assert_differs, assert_same, join, pixels, ragged, words

SHOWN = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0, 1], [0, 1, 1, 1, 1, 0, 1, 1, 1]], dtype=torch.bool)
ATTENTION = ["sdpa", "eager"]


@pytest.fixture(params=ATTENTION)
def model(request, vlm):
    return vlm(request.param, mask_padding=True)


@pytest.fixture
def features(model):
    with torch.no_grad():
        return model.get_image_features(pixels(2)).pooler_output


def perturbed(features, where):
    noise = 3 * torch.randn(features.shape, generator=torch.Generator().manual_seed(5))
    return torch.where(where[..., None], noise, features)


@torch.no_grad()
def test_hidden_tokens_change_nothing_and_each_visible_one_does(model, features):
    base = model(words(2, 7), image_features=features, vision_token_mask=SHOWN).logits
    other = model(words(2, 7), image_features=perturbed(features, ~SHOWN), vision_token_mask=SHOWN).logits
    assert torch.equal(base, other)
    for token in range(TOKENS):
        only = torch.zeros_like(SHOWN)
        only[:, token] = True
        moved = model(words(2, 7), image_features=perturbed(features, only), vision_token_mask=SHOWN).logits
        for row in range(2):
            assert float((moved - base)[row].abs().max()) > 0.01 or not SHOWN[row, token]
            assert torch.equal(moved[row], base[row]) or SHOWN[row, token]


@torch.no_grad()
def test_the_layers_equal_their_longhand(model, features):
    output = model(words(2, 7), image_features=features, vision_token_mask=SHOWN, output_hidden_states=True)
    hidden = [[n for n in range(TOKENS) if not SHOWN[row, n]] for row in range(2)]
    for index in (1, 4):
        layer = model.model.language_model.layers[index]
        expected = longhand.cross_attention_layer(layer, output.hidden_states[index], features, hidden)
        torch.testing.assert_close(output.hidden_states[index + 1], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_no_mask_hides_nothing(model):
    one = model(words(2, 7), pixel_values=pixels(2)).logits
    other = model(words(2, 7), pixel_values=pixels(2), vision_token_mask=torch.ones_like(SHOWN)).logits
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTION)
@torch.no_grad()
def test_off_the_mask_is_ignored(vlm, attention):
    off, on = vlm(attention), vlm(attention, mask_padding=True)
    masked, plain = (off(words(2, 7), pixel_values=pixels(2), vision_token_mask=m).logits for m in (SHOWN, None))
    assert torch.equal(masked, plain)
    assert float((on(words(2, 7), pixel_values=pixels(2), vision_token_mask=SHOWN).logits - plain).abs().max()) > 0.05
    one, other = (answer(off, words(2, 7), pixel_values=pixels(2), vision_token_mask=m) for m in (SHOWN, None))
    assert_same(one, other, 0)
    assert_same(answer(off, words(2, 7), past_key_values=off.vision_cache(pixels(2), vision_token_mask=SHOWN)), other)
    # Not even a mask that hides everything.
    nothing = torch.zeros_like(SHOWN)
    blank = off(words(2, 7), pixel_values=pixels(2), vision_token_mask=nothing).logits
    assert torch.equal(blank, plain)
    cache = off.vision_cache(pixels(2), vision_token_mask=nothing)
    torch.testing.assert_close(off(words(2, 7), past_key_values=cache).logits, plain, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_cached_run_keeps_the_mask_at_every_step(model, features):
    given = {"vision_token_mask": SHOWN, "image_features": features}
    cached = answer(model, words(2, 7), **given)
    assert_same(cached, answer(model, words(2, 7), **given, use_cache=False))
    assert_differs(cached, answer(model, words(2, 7), image_features=features))
    # Not only at the first: what is hidden stays hidden at each later one.
    shifted = answer(model, words(2, 7), **given | {"image_features": perturbed(features, ~SHOWN)})
    assert_same(cached, shifted, 0)


@torch.no_grad()
def test_eager_equals_sdpa(vlm):
    eager, sdpa = (vlm(a, mask_padding=True) for a in ("eager", "sdpa"))
    given = {"pixel_values": pixels(2), "vision_token_mask": SHOWN}
    assert_same(answer(eager, words(2, 7), **given), answer(sdpa, words(2, 7), **given))
    mixed = {"pixel_values": pixels(2), "vision_token_mask": SHOWN, "image_mask": torch.tensor([True, False, True])}
    assert_same(answer(eager, words(3, 7), **mixed), answer(sdpa, words(3, 7), **mixed))


@pytest.mark.parametrize("more", [{"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}], ids=str)
@torch.no_grad()
def test_beams_keep_it(model, more):
    given = {"pixel_values": pixels(2), "vision_token_mask": SHOWN}
    cached = answer(model, words(2, 7), **given, **more)
    assert_same(cached, answer(model, words(2, 7), **given, **more, use_cache=False))
    assert_differs(cached, answer(model, words(2, 7), pixel_values=pixels(2), **more))


@torch.no_grad()
def test_a_static_cache_keeps_it(model):
    given = {"pixel_values": pixels(2), "vision_token_mask": SHOWN}
    expected = answer(model, words(2, 7), **given)
    assert_same(answer(model, words(2, 7), **given, cache_implementation="static"), expected)


WHO = torch.tensor([True, False, True])


@pytest.mark.parametrize("way", ["all rows", "one for each row with an image", "one for every row"])
@torch.no_grad()
def test_rows_of_a_batch_keep_their_own(model, way):
    batch, who = ragged([7, 4, 6]), torch.ones(3, dtype=torch.bool) if way == "all rows" else WHO
    images, shown = pixels(3), SHOWN[[0, 1, 1]].logical_xor(torch.arange(TOKENS) == torch.tensor([[9], [9], [4]]))
    given = {"attention_mask": batch.attention_mask}
    if way == "one for each row with an image":
        given |= {"pixel_values": images[who], "vision_token_mask": shown[who], "image_mask": who}
    else:
        given |= {"pixel_values": images, "vision_token_mask": shown}
        given |= {} if way == "all rows" else {"image_mask": who}
    alone = []
    for i, row in enumerate(batch.rows):
        own = {"pixel_values": images[i : i + 1], "vision_token_mask": shown[i : i + 1]} if who[i] else {}
        alone.append(answer(model, row, **own))
    assert_same(answer(model, batch.input_ids, **given), join(alone))


@torch.no_grad()
def test_a_vision_cache_carries_it_through_repeating_and_selecting(model):
    questions = words(4, 7)
    rows = torch.tensor([0, 0, 1, 1])
    expected = answer(model, questions, pixel_values=pixels(2)[rows], vision_token_mask=SHOWN[rows])
    cache = model.vision_cache(pixels(2), vision_token_mask=SHOWN)
    picked = copy.deepcopy(cache)
    cache.batch_repeat_interleave(2)
    assert_same(answer(model, questions, past_key_values=cache), expected)
    picked.batch_select_indices(torch.tensor([1, 0]))
    assert_same(
        answer(model, questions[[2, 0]], past_key_values=picked),
        answer(model, questions[[2, 0]], pixel_values=pixels(2)[[1, 0]], vision_token_mask=SHOWN[[1, 0]]),
    )


@torch.no_grad()
def test_a_second_image_without_a_mask_forgets_the_first_ones(model):
    first = {"pixel_values": pixels(2), "vision_token_mask": SHOWN, "use_cache": True}
    cache, by_hand = (model(words(2, 5), **first).past_key_values for _ in range(2))
    second = model.vision_cache(pixels(2, 1))
    for index in (1, 4):
        by_hand.layers[index] = second.layers[index]
    # At once, and at the next step, which knows of the image from the cache alone.
    for ids, image in ((words(2, 3, 8), {"pixel_values": pixels(2, 1)}), (words(2, 1, 9), {})):
        found = model(ids, past_key_values=cache, **image).logits
        torch.testing.assert_close(found, model(ids, past_key_values=by_hand).logits, rtol=0, atol=1e-4)


@torch.no_grad()
def test_an_image_of_padding_alone_is_no_image(model):
    nothing = SHOWN.clone()
    nothing[1] = False
    output = model(words(2, 7), pixel_values=pixels(2), vision_token_mask=nothing).logits
    torch.testing.assert_close(output[1], model(words(2, 7)).logits[1], rtol=0, atol=1e-5)
    assert bool(output.isfinite().all())


@pytest.mark.parametrize("shown", [SHOWN[:1], SHOWN[:, :5], SHOWN[0]], ids=lambda m: str(tuple(m.shape)))
def test_a_mask_of_other_images_is_refused(vlm, shown):
    for more in ({}, {"image_mask": torch.tensor([True, True])}):
        with pytest.raises(ValueError, match="vision_token_mask"):
            vlm(mask_padding=True)(words(2, 7), pixel_values=pixels(2), vision_token_mask=shown, **more)
    with pytest.raises(ValueError, match="vision_token_mask"):
        vlm(mask_padding=True).vision_cache(pixels(2), vision_token_mask=shown)


def test_flash_attention_cannot_hide_tokens_and_says_so(fresh):
    model = fresh(mask_padding=True)
    stack = model.model.language_model
    stack.config._attn_implementation = "flash_attention_2"
    states = torch.zeros(2, 3, 48)
    with pytest.raises(ValueError, match="mask_padding needs attn_implementation"):
        stack._image(torch.zeros(2, TOKENS, 48), SHOWN, True, None, states)
