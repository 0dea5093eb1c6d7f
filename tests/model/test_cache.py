"""The image in the cache: one image for many questions, further turns, another image, and caches that do not fit."""

import copy

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, StaticCache

from agevlm.model.cache import StaticVisionCacheLayer, VisionCacheLayer
from tests.model.conftest import TOKENS, Answer, answer, assert_differs, assert_same, join, pixels, ragged, words

CROSSING = (1, 4)
ATTENTION = ["sdpa", "eager"]


def questions(count=3):
    return [words(1, n, seed) for seed, n in enumerate([6, 3, 9, 5][:count])]


@torch.no_grad()
def test_a_vision_cache_holds_the_image_and_no_text(vlm):
    model = vlm()
    cache = model.vision_cache(pixels(2))
    assert cache.get_seq_length() == 0
    features = model.get_image_features(pixels(2)).pooler_output
    for index, layer in enumerate(cache.layers):
        if index not in CROSSING:
            assert not layer.is_initialized
            continue
        attention = model.model.language_model.layers[index].cross_attn
        assert layer.keys.shape == layer.values.shape == (2, 2, TOKENS, 16)
        values = (features @ attention.v_proj.weight.T).view(2, TOKENS, 2, 16)
        torch.testing.assert_close(layer.values, values.transpose(1, 2))
    from_features = model.vision_cache(image_features=features)
    assert torch.equal(from_features.layers[4].keys, cache.layers[4].keys)


@pytest.mark.parametrize("attention", ATTENTION)
@torch.no_grad()
def test_questions_one_after_another_on_copies(vlm, attention):
    model = vlm(attention)
    cache = model.vision_cache(pixels(1))
    for question in questions():
        expected = answer(model, question, pixel_values=pixels(1))
        assert_differs(expected, answer(model, question))
        assert_same(answer(model, question, past_key_values=copy.deepcopy(cache)), expected)
    assert cache.get_seq_length() == 0


@torch.no_grad()
def test_questions_one_after_another_with_the_text_rolled_back(vlm):
    model = vlm()
    cache = model.vision_cache(pixels(1))
    for question in questions():
        assert_same(answer(model, question, past_key_values=cache), answer(model, question, pixel_values=pixels(1)))
        cache.crop(-cache.get_seq_length())
        assert cache.get_seq_length() == 0
        assert cache.layers[1].keys.shape[-2] == TOKENS


@torch.no_grad()
def test_a_partial_roll_back_leaves_the_image_whole(vlm):
    model, ids = vlm(), words(1, 9)
    cache = model(ids, pixel_values=pixels(1), use_cache=True).past_key_values
    kept = cache.layers[1].keys.clone()
    cache.crop(-4)
    assert torch.equal(cache.layers[1].keys, kept)
    again = model(ids[:, 5:], past_key_values=cache).logits
    torch.testing.assert_close(again, model(ids, pixel_values=pixels(1)).logits[:, 5:], rtol=0, atol=1e-4)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("more", [{}, {"num_beams": 1, "use_cache": True}], ids=str)
@torch.no_grad()
def test_a_batch_of_questions_on_one_image(vlm, attention, more):
    model, batch = vlm(attention), ragged([6, 3, 9])
    cache = model.vision_cache(pixels(1))
    cache.batch_repeat_interleave(3)
    expected = join([answer(model, row, pixel_values=pixels(1)) for row in batch.rows])
    found = answer(model, batch.input_ids, attention_mask=batch.attention_mask, past_key_values=cache, **more)
    assert_same(found, expected)


@torch.no_grad()
def test_repeating_a_single_image_takes_no_memory(vlm):
    cache = vlm().vision_cache(pixels(1))
    before = cache.layers[1].keys.data_ptr()
    cache.batch_repeat_interleave(50)
    keys = cache.layers[1].keys
    assert keys.shape[0] == 50
    assert keys.data_ptr() == before
    assert keys.untyped_storage().nbytes() == keys[0].numel() * 4


@torch.no_grad()
def test_one_vision_cache_of_several_images(vlm):
    model, batch = vlm(), ragged([6, 3, 9])
    expected = join([answer(model, row, pixel_values=pixels(3)[i : i + 1]) for i, row in enumerate(batch.rows)])
    cache = model.vision_cache(pixels(3))
    given = {"attention_mask": batch.attention_mask}
    assert_same(answer(model, batch.input_ids, past_key_values=copy.deepcopy(cache), **given), expected)
    # Two questions on each.
    cache.batch_repeat_interleave(2)
    twice = {"attention_mask": batch.attention_mask.repeat_interleave(2, 0)}
    found = answer(model, batch.input_ids.repeat_interleave(2, 0), past_key_values=cache, **twice)
    assert_same(found, Answer(*(part.repeat_interleave(2, 0) for part in expected)))


@torch.no_grad()
def test_rows_are_selected_and_reordered_with_their_images(vlm):
    model, ids = vlm(), words(3, 6)
    order = torch.tensor([2, 0, 0])
    expected = model(ids[order], pixel_values=pixels(3)[order]).logits[:, 4:]
    for change in (lambda c: c.batch_select_indices(order), lambda c: c.reorder_cache(order)):
        cache = model(ids[:, :4], pixel_values=pixels(3), use_cache=True).past_key_values
        change(cache)
        torch.testing.assert_close(model(ids[order][:, 4:], past_key_values=cache).logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("attention", ATTENTION)
@torch.no_grad()
def test_token_by_token_through_the_cache_equals_one_pass(vlm, attention):
    model, ids = vlm(attention), words(2, 7)
    expected = model(ids, pixel_values=pixels(2)).logits
    cache, found = DynamicCache(config=model.config), []
    for at in range(7):
        image = {"pixel_values": pixels(2)} if at == 0 else {}
        found.append(model(ids[:, at : at + 1], past_key_values=cache, **image).logits)
    torch.testing.assert_close(torch.cat(found, 1), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("again", [True, False], ids=["image again", "image once"])
@pytest.mark.parametrize("attention", ATTENTION)
@torch.no_grad()
def test_a_second_turn_with_a_live_cache_equals_a_fresh_run(vlm, attention, again):
    model = vlm(attention)
    image = {"pixel_values": pixels(2)}
    first = model.generate(words(2, 7), **image, do_sample=False, max_new_tokens=5, return_dict_in_generate=True)
    both = torch.cat([first.sequences, words(2, 4, 9)], dim=1)
    fresh = answer(model, both, **image)
    found = answer(model, both, past_key_values=first.past_key_values, **(image if again else {}))
    assert_same(found, fresh)
    assert first.past_key_values.layers[1].keys.shape[-2] == TOKENS
    assert_differs(found, answer(model, both))


@torch.no_grad()
def test_a_second_turn_with_another_image_shows_the_new_words_that_one(vlm):
    model, turn = vlm(), words(2, 4, 9)
    caches = [model(words(2, 7), pixel_values=pixels(2), use_cache=True).past_key_values for _ in range(2)]
    second = model.vision_cache(pixels(2, 1))
    for index in CROSSING:
        caches[1].layers[index] = second.layers[index]
    both = torch.cat([words(2, 7), turn], dim=1)
    found = answer(model, both, past_key_values=caches[0], pixel_values=pixels(2, 1))
    assert_same(found, answer(model, both, past_key_values=caches[1]))
    assert caches[0].layers[1].keys.shape[-2] == TOKENS


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@torch.no_grad()
def test_a_second_image_takes_the_place_of_the_first(vlm, kind):
    model = vlm()
    cache = (
        DynamicCache(config=model.config) if kind == "dynamic" else StaticCache(config=model.config, max_cache_len=20)
    )
    model(words(2, 7), pixel_values=pixels(2), past_key_values=cache)
    # By hand: the text has seen the first image, from here on there is only the second.
    swapped = model(words(2, 7), pixel_values=pixels(2), use_cache=True).past_key_values
    second = model.vision_cache(pixels(2, 1))
    for index in CROSSING:
        swapped.layers[index] = second.layers[index]
    expected = model(words(2, 4, 9), past_key_values=swapped).logits
    if kind == "dynamic":
        goes_on = model(words(2, 4, 9), past_key_values=copy.deepcopy(cache)).logits
        assert float((goes_on - expected).abs().max()) > 0.05
    found = model(words(2, 4, 9), pixel_values=pixels(2, 1), past_key_values=cache).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert [cache.layers[i].keys.shape[-2] for i in CROSSING] == [TOKENS, TOKENS]
    assert int(cache.get_seq_length()) == 11


@torch.no_grad()
def test_a_static_cache_takes_one_image_after_another(vlm):
    model = vlm()
    cache = StaticCache(config=model.config, max_cache_len=20)
    assert isinstance(cache.layers[1], StaticVisionCacheLayer)
    for seed, rows in [(0, 2), (1, 2), (2, 3)]:
        if rows == 3:
            cache = StaticCache(config=model.config, max_cache_len=20)
        cache.reset()
        found = model(words(rows, 7), pixel_values=pixels(rows, seed), past_key_values=cache).logits
        expected = model(words(rows, 7), pixel_values=pixels(rows, seed)).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        more = model(words(rows, 1, 3), past_key_values=cache).logits
        whole = torch.cat([words(rows, 7), words(rows, 1, 3)], dim=1)
        whole = model(whole, pixel_values=pixels(rows, seed)).logits[:, -1:]
        torch.testing.assert_close(more, whole, rtol=0, atol=1e-4)
    cache.reset()
    torch.testing.assert_close(
        model(words(3, 7), past_key_values=cache).logits, model(words(3, 7)).logits, rtol=0, atol=1e-4
    )


@torch.no_grad()
def test_a_reset_cache_has_forgotten_the_image(vlm):
    model = vlm()
    cache = model.vision_cache(pixels(2))
    cache.reset()
    assert torch.equal(model(words(2, 7), past_key_values=cache).logits, model(words(2, 7)).logits)


@torch.no_grad()
def test_the_image_may_come_after_the_first_words(vlm):
    model = vlm()
    cache = model(words(1, 5), use_cache=True).past_key_values
    with_image = model(words(1, 3, 9), past_key_values=copy.deepcopy(cache), pixel_values=pixels(1)).logits
    blind = model(words(1, 3, 9), past_key_values=cache).logits
    assert float((with_image - blind).abs().max()) > 0.05


@torch.no_grad()
def test_an_empty_cache_without_a_configuration_is_mended(vlm):
    model = vlm()
    cache = DynamicCache()
    found = model(words(2, 5), pixel_values=pixels(2), past_key_values=cache).logits
    torch.testing.assert_close(found, model(words(2, 5), pixel_values=pixels(2)).logits)
    assert [isinstance(layer, VisionCacheLayer) for layer in cache.layers] == [i in CROSSING for i in range(6)]
    assert cache.get_seq_length() == 5
    assert_same(
        answer(model, words(2, 7), pixel_values=pixels(2), past_key_values=DynamicCache()),
        answer(model, words(2, 7), pixel_values=pixels(2)),
    )


def other_caches(model):
    filled = DynamicCache()
    for index in range(6):
        filled.update(torch.zeros(2, 2, 3, 16), torch.zeros(2, 2, 3, 16), index)
    return {
        "filled without a configuration": filled,
        "of a LLaMA with as many layers": DynamicCache(config=llama_config(6)),
        "of a LLaMA with fewer layers": DynamicCache(config=llama_config(4)),
        "static of a LLaMA": StaticCache(config=llama_config(6), max_cache_len=20),
    }


def llama_config(layers):
    return LlamaConfig(
        num_hidden_layers=layers, hidden_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=16
    )


@pytest.mark.parametrize("case", other_caches(None))
@pytest.mark.parametrize("with_image", [True, False])
def test_a_cache_without_a_place_for_an_image_is_refused(vlm, case, with_image):
    given = {"pixel_values": pixels(2)} if with_image else {}
    with pytest.raises(
        ValueError, match=r"no place for an image's keys and values; build it with\s+DynamicCache\(config="
    ):
        vlm()(words(2, 5), past_key_values=other_caches(vlm())[case], **given)


@torch.no_grad()
def test_cached_images_for_other_rows_are_refused(vlm):
    cache = vlm().vision_cache(pixels(2))
    with pytest.raises(ValueError, match=r"2 images .* 3 rows of text; .*batch_repeat_interleave"):
        vlm()(words(3, 5), past_key_values=cache)
    with pytest.raises(ValueError, match=r"1 images .* 3 rows"):
        vlm().generate(words(3, 5), past_key_values=vlm().vision_cache(pixels(1)), max_new_tokens=2, do_sample=False)


@torch.no_grad()
def test_concat_has_no_vision_cache(vlm):
    with pytest.raises(ValueError, match="fusion 'concat'"):
        vlm(fusion="concat").vision_cache(pixels(1))


@pytest.mark.parametrize("kind", [VisionCacheLayer, StaticVisionCacheLayer])
def test_vision_layers_count_no_text_and_know_no_bound(kind):
    layer, states = kind(), torch.randn(2, 2, TOKENS, 16, generator=torch.Generator().manual_seed(0))
    layer.update(states, states)
    keys, values = layer.update(states, 2 * states)
    assert torch.equal(keys, states)
    assert torch.equal(values, 2 * states)
    assert layer.get_max_length() == -1
    for length in (1, 7):
        assert layer.get_mask_sizes(length) == (TOKENS, 0)
    layer.crop(-3)
    assert layer.get_seq_length() == TOKENS
    assert torch.equal(layer.values, 2 * states)
    layer.visible = torch.ones(2, TOKENS, dtype=torch.bool)
    layer.reset()
    assert not layer.is_initialized
    assert layer.keys is layer.values is layer.visible is None
    # Other rows and another number of tokens.
    for changed in (states[:1], states[:, :, :4]):
        keys, values = layer.update(changed, 3 * changed)
        assert torch.equal(keys, changed)
        assert torch.equal(values, 3 * changed)
        assert layer.get_seq_length() == changed.shape[-2]
