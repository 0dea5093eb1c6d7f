"""The session answers as plain per-question generation does, token for token in float32.

The first tests prove that image and question matter, or equality would say nothing.
"""

import functools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from agevlm.vlm import Ask
from agevlm.vlm.hf import prompts
from agevlm.vlm.hf.reference import find_flips, plain_generate
from agevlm.vlm.hf.session import HfVlm
from tests.vlm.conftest import FEWER, KINDS, QUESTIONS, asks_about

MODELS = [("llava", 0), ("llava", 1), ("llava", 2), ("llava_next", 0), ("llava_next", 1)]
MODELS += [("age_vlm", 0), ("age_vlm", 1), ("age_vlm_mask", 0), ("age_vlm_concat", 0)]


def assert_equal_to_plain(vlm, pictures, asks, replies):
    for ask, reply in zip(asks, replies, strict=True):
        image = None if ask.image is None else pictures[ask.image]
        assert reply.token_ids == plain_generate(vlm, image, ask)[0], ask
    assert_whole(vlm, replies)


def assert_whole(vlm, replies):
    for reply in replies:
        assert reply.text == vlm.tokenizer.decode(reply.token_ids, skip_special_tokens=True)
        assert reply.error is None
        assert reply.stop == ("eos" if reply.token_ids[-1] in vlm.end_ids else "length")


def first_logits(vlm, image, question):
    """Next-token logits of the whole checkpoint, with none of the session's code but the chat layout."""
    text = prompts.render(vlm.processor, question, with_image=image is not None)
    with torch.inference_mode():
        return vlm.model(**vlm.processor(text=text, images=image, return_tensors="pt")).logits[0, -1]


@pytest.mark.parametrize(("kind", "seed"), MODELS)
def test_another_image_changes_the_first_logits_and_the_tokens(vlm, pictures, kind, seed):
    model = vlm(kind, seed)
    base = first_logits(model, pictures[0], QUESTIONS[0])
    for other in [pictures[1], pictures[2], pictures[3], ImageOps.mirror(pictures[0]), ImageOps.invert(pictures[0])]:
        assert float((first_logits(model, other, QUESTIONS[0]) - base).abs().max()) > 0.2
    answers = {plain_generate(model, p, Ask(QUESTIONS[0], 0, 8))[0] for p in pictures}
    assert len(answers) >= 3


@pytest.mark.parametrize(("kind", "seed"), MODELS)
def test_another_question_changes_the_first_logits_and_the_tokens(vlm, pictures, kind, seed):
    model = vlm(kind, seed)
    base = first_logits(model, pictures[0], QUESTIONS[0])
    for question in QUESTIONS[1:5]:
        assert float((first_logits(model, pictures[0], question) - base).abs().max()) > 0.2
    answers = {plain_generate(model, pictures[0], Ask(q, 0, 8))[0] for q in QUESTIONS}
    assert len(answers) >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_answering_checkpoint_says_yes_and_no_and_stops(vlm, pictures, kind):
    model = vlm(kind, 0, answers=True)
    rng = torch.Generator().manual_seed(0)
    colours = [tuple(torch.randint(0, 256, (3,), generator=rng).tolist()) for _ in range(10)]
    shown = [*pictures, *(Image.new("RGB", (56, 56), c) for c in colours)]
    replies = model.answer(model.encode(shown), [Ask(q, i) for i in range(len(shown)) for q in QUESTIONS])
    assert {r.text.strip() for r in replies} == {"Yes", "No"}
    assert all(r.stop == "eos" and len(r.token_ids) == 2 for r in replies)


@pytest.fixture(scope="module")
def plain(vlm, pictures):
    """plain(kind, seed, ask): what plain generation says, asked once."""

    @functools.cache
    def ids(kind, seed, ask):
        return plain_generate(vlm(kind, seed), None if ask.image is None else pictures[ask.image], ask)[0]

    return ids


@pytest.mark.parametrize(("batch_size", "packing"), [(1, True), (3, True), (32, True), (3, False), (32, False)])
@pytest.mark.parametrize(("kind", "seed"), MODELS)
def test_answers_equal_plain_generation_for_ragged_questions_of_several_images(
    vlm, pictures, plain, monkeypatch, kind, seed, batch_size, packing
):
    model = vlm(kind, seed)
    monkeypatch.setattr(model.batcher, "size", batch_size)
    assert model.packing
    monkeypatch.setattr(model, "packing", packing)
    # Interleaved over the images, with blind asks between.
    asks = [Ask(q, i, 6) for q in QUESTIONS for i in (0, 3, None, 1, 2)]
    replies = model.answer(model.encode(pictures), asks)
    assert [r.token_ids for r in replies] == [plain(kind, seed, a) for a in asks]
    assert_whole(model, replies)


@pytest.mark.parametrize("kind", KINDS)
def test_one_question_alone_equals_plain_generation(vlm, pictures, kind):
    model = vlm(kind)
    for image in (0, 2, None):
        asks = [Ask(QUESTIONS[1], image, 8)]
        assert_equal_to_plain(model, pictures, asks, model.answer(model.encode(pictures), asks))


@pytest.mark.parametrize("kind", KINDS)
def test_every_ask_keeps_its_own_token_limit(vlm, pictures, kind):
    model = vlm(kind)
    asks = [Ask(q, 0, limit) for q, limit in zip(QUESTIONS, [1, 9, 2, 5, 1, 12], strict=True)]
    replies = model.answer(model.encode(pictures[:1]), asks)
    assert_equal_to_plain(model, pictures, asks, replies)
    assert [len(r.token_ids) for r in replies if r.stop == "length"] == [
        a.max_new_tokens for a, r in zip(asks, replies, strict=True) if r.stop == "length"
    ]


@pytest.mark.parametrize("kind", ["llava", "age_vlm_mask", "age_vlm_concat"])
def test_rows_that_end_early_leave_the_others_undisturbed(checkpoint, pictures, kind):
    model = HfVlm.load(checkpoint(kind, 1), device="cpu")
    free = model.answer(model.encode(pictures[:1]), asks_about(0, 10))
    # A token that some rows generate midway, and others never or later, becomes the end token.
    end = next(
        t
        for t in {t for r in free for t in r.token_ids[1:-1]}
        if 0 < sum(t in r.token_ids for r in free) < len(free) and all(r.token_ids[0] != t for r in free)
    )
    model.end_ids = frozenset({end})
    asks = asks_about(0, 10)
    replies = model.answer(model.encode(pictures[:1]), asks)
    assert {r.stop for r in replies} == {"eos", "length"}
    assert_equal_to_plain(model, pictures, asks, replies)


@pytest.mark.parametrize("kind", KINDS)
def test_token_ids_of_every_prompt_are_the_processors(vlm, pictures, kind):
    model = vlm(kind)
    encoded = model.encode(pictures)
    for image in (0, 1, 2, 3, None):
        for question in QUESTIONS:
            text = prompts.render(model.processor, question, with_image=image is not None)
            shown = None if image is None else pictures[image]
            expected = model.processor(text=text, images=shown, return_tensors="pt")["input_ids"][0].tolist()
            assert model.row(encoded, Ask(question, image))[1].ids == expected
            assert expected.count(model.tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("kind", FEWER)
@pytest.mark.parametrize(
    "second",
    [
        [QUESTIONS[1], QUESTIONS[2]],  # share the whole known prefix
        ["Is there a bottle?"],  # share most of it
        ["zebra crossing " * 30, "zebra crossing " * 30 + "?"],  # share less of it than what is new
        ["?"],  # shorter than the known prefix
    ],
)
def test_a_second_call_on_the_same_images_equals_plain_generation(vlm, pictures, kind, second):
    model = vlm(kind)
    encoded = model.encode(pictures[:2])
    for questions in (["Is there a dog?", "Is there a cat?"], second, ["Is there a dog?"]):
        for image in (0, None, 1):
            asks = asks_about(image, 6, questions)
            assert_equal_to_plain(model, pictures, asks, model.answer(encoded, asks))


@pytest.mark.parametrize("kind", ["llava", "age_vlm_mask"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_sequence_of_calls_gives_the_answers_of_fresh_ones(vlm, pictures, kind, data):
    model = vlm(kind)
    encoded = model.encode(pictures[:2])
    one = st.builds(
        Ask,
        st.text("ab? Isthere", min_size=1, max_size=25),
        st.sampled_from([0, 1, None]),
        st.integers(1, 4),
    )
    for asks in data.draw(st.lists(st.lists(one, max_size=4), min_size=1, max_size=4)):
        fresh = [model.answer(model.encode(pictures[:2]), [a])[0] for a in asks]
        assert [r.token_ids for r in model.answer(encoded, asks)] == [r.token_ids for r in fresh]


QUESTION_FIRST = (
    "{% for message in messages %}USER: {% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] }} {% endfor %}{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "<image>{% endfor %}{% endfor %}ASSISTANT:"
)
WITH_BOS = (
    "<s>USER: {% for part in messages[0]['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }} {% endfor %}ASSISTANT:"
)


@pytest.mark.parametrize("kind", FEWER)
def test_a_question_before_the_image_shares_nothing_and_still_equals_plain_generation(checkpoint, pictures, kind):
    model = HfVlm.load(checkpoint(kind), device="cpu", chat_template=QUESTION_FIRST)
    encoded = model.encode(pictures)
    for _ in range(2):
        asks = [a for i in (0, 1, None) for a in asks_about(i, 6)]
        assert_equal_to_plain(model, pictures, asks, model.answer(encoded, asks))
    same = [Ask("Is there a dog?", 0, 6)] * 3
    assert_equal_to_plain(model, pictures, same, model.answer(encoded, same))


@pytest.mark.parametrize("kind", ["llava", "age_vlm", "age_vlm_concat"])
def test_a_known_prefix_that_ends_before_the_image_is_not_reused(checkpoint, pictures, kind):
    # Asked one by one, each question and its image are the prefix; the questions part only at their last words.
    model = HfVlm.load(checkpoint(kind), device="cpu", chat_template=QUESTION_FIRST)
    encoded = model.encode(pictures[:1])
    for end in ("dog", "cat"):
        asks = [Ask("What? " * 30 + end, 0, 6)]
        assert_equal_to_plain(model, pictures, asks, model.answer(encoded, asks))


@pytest.mark.parametrize("kind", FEWER)
def test_a_template_that_writes_bos_itself_gets_no_second_one(checkpoint, pictures, kind):
    model = HfVlm.load(checkpoint(kind), device="cpu", chat_template=WITH_BOS)
    encoded = model.encode(pictures)
    for image in (0, None):
        ids = model.row(encoded, Ask("Is there a dog?", image))[1].ids
        assert ids.count(model.tokenizer.bos_token_id) == 1
        assert ids[0] == model.tokenizer.bos_token_id
        asks = asks_about(image, 6)
        assert_equal_to_plain(model, pictures, asks, model.answer(encoded, asks))


@pytest.mark.parametrize("kind", KINDS)
def test_no_asks_and_no_images_are_no_trouble(vlm, kind):
    model = vlm(kind)
    nothing = model.encode([])
    assert len(nothing) == 0
    assert model.answer(nothing, []) == []
    assert model.rank(nothing, [], []) == []
    assert model.answer(nothing, [Ask("Is there a dog?", None, 2)])[0].text is not None


def test_an_ask_that_names_no_encoded_image_is_an_error(vlm, pictures):
    model = vlm()
    for index in (1, -1):
        with pytest.raises(IndexError, match="of 1"):
            model.answer(model.encode(pictures[:1]), [Ask("?", index)])


@pytest.mark.parametrize("kind", KINDS)
def test_images_encoded_by_another_model_are_refused(vlm, pictures, kind):
    for other in (vlm(kind, 1), vlm("llava", 2), vlm("age_vlm", 2)):
        with pytest.raises(ValueError, match="another model"):
            vlm(kind, 0).answer(other.encode(pictures[:1]), [Ask("?", 0)])
        with pytest.raises(ValueError, match="another model"):
            vlm(kind, 0).rank(other.encode(pictures[:1]), [Ask("?", 0)], [[" Yes"]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("image", [0, None])
def test_a_prompt_that_holds_the_placeholder_itself_is_refused(vlm, pictures, kind, image):
    model = vlm(kind)
    with pytest.raises(Exception, match="image placeholders"):
        model.answer(model.encode(pictures[:1]), [Ask("what does <image> mean?", image)])


@pytest.mark.parametrize("kind", FEWER)
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.15), ("float16", 0.02)])
def test_in_half_precision_log_probabilities_stay_close_and_flips_have_small_margins(
    vlm, pictures, kind, dtype, tolerance
):
    model = vlm(kind, 0, dtype=dtype)
    asks = [a for i in (0, 1, None) for a in asks_about(i, 8)]
    replies = model.answer(model.encode(pictures), asks)
    assert all(r.error is None for r in replies)
    for ask, reply in zip(asks, replies, strict=True):
        image = None if ask.image is None else pictures[ask.image]
        text = prompts.render(model.processor, ask.prompt, with_image=image is not None)
        inputs = model.processor(text=text, images=image, return_tensors="pt").to(model.model.dtype)
        with torch.inference_mode():
            logprobs = model.model(**inputs).logits[0, -1].float().log_softmax(-1)
        for word, ids in model.candidate_ids(ask.candidates).items():
            assert reply.logprobs[word] == pytest.approx(float(logprobs[ids].logsumexp(0)), abs=tolerance)
        for flip in find_flips(model, image, [ask], [reply]):
            assert 0 <= flip.margin < tolerance


@pytest.mark.parametrize("kind", ["llava", "age_vlm"])
def test_a_planted_flip_is_found_with_its_texts_and_margin(vlm, pictures, kind):
    model = vlm(kind)
    asks = asks_about(0, 5)
    replies = model.answer(model.encode(pictures[:1]), asks)
    assert find_flips(model, pictures[0], asks, replies) == []
    ids = list(replies[1].token_ids)
    ids[2] = (ids[2] + 1) % 300
    planted = [*replies]
    planted[1] = type(replies[1])(text="planted", stop="length", token_ids=tuple(ids))
    planted[3] = type(replies[3])(text="short", stop="length", token_ids=replies[3].token_ids[:2])
    flips = find_flips(model, pictures[0], asks, planted)
    assert [(f.prompt, f.ours, f.plain) for f in flips] == [
        (asks[1].prompt, "planted", replies[1].text),
        (asks[3].prompt, "short", replies[3].text),
    ]
    assert flips[0].margin == pytest.approx(plain_generate(model, pictures[0], asks[1])[1][2])
    assert flips[1].margin == pytest.approx(plain_generate(model, pictures[0], asks[3])[1][1])
