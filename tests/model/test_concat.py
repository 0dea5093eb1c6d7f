"""fusion "concat": visual tokens in the text sequence, against LLaMA on embeddings spliced by hand."""

import pytest
import torch

from tests.model import longhand
from tests.model.conftest import (
    IMAGE_TOKEN,
    TOKENS,
    answer,
    assert_differs,
    assert_same,
    join,
    pixels,
    ragged,
    with_image_tokens,
    words,
)

ATTENTION = ["sdpa", "eager"]
BEAMS = {"num_beams": 3}


@pytest.fixture(params=ATTENTION)
def model(request, vlm):
    return vlm(request.param, fusion="concat")


def spliced(model, ids, images):
    """Embeddings with visual tokens in the place of image tokens, one by one; row i shows images[i]."""
    embeddings = model.get_input_embeddings().weight[ids].clone()
    for row, image in enumerate(images):
        if image is None:
            continue
        features = longhand.adapter(model.model.adapter, model.model.vision_tower(image[None]).last_hidden_state)[0]
        places = [n for n in range(ids.shape[1]) if ids[row, n] == IMAGE_TOKEN]
        assert len(places) == TOKENS
        for token, place in enumerate(places):
            embeddings[row, place] = features[token]
    return embeddings


def padded(lengths, side="left", shown=(True, True, True)):
    """Ragged questions, with room for an image where one is shown."""
    rows = [with_image_tokens(row) if image else row for row, image in zip(ragged(lengths).rows, shown, strict=False)]
    width = max(row.shape[1] for row in rows)
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        at = slice(-row.shape[1], None) if side == "left" else slice(row.shape[1])
        ids[i, at], mask[i, at] = row[0], 1
    return ids, mask, rows


@torch.no_grad()
def test_logits_equal_llama_on_spliced_embeddings(model):
    ids = torch.cat([with_image_tokens(words(1, 7), 1), with_image_tokens(words(1, 7, 1), 4)])
    found = model(ids, pixel_values=pixels(2))
    expected = longhand.llama_of(model)(inputs_embeds=spliced(model, ids, pixels(2))).logits
    torch.testing.assert_close(found.logits, expected, rtol=0, atol=1e-4)
    assert found.image_hidden_states.shape == (2, TOKENS, 48)
    assert found.vision_attentions is None


@torch.no_grad()
def test_the_words_before_the_image_do_not_see_it(model):
    ids = with_image_tokens(words(1, 7), 3)
    one, other = (model(ids, pixel_values=pixels(1, seed)).logits[0] for seed in (0, 1))
    assert torch.equal(one[:3], other[:3])
    assert bool(((one - other).abs().amax(-1)[3:] > 0.1).all())


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_ragged_rows_equal_rows_by_themselves(model, side):
    ids, mask, rows = padded([8, 3, 5], side)
    together = model(ids, attention_mask=mask, pixel_values=pixels(3)).logits
    for i, row in enumerate(rows):
        at = slice(-row.shape[1], None) if side == "left" else slice(row.shape[1])
        expected = longhand.llama_of(model)(inputs_embeds=spliced(model, row, pixels(3)[i : i + 1])).logits[0]
        torch.testing.assert_close(together[i, at], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("way", ["one for each row with an image", "one for every row"])
@torch.no_grad()
def test_mixed_rows_equal_separate_runs(model, way):
    who = torch.tensor([True, False, True])
    ids, mask, rows = padded([8, 9, 5], shown=who.tolist())
    for settings in ({}, BEAMS):
        images = pixels(3)[who] if way == "one for each row with an image" else pixels(3)
        found = answer(model, ids, attention_mask=mask, image_mask=who, pixel_values=images, **settings)
        alone = [
            answer(model, row, **({"pixel_values": pixels(3)[i : i + 1]} if who[i] else {}), **settings)
            for i, row in enumerate(rows)
        ]
        assert_same(found, join(alone))


@pytest.mark.parametrize("more", [{}, BEAMS, {"cache_implementation": "static"}], ids=str)
@torch.no_grad()
def test_generation_equals_llama_on_spliced_embeddings(model, more):
    ids = with_image_tokens(words(2, 7))
    found = answer(model, ids, pixel_values=pixels(2), **more)
    if "cache_implementation" not in more:
        assert_same(found, answer(model, ids, pixel_values=pixels(2), use_cache=False, **more))
    settings = {"do_sample": False, "max_new_tokens": 6, "num_beams": more.get("num_beams", 1), "pad_token_id": 0}
    llama = longhand.llama_of(model)
    expected = llama.generate(inputs_embeds=spliced(model, ids, pixels(2)), **settings)
    assert found.tokens.tolist() == expected.tolist()
    assert_differs(found, answer(model, ids, pixel_values=pixels(2, 1), **more))


@pytest.mark.parametrize("more", [{}, BEAMS], ids=str)
@torch.no_grad()
def test_a_ragged_batch_answers_as_its_rows(model, more):
    ids, mask, rows = padded([8, 3, 5])
    together = answer(model, ids, attention_mask=mask, pixel_values=pixels(3), **more)
    alone = [answer(model, row, pixel_values=pixels(3)[i : i + 1], **more) for i, row in enumerate(rows)]
    assert_same(together, join(alone))


@torch.no_grad()
def test_prompt_lookup(model):
    ids = with_image_tokens(words(1, 5).repeat(1, 3))
    settings = {"pixel_values": pixels(1), "do_sample": False, "max_new_tokens": 16}
    plain = model.generate(ids, **settings)
    assert plain.tolist() == model.generate(ids, **settings, prompt_lookup_num_tokens=3).tolist()


@torch.no_grad()
def test_images_are_encoded_once(fresh):
    model, encoded = fresh(fusion="concat"), []
    model.model.vision_tower.register_forward_hook(lambda module, inputs, output: encoded.append(len(inputs[0])))
    answer(model, with_image_tokens(words(2, 7)), pixel_values=pixels(2), **BEAMS)
    assert encoded == [2]


@pytest.mark.parametrize("again", [True, False], ids=["image again", "image once"])
@torch.no_grad()
def test_a_second_turn_with_a_live_cache_equals_a_fresh_run(model, again):
    image = {"pixel_values": pixels(2)}
    first = model.generate(
        with_image_tokens(words(2, 7)), **image, do_sample=False, max_new_tokens=5, return_dict_in_generate=True
    )
    both = torch.cat([first.sequences, words(2, 4, 9)], dim=1)
    fresh = answer(model, both, **image)
    assert_same(answer(model, both, past_key_values=first.past_key_values, **(image if again else {})), fresh)


@torch.no_grad()
def test_text_alone_is_llama(model):
    assert torch.equal(model(words(2, 7)).logits, longhand.llama_of(model)(words(2, 7)).logits)
    assert_same(answer(model, words(2, 7)), answer(longhand.llama_of(model), words(2, 7)))


def with_tokens(count):
    ids = words(2, TOKENS + 8)
    ids[:, 1 : 1 + count] = IMAGE_TOKEN
    return ids


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_ids": with_tokens(TOKENS - 1)}, f"{2 * TOKENS - 2} image tokens in the text for 2 images of {TOKENS}"),
        ({"input_ids": with_tokens(TOKENS + 1)}, f"{2 * TOKENS + 2} image tokens"),
        ({"input_ids": with_tokens(0)}, "0 image tokens"),
        ({"input_ids": with_tokens(TOKENS), "pixel_values": pixels(1)}, f"{2 * TOKENS} image tokens .* 1 images"),
        ({"inputs_embeds": torch.zeros(2, 9, 48)}, "input_ids"),
        (
            {"input_ids": with_tokens(TOKENS), "image_mask": torch.tensor([True, False])},
            f"{2 * TOKENS} image tokens .* 1 images",
        ),
        ({"input_ids": with_tokens(TOKENS), "image_mask": torch.tensor([True])}, r"image_mask of shape \(1,\)"),
    ],
)
def test_a_wrong_number_of_image_tokens_is_refused(vlm, given, message):
    with pytest.raises(ValueError, match=message):
        vlm(fusion="concat")(**{"pixel_values": pixels(2)} | given)


def test_without_an_image_token_id_there_is_no_place_for_an_image(fresh):
    model = fresh(fusion="concat")
    model.config.image_token_id = None
    with pytest.raises(ValueError, match="image_token_id"):
        model(with_tokens(TOKENS), pixel_values=pixels(2))


def test_every_weight_learns(fresh):
    model, ids = fresh(fusion="concat").train(), with_image_tokens(words(2, 7))
    model(ids, pixel_values=pixels(2), labels=ids).loss.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert bool(weight.grad.any()), name


def test_without_any_image_every_weight_still_gets_a_gradient(fresh):
    model, ids = fresh(fusion="concat").train(), words(2, 7)
    nobody = torch.zeros(2, dtype=torch.bool)
    model(ids, pixel_values=pixels(2), image_mask=nobody, labels=ids).loss.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert bool(weight.grad.isfinite().all()), name
