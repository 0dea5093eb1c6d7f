"""Questions of an image in one row, kept apart by a mask: the answers of rows of their own."""

import pytest
import torch

from agevlm.vlm import Ask
from agevlm.vlm.hf import packed
from agevlm.vlm.hf.prefix import build_prefix, prefill
from agevlm.vlm.hf.reference import plain_generate
from agevlm.vlm.hf.session import HfVlm
from tests.vlm.conftest import IN_TEXT, KINDS, QUESTIONS, asks_about


@pytest.fixture
def packs(monkeypatch):
    """How many questions each pack held."""
    seen = []
    honest = packed.prefill_packed

    def noted(family, prefix, suffixes, wanted):
        seen.append(len(suffixes))
        return honest(family, prefix, suffixes, wanted)

    monkeypatch.setattr("agevlm.vlm.hf.session.prefill_packed", noted)
    return seen


@pytest.fixture
def fresh(checkpoint):
    return lambda kind: HfVlm.load(checkpoint(kind, 0), device="cpu")


def begun(model, picture, questions):
    """The prefix of an image and the suffixes of questions about it."""
    images = model.encode([picture])
    rows = [model.row(images, Ask(q, 0))[1].ids for q in questions]
    shared = min(next(n for n in range(999) if len({r[n] for r in rows}) > 1), min(map(len, rows)) - 1)
    return build_prefix(model.family, rows[0][:shared], images.features[0]), [r[shared:] for r in rows]


DIFFERENT = ["Is there a dog?", "What is it? An umbrella?", "Is there a cat in the image?"]


@pytest.mark.parametrize("kind", KINDS)
def test_questions_are_packed_and_their_log_probabilities_are_those_of_a_batch(vlm, pictures, monkeypatch, packs, kind):
    model = vlm(kind)
    asks = [a for i in (0, 2, None) for a in asks_about(i, 6)]
    in_one_row = model.answer(model.encode(pictures), asks)
    ranked = model.rank(model.encode(pictures), asks, [[" Yes", " No", " a dog", " a dog there"]] * len(asks))
    assert packs[:3] == [len(QUESTIONS)] * 3
    assert len(packs) == 6
    monkeypatch.setattr(model, "packing", False)
    in_a_batch = model.answer(model.encode(pictures), asks)
    assert len(packs) == 6
    assert [r.token_ids for r in in_one_row] == [r.token_ids for r in in_a_batch]
    assert [r.logprobs for r in in_one_row] == [pytest.approx(r.logprobs, abs=1e-4) for r in in_a_batch]
    apart = model.rank(model.encode(pictures), asks, [[" Yes", " No", " a dog", " a dog there"]] * len(asks))
    assert ranked == [pytest.approx(row, abs=1e-4) for row in apart]


def suffix_logits(model, prefix, suffixes):
    """Logits of every position of every packed suffix."""
    wanted = [range(len(s)) for s in suffixes]
    with torch.inference_mode():
        return packed.prefill_packed(model.family, prefix, suffixes, wanted).logits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changed", [0, 1, 2])
def test_a_changed_question_changes_nothing_of_the_others(vlm, pictures, monkeypatch, kind, changed):
    model = vlm(kind)
    with torch.inference_mode():
        prefix, suffixes = begun(model, pictures[0], DIFFERENT)
    others = [s[::-1] if i == changed else s for i, s in enumerate(suffixes)]
    assert others != suffixes

    def moved():
        before, after = suffix_logits(model, prefix, suffixes), suffix_logits(model, prefix, others)
        return [float((a - b).abs().max()) for a, b in zip(before, after, strict=True)]

    blocked = moved()
    assert blocked[changed] > 0.1
    assert max(d for i, d in enumerate(blocked) if i != changed) < 1e-4

    # Without the blocks, later questions would see earlier ones: so the test can fail.
    def causal(owners, queries, dtype):
        return honest(torch.zeros_like(owners), queries, dtype)

    honest = packed.block_mask
    monkeypatch.setattr(packed, "block_mask", causal)
    assert all(d > 0.01 for d in moved()[changed:])


def test_the_mask_written_out():
    owners = torch.tensor([-1, -1, 0, 0, 1, 2, 2, 0, 2])

    def may(query, key):
        return owners[key] in (-1, owners[query]) and key <= query

    for queries in (1, 2, 7):
        mask = packed.block_mask(owners, queries, torch.float32)
        assert mask.shape == (1, 1, queries, 9)
        for query in range(9 - queries, 9):
            expected = [0.0 if may(query, key) else torch.finfo(torch.float32).min for key in range(9)]
            assert mask[0, 0, query - (9 - queries)].tolist() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_the_prefix_is_never_repeated(vlm, pictures, monkeypatch, kind):
    model = vlm(kind)
    rows = []
    language = model.model.model.language_model
    hook = language.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(
            [
                next(v for v in (kwargs.get("inputs_embeds"), kwargs.get("input_ids")) if v is not None),
                kwargs["past_key_values"],
            ]
        ),
        with_kwargs=True,
    )
    with hook:
        model.answer(model.encode(pictures[:1]), asks_about(0, 5))
    assert len(rows) == 6
    assert all(len(given) == 1 for given, _ in rows)
    assert {layer.keys.shape[0] for _, cache in rows for layer in cache.layers if layer.is_initialized} == {1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [0, 130, 150])
def test_long_answers_go_on_as_a_batch_and_stay_the_same(vlm, pictures, monkeypatch, packs, kind, most):
    model = vlm(kind, 1)
    asks = [Ask(q, 0, limit) for q, limit in zip(QUESTIONS, [1, 14, 9, 14, 3, 14], strict=True)]
    unpacked = []
    honest = packed.unpack

    def noted(cache, owners, questions, logits):
        unpacked.append(len(questions))
        return honest(cache, owners, questions, logits)

    monkeypatch.setattr(packed, "unpack", noted)
    monkeypatch.setattr(packed, "MOST_KEYS", most)
    replies = model.answer(model.encode(pictures[:1]), asks)
    assert packs == [len(asks)]
    assert len(unpacked) == 1
    assert (unpacked[0] < len(asks)) == (most > 0)
    for ask, reply in zip(asks, replies, strict=True):
        assert reply.token_ids == plain_generate(model, pictures[0], ask)[0]


def test_many_tokens_of_questions_run_as_a_batch(vlm, pictures, packs):
    model = vlm("llava")
    long = [f"{'What? ' * 30}{end}" for end in "abcdefgh"]
    images = model.encode(pictures[:1])
    model.answer(images, asks_about(0, 2, long))
    assert packs == [8]
    model.answer(images, asks_about(0, 2, [*long, "Is it? " * 120]))
    assert packs == [8]
    model.answer(images, asks_about(0, 2, long[:1]))
    assert packs == [8], "one question alone has nothing to share"


@pytest.mark.parametrize(("window", "expected"), [(None, [6]), (500, [6]), (20, [])])
def test_a_sliding_window_that_is_shorter_than_a_row_keeps_questions_apart(fresh, pictures, packs, window, expected):
    model = fresh("llava")
    model.family.window = window
    model.answer(model.encode(pictures[:1]), asks_about(0, 2))
    assert packs == expected


def test_which_families_pack(fresh):
    model = fresh("llava")
    assert packed.can_pack(model.family)
    assert model.describe()["packing"]
    model.model.set_attn_implementation("eager")
    assert packed.can_pack(model.family)
    model.model.config.get_text_config()._attn_implementation = "flash_attention_2"
    assert not packed.can_pack(model.family)
    model.model.config.get_text_config()._attn_implementation = "sdpa"
    model.model.hf_device_map = {"model.vision_tower": 0, "model.language_model": 1}
    assert not packed.can_pack(model.family)
    model.model.hf_device_map = {"": 0}
    assert packed.can_pack(model.family)
    model.family.plain_positions = False
    assert not packed.can_pack(model.family)


@pytest.mark.parametrize("kind", ["llava", "age_vlm"])
def test_eager_attention_takes_the_mask_too(fresh, pictures, packs, kind):
    model = fresh(kind)
    model.model.set_attn_implementation("eager")
    asks = asks_about(0, 5)
    replies = model.answer(model.encode(pictures[:1]), asks)
    assert packs == [len(asks)]
    assert [r.token_ids for r in replies] == [plain_generate(model, pictures[0], a)[0] for a in asks]


@pytest.mark.parametrize("kind", KINDS)
def test_a_pack_that_does_not_fit_is_halved(fresh, vlm, pictures, monkeypatch, packs, kind):
    asks = asks_about(0, 4)
    expected = vlm(kind).answer(vlm(kind).encode(pictures[:1]), asks)
    model = fresh(kind)
    images = model.encode(pictures[:1])
    model.answer(images, asks)
    packs.clear()
    honest = packed.block_mask

    def limited(owners, queries, dtype):
        if len(set(owners.tolist()) - {packed.SHARED}) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest(owners, queries, dtype)

    monkeypatch.setattr(packed, "block_mask", limited)
    replies = model.answer(images, asks)
    assert packs == [6, 3, 1, 1, 1, 1, 1, 1][: len(packs)]
    assert packs[:2] == [6, 3]
    assert [r.token_ids for r in replies] == [r.token_ids for r in expected]


@pytest.mark.parametrize("kind", ["llava", "age_vlm_mask"])
def test_a_question_whose_numbers_overflow_costs_the_others_nothing(fresh, pictures, monkeypatch, packs, kind):
    model = fresh(kind)
    images = model.encode(pictures[:1])
    asks = asks_about(0, 4, DIFFERENT)
    options = [[" Yes", " No"]] * 3
    plain, ranked = model.answer(images, asks), model.rank(images, asks, options)
    rows = [model.row(images, a)[1].ids for a in asks]
    bad = next(t for t in rows[1] if t not in rows[0] and t not in rows[2])
    embed = model.family.embed

    def overflowing(ids, features):
        embeddings = embed(ids, features)
        return embeddings.masked_fill((ids == bad)[..., None], torch.nan)

    monkeypatch.setattr(model.family, "embed", overflowing)
    with torch.inference_mode():
        prefix, suffixes = begun(model, pictures[0], DIFFERENT)
    # In one row, 0 x NaN reaches those whom the mask keeps apart: so the test can fail.
    assert all(bool(logits.isnan().any()) for logits in suffix_logits(model, prefix, suffixes))
    packs.clear()
    replies = model.answer(images, asks)
    assert packs == [3]
    assert "not numbers" in replies[1].error
    assert [r.token_ids for r in replies[::2]] == [r.token_ids for r in plain[::2]]
    again = model.rank(images, asks, options)
    assert again[::2] == [pytest.approx(row, abs=1e-4) for row in ranked[::2]]


@pytest.mark.parametrize("kind", KINDS)
def test_positions_counted_are_those_that_ran(fresh, pictures, kind):
    model = fresh(kind)
    seen = []
    language = model.model.model.language_model
    language.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(
            next(v for v in (kwargs.get("inputs_embeds"), kwargs.get("input_ids")) if v is not None).shape[:2].numel()
        ),
        with_kwargs=True,
    )
    images = model.encode(pictures[:1])
    asks = asks_about(0, 5)
    rows = [model.row(images, a)[1].ids for a in asks]
    replies = model.answer(images, asks)
    prefix = next(n for n in range(999) if len({r[n] for r in rows}) > 1)
    assert (prefix > 16) == (kind in IN_TEXT)
    steps = sum(len(r.token_ids) - 1 for r in replies)
    assert model.language_positions == sum(seen) == prefix + sum(len(r) - prefix for r in rows) + steps
    assert model.vision_calls == 1


def test_packed_prefill_without_a_prefix(vlm, pictures):
    model = vlm("age_vlm_concat")
    with torch.inference_mode():
        start = build_prefix(model.family, (), None)
        rows = [model.row(model.encode([]), Ask(q, None))[1].ids for q in DIFFERENT]
        wanted = [range(len(r)) for r in rows]
        batch = prefill(model.family, start, rows, wanted, None, model.pad_id).logits
        pack = packed.prefill_packed(model.family, start, rows, wanted).logits
    for ours, theirs in zip(pack, batch, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
