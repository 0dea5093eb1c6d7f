"""What AGE-VLM has beyond other models: an image that is keys and values alone, padding that may be hidden."""

import json

import pytest
import torch
from tokenizers import processors

from agevlm.checkpoints.tiny import AgeVlmShape, build_age_vlm
from agevlm.errors import DataError
from agevlm.vlm import Ask
from agevlm.vlm.hf.age_vlm import AgeVlmConcat, AgeVlmCross
from agevlm.vlm.hf.reference import find_flips, plain_generate
from agevlm.vlm.hf.session import HfVlm
from agevlm.vlm.hf.table import family_class
from tests.vlm.conftest import AGE_VLM, CROSS, QUESTIONS, asks_about
from tests.vlm.test_equality import QUESTION_FIRST, assert_equal_to_plain, first_logits
from tests.vlm.test_work import EIGHTEEN, full_above, seen_by_language_model

STRIP, WIDE = 3, 1
"""Pictures that letterboxing pads."""


def count_projections(model):
    """How often any cross-attention layer made keys of an image, and of how many rows."""
    rows = {"k_proj": [], "v_proj": []}
    for layer in model.model.model.language_model.layers:
        if hasattr(layer, "cross_attn"):
            for name, seen in rows.items():
                module = getattr(layer.cross_attn, name)
                module.register_forward_hook(lambda _, args, __, seen=seen: seen.append(len(args[0])))
    return rows


def vision_layers(cache):
    return [cache.layers[i] for i in AgeVlmShape().cross_layers]


@pytest.mark.parametrize("picture", [STRIP, WIDE])
def test_hiding_the_padding_matters(vlm, copy_of, pictures, picture):
    model = vlm("age_vlm_mask")
    seeing = HfVlm.load(copy_of(kind="age_vlm_mask", config={"mask_padding": False}), device="cpu")
    hidden, shown = (first_logits(m, pictures[picture], QUESTIONS[0]) for m in (model, seeing))
    assert float((hidden - shown).abs().max()) > 0.2
    square = [first_logits(m, pictures[0], QUESTIONS[0]) for m in (model, seeing)]
    assert torch.equal(*square), "a square has no padding"
    visible = [layer.visible for layer in vision_layers(model.encode([pictures[picture]]).features[0])]
    assert all(v.shape == (1, 16) and 0 < int(v.sum()) < 16 for v in visible)
    assert all(layer.visible is None for layer in vision_layers(seeing.encode([pictures[picture]]).features[0]))


@pytest.mark.parametrize("template", [None, QUESTION_FIRST])
@pytest.mark.parametrize("kind", CROSS)
def test_keys_and_values_of_an_image_are_made_once_whatever_is_asked(checkpoint, pictures, monkeypatch, kind, template):
    model = HfVlm.load(checkpoint(kind), device="cpu", chat_template=template)
    towers = []
    model.model.model.vision_tower.register_forward_hook(lambda *_: towers.append(1))
    rows, positions = count_projections(model), seen_by_language_model(model)
    encoded = model.encode(pictures)
    once = [1] * len(pictures) * len(AGE_VLM[kind].cross_layers)
    assert rows == {"k_proj": once, "v_proj": once}
    for batch_size in (32, 3):
        monkeypatch.setattr(model.batcher, "size", batch_size)
        model.answer(encoded, [Ask(q, i, 2) for q in EIGHTEEN for i in (*range(len(pictures)), None)])
        model.rank(encoded, asks_about(1), [[" Yes", "dining table"]] * len(QUESTIONS))
        # Other questions on the same images.
        model.answer(encoded, [Ask(f"{q} Or not?", 2, 3) for q in reversed(QUESTIONS)])
    assert sum(positions) == model.language_positions
    full_above(model, monkeypatch, 2)
    model.answer(encoded, asks_about(0, 4))
    assert rows == {"k_proj": once, "v_proj": once}
    assert len(towers) == model.vision_calls == len(pictures)


@pytest.mark.parametrize("kind", CROSS)
def test_with_the_question_first_the_words_before_it_alone_are_shared(checkpoint, pictures, kind):
    model = HfVlm.load(checkpoint(kind), device="cpu", chat_template=QUESTION_FIRST)
    seen = seen_by_language_model(model)
    encoded = model.encode(pictures[:1])
    rows = [model.row(encoded, a)[1].ids for a in asks_about(0)]
    shared = next(n for n in range(99) if len({r[n] for r in rows}) > 1)
    assert 0 < shared < 6
    model.answer(encoded, asks_about(0, 1))
    assert sum(seen) == model.language_positions == shared + sum(len(row) - shared for row in rows)


@pytest.mark.parametrize("kind", AGE_VLM)
def test_rows_that_share_no_token_at_all_equal_plain_generation(checkpoint, pictures, monkeypatch, kind):
    model = HfVlm.load(
        checkpoint(kind), device="cpu", chat_template="{% for p in messages[0]['content'] | reverse %}"
        "{{ '<image>' if p['type'] == 'image' else p['text'] }}{% endfor %} ASSISTANT:",
    )  # fmt: skip
    model.packing = False
    monkeypatch.setattr(model.tokenizer.backend_tokenizer, "post_processor", processors.ByteLevel())
    seen = seen_by_language_model(model)
    rows = count_projections(model) if kind in CROSS else None
    encoded = model.encode(pictures[:2])
    for image in (0, 1, None):
        asks = asks_about(image, 6, ["dog?", "Is there a cat?", "?"])
        ids = [model.row(encoded, a)[1].ids for a in asks]
        assert len({r[0] for r in ids}) == 3
        before = sum(seen)
        replies = model.answer(encoded, asks)
        steps = max(len(r.token_ids) for r in replies) - 1
        assert sum(seen) - before == 3 * max(map(len, ids)) + 3 * steps
        assert sum(seen) == model.language_positions
        if rows is not None:
            assert len(rows["k_proj"]) == 2 * 2
        assert_equal_to_plain(model, pictures, asks, replies)
        seen.clear()
        model.language_positions = 0
        if rows is not None:
            del rows["k_proj"][4:]


@pytest.mark.parametrize("kind", CROSS)
def test_what_was_encoded_is_never_written_to(vlm, pictures, kind):
    model = vlm(kind)
    encoded = model.encode(pictures)
    before = [[(a.keys.clone(), a.values.clone(), a.visible) for a in vision_layers(f)] for f in encoded.features]
    for _ in range(2):
        model.answer(encoded, [Ask(q, i, 3) for q in QUESTIONS for i in (0, 3, None, 1)])
        model.rank(encoded, asks_about(3), [[" Yes", " No"]] * len(QUESTIONS))
    for cache, layers in zip(encoded.features, before, strict=True):
        assert cache.get_seq_length() == 0
        for layer, (keys, values, visible) in zip(vision_layers(cache), layers, strict=True):
            assert torch.equal(layer.keys, keys)
            assert torch.equal(layer.values, values)
            assert layer.visible is visible
    for image, prefix in encoded.prefixes.items():
        assert prefix.held.get_seq_length() == len(prefix.ids) > 0
        assert all(layer.is_initialized == (image is not None) for layer in vision_layers(prefix.held))


@pytest.mark.parametrize("kind", CROSS)
def test_rows_and_prefixes_share_the_memory_of_the_image(vlm, pictures, kind):
    model = vlm(kind)
    encoded = model.encode([pictures[STRIP]])
    model.answer(encoded, asks_about(0, 2))
    prefix = encoded.prefixes[0]
    for cache, rows in ((prefix.held, 1), (prefix.cache(7), 7), (prefix.first(2).cache(3), 3)):
        for layer, own in zip(vision_layers(cache), vision_layers(encoded.features[0]), strict=True):
            assert layer.keys.shape == (rows, *own.keys.shape[1:])
            assert layer.keys.data_ptr() == own.keys.data_ptr()
            assert layer.values.data_ptr() == own.values.data_ptr()
            assert (layer.visible is None) == (kind == "age_vlm")
            assert layer.visible is None or len(layer.visible) == rows
    assert prefix.first(2).ids == prefix.ids[:2]
    assert prefix.first(2).cache(3).get_seq_length() == 2


def test_a_longer_look_at_one_image_leaves_no_trace_in_another(vlm, pictures):
    model = vlm("age_vlm")
    shown = {0: pictures[0], 1: pictures[1], None: None}
    plain = {i: [plain_generate(model, p, a)[0] for a in asks_about(i, 4)] for i, p in shown.items()}
    for order in ((0, 1, None), (None, 1, 0), (1, 0, None)):
        encoded = model.encode(pictures[:2])
        first = {i: [r.token_ids for r in model.answer(encoded, asks_about(i, 4))] for i in order}
        assert first == plain
        assert len({str(v) for v in first.values()}) == 3


def test_the_fusion_chooses_the_family(checkpoint, copy_of):
    def family(folder):
        return family_class(json.loads((folder / "config.json").read_text()))

    assert family(checkpoint("age_vlm")) is family(checkpoint("age_vlm_mask")) is AgeVlmCross
    assert family(checkpoint("age_vlm_concat")) is AgeVlmConcat
    assert family_class({"model_type": "age_vlm"}) is AgeVlmCross


CONTEXT = 40
SHORT = {"cross": AgeVlmShape(context=CONTEXT), "concat": AgeVlmShape(context=CONTEXT, fusion="concat")}


@pytest.fixture(scope="module", params=["cross", "concat", "llava"])
def short_and_long(request, tmp_path_factory, checkpoint, vlm):
    """A model with a context of 40 tokens, and one of equal weights with 4,096."""
    kind = {"cross": "age_vlm", "concat": "age_vlm_concat", "llava": "llava"}[request.param]
    folder = tmp_path_factory.mktemp("short")
    if request.param == "llava":
        for file in checkpoint(kind).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["max_position_embeddings"] = CONTEXT
        (folder / "config.json").write_text(json.dumps(config))
    else:
        build_age_vlm(folder, shape=SHORT[request.param])
    return HfVlm.load(folder, device="cpu"), vlm(kind)


def question_of(model, encoded, image, length):
    """A question whose whole prompt has so many tokens."""
    for dogs in range(2 * CONTEXT):
        for marks in range(3):
            question = "dog " * dogs + "?" * marks + "."
            if len(model.row(encoded, Ask(question, image))[1].ids) == length:
                return question
    raise AssertionError(f"no question of {length} tokens")


@pytest.mark.parametrize("image", [0, None])
def test_no_more_tokens_are_asked_for_than_the_context_has_room(short_and_long, pictures, image):
    short, long = short_and_long
    encoded = long.encode(pictures[:1])
    questions = {room: question_of(long, encoded, image, CONTEXT - room) for room in (1, 3, 8, 9)}
    asks = [Ask(q, image, 8) for q in questions.values()]
    replies = short.answer(short.encode(pictures[:1]), asks)
    shown = None if image is None else pictures[image]
    for room, ask, reply, free in zip(questions, asks, replies, long.answer(encoded, asks), strict=True):
        limit = min(room, 8)
        assert reply.token_ids == free.token_ids[:limit]
        assert reply.token_ids == plain_generate(short, shown, Ask(ask.prompt, image, limit))[0]
        if limit < len(free.token_ids) or free.stop == "length":
            assert reply.stop == "length"


@pytest.mark.parametrize("image", [0, None])
@pytest.mark.parametrize("beyond", [0, 1, 30])
def test_a_prompt_that_fills_the_context_is_refused_with_the_numbers(short_and_long, pictures, image, beyond):
    short, long = short_and_long
    whole = long.encode(pictures[:1])
    visual = long.family.placeholders(whole.features[0]) if image == 0 else 0
    question = question_of(long, whole, image, CONTEXT + beyond)
    encoded = short.encode(pictures[:1])
    message = rf"a prompt of {CONTEXT + beyond} tokens \({visual} of them visual\).*context of {CONTEXT}; .*'dog "
    before = short.language_positions
    with pytest.raises(DataError, match=message):
        short.answer(encoded, [Ask("?", image, 2), Ask(question, image, 1)])
    with pytest.raises(DataError, match=message):
        short.rank(encoded, [Ask(question, image)], [[" Yes"]])
    assert short.language_positions == before
    assert short.answer(encoded, [Ask("?", image, 2)])[0].text is not None


@pytest.mark.parametrize("image", [0, None])
def test_an_option_may_fill_the_context_and_not_go_beyond(short_and_long, pictures, image):
    short, long = short_and_long
    whole, encoded = long.encode(pictures[:1]), short.encode(pictures[:1])
    option = " dining table"
    tokens = len(long.tokenizer.encode(option, add_special_tokens=False))
    assert tokens >= 2
    fits, not_quite = (Ask(question_of(long, whole, image, CONTEXT - tokens + more), image) for more in (0, 1))
    given = [[" Yes", option]]
    assert short.rank(encoded, [fits], given)[0] == pytest.approx(long.rank(whole, [fits], given)[0], abs=1e-4)
    with pytest.raises(DataError, match=rf"' dining table' of ask 1 ends beyond the model's context of {CONTEXT} tok"):
        short.rank(encoded, [fits, not_quite], [[" Yes"], given[0]])


def test_answers_that_the_context_cuts_short_are_verified_too(short_and_long, pictures):
    short, long = short_and_long
    asks = [Ask(question_of(long, long.encode(pictures[:1]), 0, CONTEXT - room), 0, 8) for room in (3, 9)]
    replies = short.answer(short.encode(pictures[:1]), asks)
    assert find_flips(short, pictures[0], asks, replies) == []


@pytest.mark.parametrize("kind", CROSS)
def test_no_token_of_the_text_stands_for_the_image(vlm, pictures, kind):
    model = vlm(kind)
    vocabulary = range(model.model.get_input_embeddings().num_embeddings)
    assert model.family.image_token_id not in vocabulary
    assert model.pad_id in vocabulary
    questions = ["".join(map(model.tokenizer.decode, range(4))), "Is there a dog?"]
    asks = asks_about(0, 4, questions)
    encoded = model.encode(pictures[:1])
    assert set(range(4)) <= set(model.row(encoded, asks[0])[1].ids)
    assert_equal_to_plain(model, pictures, asks, model.answer(encoded, asks))
