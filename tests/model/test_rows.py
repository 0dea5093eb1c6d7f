"""Batches in which some rows have an image and some have none."""

import pytest
import torch

from tests.model import longhand
from tests.model.conftest import IMAGE_MATTERS, TOKENS, pixels, ragged, words

WHO = torch.tensor([True, False, True, False])
ATTENTION = ["sdpa", "eager"]
WAYS = ["one for each row with an image", "one for every row"]


def images(way, seed=0):
    every = pixels(4, seed)
    return every[WHO] if way == WAYS[0] else every


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_mixed_rows_equal_separate_runs(vlm, attention, way):
    model, batch = vlm(attention), ragged([7, 5, 4, 7])
    mixed = model(batch.input_ids, attention_mask=batch.attention_mask, pixel_values=images(way), image_mask=WHO).logits
    for i, row in enumerate(batch.rows):
        image = {"pixel_values": pixels(4)[i : i + 1]} if WHO[i] else {}
        torch.testing.assert_close(mixed[i, -row.shape[1] :], model(row, **image).logits[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("mask_padding", [False, True])
@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_for_a_row_without_an_image_no_image_changes_a_bit(vlm, attention, mask_padding, way):
    model = vlm(attention, mask_padding=mask_padding)
    one, other = (model(words(4, 7), pixel_values=images(way, s), image_mask=WHO).logits for s in (0, 1))
    assert torch.equal(one[~WHO], other[~WHO])
    assert bool(((one - other).abs().amax((1, 2))[WHO] > IMAGE_MATTERS).all())


@torch.no_grad()
def test_the_unused_image_of_a_row_may_even_be_infinite(vlm):
    broken = pixels(4)
    broken[1] = float("inf")
    sound, odd = (vlm()(words(4, 7), pixel_values=p, image_mask=WHO).logits for p in (pixels(4), broken))
    assert torch.equal(sound, odd)


@torch.no_grad()
def test_the_layer_itself_shuts_both_branches(vlm):
    model = vlm()
    output = model(words(4, 7), pixel_values=pixels(4), image_mask=WHO, output_hidden_states=True)
    for index in (1, 4):
        before, after = output.hidden_states[index], output.hidden_states[index + 1]
        assert torch.equal(before[~WHO], after[~WHO])
        layer = model.model.language_model.layers[index]
        expected = longhand.cross_attention_layer(layer, before, output.image_hidden_states, blind=(1, 3))
        torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_mask_may_be_of_zeros_and_ones(vlm):
    for way in WAYS:
        one, other = (vlm()(words(4, 7), pixel_values=images(way), image_mask=m).logits for m in (WHO, WHO.long()))
        assert torch.equal(one, other)


@torch.no_grad()
def test_an_image_for_every_row_may_be_said_too(vlm):
    one = vlm()(words(2, 7), pixel_values=pixels(2)).logits
    other = vlm()(words(2, 7), pixel_values=pixels(2), image_mask=torch.tensor([1, 1])).logits
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("count", "mask", "message"),
    [
        (1, [1, 0, 1], "1 images, but image_mask gives an image to 2 of 3 rows"),
        (4, [1, 0, 1], "4 images, but image_mask"),
        (2, [1, 1], r"image_mask of shape \(2,\): expected \(3,\)"),
        (2, [[1], [0], [1]], r"image_mask of shape \(3, 1\)"),
    ],
)
def test_images_that_do_not_fit_the_mask_are_refused(vlm, count, mask, message):
    with pytest.raises(ValueError, match=message):
        vlm()(words(3, 5), pixel_values=pixels(count), image_mask=torch.tensor(mask))


@torch.no_grad()
def test_a_row_without_an_image_does_not_see_a_cached_one_either(vlm):
    cache = vlm().vision_cache(pixels(4))
    found = vlm()(words(4, 7), past_key_values=cache, image_mask=WHO).logits
    torch.testing.assert_close(found[~WHO], vlm()(words(4, 7)).logits[~WHO], rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("mask_padding", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_without_any_image_every_parameter_still_gets_a_gradient(fresh, attention, mask_padding, checkpointing):
    # As distributed training needs it: a worker whose batch has no image still takes part in every reduction.
    model = fresh(attention=attention, mask_padding=mask_padding).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    ids = words(2, 7)
    nobody = torch.zeros(2, dtype=torch.bool)
    loss = model(ids, pixel_values=torch.zeros_like(pixels(2)), image_mask=nobody, labels=ids).loss
    torch.testing.assert_close(loss, model(ids, labels=ids).loss)
    loss.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert bool(weight.grad.isfinite().all()), name
        shut = any(part in name for part in ("vision_tower", "adapter", "model.layers.1.", "model.layers.4."))
        assert bool(weight.grad.any()) == (not shut), name


def test_images_of_blind_rows_get_no_gradient_and_others_do(fresh):
    model = fresh()
    features = model.get_image_features(pixels(4)).pooler_output.detach().requires_grad_()
    model(words(4, 7), image_features=features, image_mask=WHO, labels=words(4, 7)).loss.backward()
    moved = features.grad.abs().amax((1, 2))
    assert (moved > 0).tolist() == WHO.tolist()
    assert features.shape[1] == TOKENS


def test_a_cached_image_stays_out_of_sight_in_later_steps_that_do_not_repeat_the_mask(vlm):
    model, ids, mask = vlm(), words(2, 6), torch.tensor([True, False])
    cache = model.vision_cache(pixels(2))
    model(ids[:, :5], past_key_values=cache, image_mask=mask)
    found = model(ids[:, 5:], past_key_values=cache).logits[:, -1]
    expected = model(ids, pixel_values=pixels(2), image_mask=mask).logits[:, -1]
    seeing = model(ids, pixel_values=pixels(2)).logits[:, -1]
    assert float((seeing - expected)[1].abs().max()) > 0.1
    assert torch.allclose(found, expected, atol=1e-4)
