"""How much work is done: counted, never timed. And what happens when memory runs out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agevlm.vlm import Ask
from agevlm.vlm.batching import AUTOMATIC, Batcher
from agevlm.vlm.hf.memory import is_out_of_memory
from agevlm.vlm.hf.session import HfVlm
from tests.vlm.conftest import IN_TEXT, KINDS, QUESTIONS, asks_about

THINGS = ["dog", "cat", "bus", "car", "cup", "bowl", "book", "bottle", "chair"]
EIGHTEEN = [f"Is there a {thing} in the image?" for thing in THINGS] * 2


@pytest.fixture(params=["llava", "age_vlm", "age_vlm_mask", "age_vlm_concat"])
def kind(request):
    return request.param


@pytest.fixture
def fresh(checkpoint, kind):
    return HfVlm.load(checkpoint(kind, 0), device="cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_each_image_is_encoded_once_whatever_the_number_of_questions(checkpoint, pictures, monkeypatch, kind):
    model = HfVlm.load(checkpoint(kind, 0), device="cpu")
    runs = []
    model.model.model.vision_tower.register_forward_hook(lambda *_: runs.append(1))
    encoded = model.encode(pictures)
    for _ in range(2):
        asks = [Ask(q, i, 2) for i in range(len(pictures)) for q in EIGHTEEN]
        model.answer(encoded, asks)
        model.rank(encoded, asks[:3], [[" Yes", " No"]] * 3)
    assert len(runs) == model.vision_calls == len(pictures)


def seen_by_language_model(model):
    """Positions that really went through the language model, counted by a hook."""
    positions: list[int] = []

    def hook(module, args, kwargs, output):
        positions.append(output.last_hidden_state.shape[0] * output.last_hidden_state.shape[1])

    model.model.model.language_model.register_forward_hook(hook, with_kwargs=True)
    return positions


def test_options_that_differ_in_their_last_token_are_one_row(fresh, pictures, kind):
    """Ranked together they cost as much as one of them, and get what each gets alone."""
    encoded = fresh.encode(pictures[:1])
    ask = asks_about(0, 1, EIGHTEEN[:1])
    # Two tokens each: the first alike, then one that differs only at the end, and one longer.
    first, second = (fresh.tokenizer.encode(word, add_special_tokens=False)[0] for word in (" Yes", " No"))
    options = [
        fresh.tokenizer.decode([first]),
        fresh.tokenizer.decode([second]),
        fresh.tokenizer.decode([first, second]),
    ]
    alone = [fresh.rank(encoded, ask, [[option]])[0][0] for option in options]
    before = fresh.language_positions
    fresh.rank(encoded, ask, [options[:1]])
    one = fresh.language_positions - before
    assert fresh.rank(encoded, ask, [[options[1], options[0], options[1]]])[0] == pytest.approx(
        [alone[1], alone[0], alone[1]], abs=1e-4
    )
    assert fresh.language_positions - before == 2 * one
    assert fresh.rank(encoded, ask, [options])[0] == pytest.approx(alone, abs=1e-4)


def test_the_language_model_runs_over_the_prefix_once_and_over_suffixes_only(fresh, pictures, kind):
    seen = seen_by_language_model(fresh)
    encoded = fresh.encode(pictures[:1])
    asks = asks_about(0, 1, EIGHTEEN)
    rows = [fresh.row(encoded, a)[1].ids for a in asks]
    prefix = next(n for n in range(99) if len({r[n] for r in rows}) > 1)
    assert (prefix > 16) == (kind in IN_TEXT), "the visual tokens, if any, are in the prefix"
    fresh.answer(encoded, asks)
    expected = prefix + 18 * (max(map(len, rows)) - prefix)
    assert fresh.language_positions == expected == sum(seen)
    assert expected < sum(map(len, rows)) / (2 if kind in IN_TEXT else 1.3)
    # Again, on the prefix at hand: suffixes only.
    fresh.answer(encoded, asks)
    assert fresh.language_positions == sum(seen) == 2 * expected - prefix


def test_questions_asked_one_by_one_share_the_image_too(fresh, pictures, kind):
    seen = seen_by_language_model(fresh)
    encoded = fresh.encode(pictures[:1])
    for question in EIGHTEEN:
        fresh.answer(encoded, [Ask(question, 0, 1)])
    rows = [fresh.row(encoded, Ask(q, 0))[1].ids for q in EIGHTEEN]
    longest = max(map(len, rows))
    shared = next(n for n in range(99) if len({r[n] for r in rows}) > 1)
    assert (shared > 16) == (kind in IN_TEXT)
    assert sum(seen) == fresh.language_positions <= longest + 17 * (longest - shared)


def test_a_known_prefix_that_shares_little_gives_way_to_a_better_one(fresh, pictures):
    encoded = fresh.encode(pictures[:1])
    fresh.answer(encoded, asks_about(0, 1, EIGHTEEN))
    asks = asks_about(0, 1, [f"{'What? ' * 40}{end}" for end in ("dog?", "cat?", "bus?")])
    rows = [fresh.row(encoded, a)[1].ids for a in asks]
    shared = next(n for n in range(999) if len({r[n] for r in rows}) > 1)
    seen = seen_by_language_model(fresh)
    fresh.answer(encoded, asks)
    suffixes = len(asks) * (max(map(len, rows)) - shared)
    assert sum(seen) == shared + suffixes
    fresh.answer(encoded, asks)
    assert sum(seen) == shared + 2 * suffixes


def test_every_further_token_costs_one_position_per_row(fresh, pictures):
    seen = seen_by_language_model(fresh)
    encoded = fresh.encode(pictures[:1])
    fresh.answer(encoded, asks_about(0, 1, EIGHTEEN))
    before = sum(seen)
    replies = fresh.answer(encoded, asks_about(0, 5, EIGHTEEN))
    first = fresh.language_positions
    assert first == sum(seen)
    steps = max(len(r.token_ids) for r in replies) - 1
    fresh.answer(encoded, asks_about(0, 1, EIGHTEEN))
    assert first - before - 18 * steps == fresh.language_positions - first > 0


def test_a_limit_of_no_tokens_costs_no_steps(fresh, pictures):
    seen = seen_by_language_model(fresh)
    reply = fresh.answer(fresh.encode(pictures[:1]), [Ask("?", 0, 0)])[0]
    assert (reply.text, reply.stop, reply.token_ids) == ("", "length", ())
    assert fresh.language_positions == sum(seen)


class Full(Exception):
    pass


@given(
    st.lists(st.integers(1, 9), max_size=40),
    st.integers(1, 50),
    st.integers(1, 20),
)
def test_results_keep_the_order_and_only_items_too_big_by_themselves_fail(sizes, batch, capacity):
    seen = []

    def run(items):
        if sum(items) > capacity:
            raise Full("no room\nsecond line")
        seen.append(len(items))
        return [("done", i) for i in items]

    batcher = Batcher(batch, lambda e: isinstance(e, Full))
    results = batcher.map(sizes, run, lambda item, message: ("failed", item, message))
    assert [r[1] for r in results] == sizes
    assert [r[0] == "failed" for r in results] == [s > capacity for s in sizes]
    assert all(r[2] == "out of memory: Full: no room" for r in results if r[0] == "failed")
    assert all(n <= batch for n in seen)


def test_the_size_that_fitted_is_remembered_and_memory_released_before_each_smaller_try():
    tries, released = [], []

    def run(items):
        tries.append(len(items))
        if len(items) > 3:
            raise Full
        return list(items)

    batcher = Batcher(16, lambda e: isinstance(e, Full), lambda: released.append(len(tries)))
    assert batcher.map(range(10), run, lambda *_: None) == list(range(10))
    assert tries == [10, 5, 2, 2, 2, 2, 2]
    assert released == [1, 2]
    batcher.map(range(4), run, lambda *_: None)
    assert tries[7:] == [2, 2]


def test_other_exceptions_pass_through_the_batcher():
    with pytest.raises(KeyError):
        Batcher(4, lambda e: isinstance(e, Full)).map([1], lambda _: {}["x"], lambda *_: None)


def test_a_batch_size_below_one_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        Batcher(0, lambda _: True)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("allocate memory"), False),
    ],
)
def test_which_errors_mean_that_memory_ran_out(error, expected):
    assert is_out_of_memory(error) is expected


def given(kwargs):
    """What the language model is given: embeddings, or (AGE-VLM, while it answers) token ids."""
    return kwargs["input_ids"] if kwargs["inputs_embeds"] is None else kwargs["inputs_embeds"]


def full_above(model, monkeypatch, rows):
    """Make the language model run out of memory for more than so many rows."""
    language, tries = model.model.model.language_model, []
    forward = language.forward

    def limited(*args, **kwargs):
        tries.append(len(given(kwargs)))
        if tries[-1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(*args, **kwargs)

    monkeypatch.setattr(language, "forward", limited)
    return tries


def test_a_model_with_room_for_two_rows_gives_the_same_replies(fresh, vlm, pictures, monkeypatch, kind):
    asks = [a for i in (0, 1, None) for a in asks_about(i, 4)]
    expected = vlm(kind, 0).answer(vlm(kind, 0).encode(pictures), asks)
    fresh.packing = False
    tries = full_above(fresh, monkeypatch, 2)
    replies = fresh.answer(fresh.encode(pictures), asks)
    assert max(tries) == len(QUESTIONS)
    assert [(r.text, r.token_ids, r.stop) for r in replies] == [(r.text, r.token_ids, r.stop) for r in expected]
    assert [r.logprobs for r in replies] == [pytest.approx(r.logprobs, abs=1e-4) for r in expected]
    assert fresh.batcher.size <= 2
    # Later calls do not try the size that did not fit again.
    tries.clear()
    fresh.answer(fresh.encode(pictures), asks)
    assert max(tries) <= 2


def test_an_ask_too_long_by_itself_fails_alone(fresh, vlm, pictures, monkeypatch, kind):
    asks = asks_about(0, 3)
    expected = vlm(kind, 0).answer(vlm(kind, 0).encode(pictures[:1]), asks)
    language = fresh.model.model.language_model
    forward = language.forward

    def limited(*args, **kwargs):
        rows, length = given(kwargs).shape[:2]
        if rows > 1 or length > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(language, "forward", limited)
    replies = fresh.answer(fresh.encode(pictures[:1]), asks)
    failed = [r.error is not None for r in replies]
    assert failed == [q.startswith("What? What?") for q in QUESTIONS]
    for reply, known in zip(replies, expected, strict=True):
        if reply.error:
            assert (reply.text, reply.stop, reply.logprobs) == (None, "error", {})
            assert reply.error == "out of memory: OutOfMemoryError: CUDA out of memory"
        else:
            assert reply.token_ids == known.token_ids


def test_a_prefix_that_never_fits_fails_its_image_without_shrinking_the_batches_of_others(fresh, pictures, monkeypatch):
    asks = [a for i in (0, 1, None) for a in asks_about(i, 2)]
    encoded = fresh.encode(pictures[:2])
    bad = encoded.features[1]
    embed = fresh.family.embed

    def full(ids, features):
        if features is bad:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return embed(ids, features)

    monkeypatch.setattr(fresh.family, "embed", full)
    replies = fresh.answer(encoded, asks)
    assert [r.error is None for r in replies] == [a.image != 1 for a in asks]
    assert fresh.batcher.size == 32
    with pytest.raises(MemoryError, match="out of memory"):
        fresh.rank(encoded, asks, [[" Yes"]] * len(asks))


def test_a_prefix_gets_the_room_that_other_images_prefixes_took(fresh, pictures, monkeypatch):
    encoded = fresh.encode(pictures[:3])
    expected = [r.token_ids for i in range(3) for r in fresh.answer(fresh.encode(pictures[:3]), asks_about(i, 3))]
    embed = fresh.family.embed

    def full(ids, features):
        if features is not None and len(encoded.prefixes) >= 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return embed(ids, features)

    monkeypatch.setattr(fresh.family, "embed", full)
    replies = fresh.answer(encoded, [a for i in range(3) for a in asks_about(i, 3)])
    assert [r.token_ids for r in replies] == expected


def test_other_errors_of_the_model_are_raised(fresh, pictures, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("shapes cannot be multiplied")

    encoded = fresh.encode(pictures[:1])
    monkeypatch.setattr(fresh.model.model.language_model, "forward", broken)
    with pytest.raises(RuntimeError, match="multiplied"):
        fresh.answer(encoded, asks_about(0, 1))


def test_running_out_of_memory_while_encoding_is_raised_as_such(fresh, pictures, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fresh.family, "features", full)
    with pytest.raises(torch.OutOfMemoryError):
        fresh.encode(pictures[:1])


@pytest.mark.parametrize("step", [0, 1])
def test_logits_that_are_no_numbers_are_an_error_and_never_an_answer(fresh, pictures, monkeypatch, step):
    fresh.packing = False
    encoded = fresh.encode(pictures[:1])
    plain = fresh.answer(encoded, asks_about(0, 4))
    calls = []

    def overflowing(hidden):
        calls.append(None)
        logits = torch.nn.functional.linear(hidden, fresh.model.lm_head.weight)
        if len(calls) == step + 1:
            logits[0] = torch.nan  # the first row of the batch alone
        return logits

    monkeypatch.setattr(fresh.model.lm_head, "forward", overflowing)
    replies = fresh.answer(encoded, asks_about(0, 4))
    assert replies[0].text is None
    assert "not numbers" in replies[0].error
    assert [r.token_ids for r in replies[1:]] == [r.token_ids for r in plain[1:]]


def test_batches_begin_large_and_the_size_that_fitted_is_told(fresh, checkpoint, pictures, monkeypatch, kind):
    fresh.packing = False
    assert fresh.describe()["batch_size"] == {"given": None, "first": AUTOMATIC["cpu"], "fitted": AUTOMATIC["cpu"]}
    asks = asks_about(0, 3, EIGHTEEN)
    expected = fresh.answer(fresh.encode(pictures[:1]), asks)
    full_above(fresh, monkeypatch, 5)
    replies = fresh.answer(fresh.encode(pictures[:1]), asks)
    assert [r.token_ids for r in replies] == [r.token_ids for r in expected]
    assert fresh.describe()["batch_size"] == {"given": None, "first": 32, "fitted": 4}
    given = HfVlm.load(checkpoint(kind, 0), device="cpu", batch_size=3)
    assert given.describe()["batch_size"] == {"given": 3, "first": 3, "fitted": 3}


def test_an_image_that_does_not_fit_at_once_is_encoded_again_after_memory_is_given_back(fresh, pictures, monkeypatch):
    asks = asks_about(0, 3)
    expected = fresh.answer(fresh.encode(pictures[:1]), asks)
    order, features = [], fresh.family.features

    def full_at_first(inputs):
        order.append("try")
        if len(order) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return features(inputs)

    monkeypatch.setattr(fresh.family, "features", full_at_first)
    monkeypatch.setattr("agevlm.vlm.hf.memory.release_memory", lambda: order.append("release"))
    replies = fresh.answer(fresh.encode(pictures[:1]), asks)
    assert order == ["try", "release", "try"]
    assert [r.token_ids for r in replies] == [r.token_ids for r in expected]
