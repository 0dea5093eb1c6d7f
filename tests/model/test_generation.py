"""generate(): every way to the same answer gives the same answer."""

import pytest
import torch

from tests.model import longhand
from tests.model.conftest import (
    CONTEXT,
    answer,
    assert_differs,
    assert_same,
    join,
    pixels,
    ragged,
    words,
)

ATTENTION = ["sdpa", "eager"]
BEAMS = {"num_beams": 3}
SAMPLING = {"do_sample": True, "temperature": 1.3, "top_k": 20}
WHO = torch.tensor([True, False, True])


def seeded(model, ids, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return answer(model, ids, **settings)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("more", [{}, BEAMS, BEAMS | {"num_return_sequences": 2}, SAMPLING], ids=str)
@torch.no_grad()
def test_with_and_without_a_cache(vlm, attention, more):
    model = vlm(attention)
    cached = seeded(model, words(2, 7), pixel_values=pixels(2), **more)
    assert_same(cached, seeded(model, words(2, 7), pixel_values=pixels(2), use_cache=False, **more))
    assert_differs(cached, seeded(model, words(2, 7), pixel_values=pixels(2, 1), **more))
    assert_differs(cached, seeded(model, words(2, 7), **more))


@torch.no_grad()
def test_greedy_answers_equal_a_loop_of_whole_passes(vlm):
    model, ids, scores = vlm(), words(2, 7), []
    for _ in range(6):
        scores.append(model(ids, pixel_values=pixels(2)).logits[:, -1])
        ids = torch.cat([ids, scores[-1].argmax(-1, keepdim=True)], dim=1)
    found = answer(model, words(2, 7), pixel_values=pixels(2))
    assert found.tokens.tolist() == ids[:, 7:].tolist()
    torch.testing.assert_close(found.scores, torch.stack(scores, 1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("more", [{}, BEAMS], ids=str)
@torch.no_grad()
def test_a_ragged_batch_equals_its_rows(vlm, attention, more):
    model, batch = vlm(attention), ragged([9, 4, 6])
    together = answer(model, batch.input_ids, attention_mask=batch.attention_mask, pixel_values=pixels(3), **more)
    rows = [answer(model, row, pixel_values=pixels(3)[i : i + 1], **more) for i, row in enumerate(batch.rows)]
    assert_same(together, join(rows))
    assert_differs(together, answer(model, batch.input_ids, attention_mask=torch.ones_like(batch.input_ids),
                                    pixel_values=pixels(3), **more))  # fmt: skip


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("way", ["one for each row with an image", "one for every row"])
@pytest.mark.parametrize("more", [{}, BEAMS, BEAMS | {"num_return_sequences": 2}], ids=str)
@torch.no_grad()
def test_mixed_rows_equal_separate_runs(vlm, attention, way, more):
    model, batch = vlm(attention), ragged([7, 5, 4])

    def given(seed):
        return pixels(3, seed) if way == "one for every row" else pixels(3, seed)[WHO]

    def run(seed):
        settings = {"attention_mask": batch.attention_mask, "image_mask": WHO}
        return answer(model, batch.input_ids, pixel_values=given(seed), **settings, **more)

    rows = [
        answer(model, row, **({"pixel_values": pixels(3)[i : i + 1]} if WHO[i] else {}), **more)
        for i, row in enumerate(batch.rows)
    ]
    mixed = run(0)
    assert_same(mixed, join(rows))
    blind = len(mixed.tokens) // 3
    one, other = (a.scores.reshape(3, blind, -1)[1] for a in (mixed, run(1)))
    assert torch.equal(one, other)


@torch.no_grad()
def test_several_returned_sequences_are_the_best_beams(vlm):
    best = answer(vlm(), words(2, 7), pixel_values=pixels(2), **BEAMS)
    several = answer(vlm(), words(2, 7), pixel_values=pixels(2), **BEAMS, num_return_sequences=3)
    assert several.tokens.shape == (6, 6)
    assert several.tokens[::3].tolist() == best.tokens.tolist()
    assert all(len({tuple(t) for t in row}) == 3 for row in several.tokens.reshape(2, 3, 6).tolist())


@pytest.mark.parametrize("with_image", [True, False])
@torch.no_grad()
def test_prompt_lookup(vlm, with_image):
    # A prompt that repeats itself, so that some looked-up tokens are accepted and others rolled back.
    model, ids = vlm(), words(1, 5).repeat(1, 3)
    given = {"pixel_values": pixels(1)} if with_image else {}
    passes = []
    hook = model.lm_head.register_forward_hook(lambda module, inputs, output: passes.append(output.shape[1]))
    plain = model.generate(ids, do_sample=False, max_new_tokens=24, **given)
    steps = len(passes)
    looked_up = model.generate(ids, do_sample=False, max_new_tokens=24, prompt_lookup_num_tokens=3, **given)
    hook.remove()
    assert plain.tolist() == looked_up.tolist()
    assert len(passes) - steps < steps, "no looked-up token was ever accepted"
    assert sum(passes[steps:]) > 24, "none was ever rolled back"


@pytest.mark.parametrize("attention", ATTENTION)
@torch.no_grad()
def test_a_static_cache(vlm, attention):
    model, batch = vlm(attention), ragged([7, 4])
    settings = {"attention_mask": batch.attention_mask}
    expected = {seed: answer(model, batch.input_ids, pixel_values=pixels(2, seed), **settings) for seed in (0, 1)}
    assert_differs(expected[0], expected[1])
    # One after another: transformers keeps the cache, and a new image or none must not meet the last one.
    for seed in (0, 1):
        static = answer(model, batch.input_ids, pixel_values=pixels(2, seed), cache_implementation="static", **settings)
        assert_same(static, expected[seed])
    blind = answer(model, batch.input_ids, cache_implementation="static", **settings)
    assert_same(blind, answer(model, batch.input_ids, **settings))


@pytest.mark.parametrize("more", [BEAMS], ids=str)
@torch.no_grad()
def test_a_static_cache_with_beams(vlm, more):
    given = {"pixel_values": pixels(2)} | more
    assert_same(answer(vlm(), words(2, 7), **given, cache_implementation="static"), answer(vlm(), words(2, 7), **given))


@pytest.mark.parametrize("more", [{}, BEAMS, {"use_cache": False}], ids=str)
@torch.no_grad()
def test_text_alone_is_llamas_answer(vlm, more):
    model = vlm()
    assert_same(answer(model, words(2, 7), **more), answer(longhand.llama_of(model), words(2, 7), **more))


@torch.no_grad()
def test_rows_end_where_the_end_token_comes(vlm):
    model = vlm()
    free = answer(model, words(2, 7), new=8, pixel_values=pixels(2)).tokens
    # A token of one row only, somewhere inside, ends that row alone.
    row, at = next(
        (r, n) for r in range(2) for n in range(1, 7) if free[r, n] not in free[1 - r] and free[r, n] not in free[r, :n]
    )
    end = int(free[row, at])
    found = answer(model, words(2, 7), new=8, pixel_values=pixels(2), eos_token_id=end).tokens
    assert found[row].tolist() == [*free[row, : at + 1].tolist(), *[0] * (7 - at)]
    assert found[1 - row].tolist() == free[1 - row].tolist()


@torch.no_grad()
def test_embeddings_in_place_of_tokens(vlm):
    model = vlm()
    embeddings = model.get_input_embeddings()(words(2, 7))
    output = model.generate(inputs_embeds=embeddings, pixel_values=pixels(2), do_sample=False, max_new_tokens=6)
    assert output.tolist() == answer(model, words(2, 7), pixel_values=pixels(2)).tokens.tolist()


@torch.no_grad()
def test_features_in_place_of_pixels(vlm):
    model = vlm()
    features = model.get_image_features(pixels(2)).pooler_output
    for more in ({}, BEAMS):
        expected = answer(model, words(2, 7), pixel_values=pixels(2), **more)
        assert_same(answer(model, words(2, 7), image_features=features, **more), expected)


@pytest.fixture
def counted(fresh):
    """A model, the images its vision tower encoded in each call, and how often each layer projected an image."""
    model = fresh()
    encoded, projected = [], []
    model.model.vision_tower.register_forward_hook(lambda module, inputs, output: encoded.append(len(inputs[0])))
    for index in (1, 4):
        attention = model.model.language_model.layers[index].cross_attn
        attention.k_proj.register_forward_hook(lambda *_, index=index: projected.append(index))
    return model, encoded, projected


@pytest.mark.parametrize(
    "more",
    [
        {},
        BEAMS,
        BEAMS | {"num_return_sequences": 3},
        {"do_sample": True, "num_return_sequences": 4},
        {"cache_implementation": "static"},
    ],
    ids=str,
)
@torch.no_grad()
def test_each_image_is_encoded_once_and_projected_once_a_layer(counted, more):
    model, encoded, projected = counted
    answer(model, words(2, 7), pixel_values=pixels(2), **more)
    assert encoded == [2]
    assert projected == [1, 4]


@torch.no_grad()
def test_without_a_cache_images_are_still_encoded_once(counted):
    model, encoded, _ = counted
    answer(model, words(2, 7), pixel_values=pixels(2), use_cache=False, **BEAMS)
    assert encoded == [2]


@torch.no_grad()
def test_a_vision_cache_is_all_the_work_an_image_is(counted):
    model, encoded, projected = counted
    cache = model.vision_cache(pixels(1))
    for question in range(3):
        answer(model, words(1, 5, question), past_key_values=cache)
        cache.crop(-cache.get_seq_length())
    assert encoded == [1]
    assert projected == [1, 4]


@torch.no_grad()
def test_only_images_that_are_there_are_encoded_in_a_mixed_batch(counted):
    model, encoded, _ = counted
    answer(model, words(3, 7), pixel_values=pixels(2), image_mask=WHO, **BEAMS)
    answer(model, words(3, 7))
    assert encoded == [2]


@pytest.mark.parametrize("image", [{}, {"pixel_values": pixels(1)}], ids=["blind", "with image"])
@torch.no_grad()
def test_a_prompt_and_answer_longer_than_the_context_are_refused_with_what_would_fit(vlm, image):
    ids = words(1, CONTEXT - 3)
    assert vlm().generate(ids, max_new_tokens=3, do_sample=False, **image).shape[1] == CONTEXT
    with pytest.raises(ValueError, match="at most 3 new tokens"):
        vlm().generate(ids, max_new_tokens=4, do_sample=False, **image)
    with pytest.raises(ValueError, match="at most 0 new tokens"):
        vlm().generate(words(1, CONTEXT + 2), max_new_tokens=4, do_sample=False, **image)


@torch.no_grad()
def test_generation_leaves_no_gradients_behind(vlm, fresh):
    model, graphs = fresh(), []
    model.model.vision_tower.register_forward_hook(
        lambda module, inputs, output: graphs.append(output.last_hidden_state.requires_grad)
    )
    with torch.enable_grad():
        answer(model, words(1, 5), pixel_values=pixels(1))
    assert graphs == [False]
    with torch.enable_grad():
        output = vlm().generate(words(1, 5), pixel_values=pixels(1), max_new_tokens=2, do_sample=False,
                                return_dict_in_generate=True, output_logits=True)  # fmt: skip
        cache = vlm().vision_cache(pixels(1))
    assert not output.logits[0].requires_grad
    assert not cache.layers[1].keys.requires_grad
