"""The run loop with a model that answers, raises, runs out of memory or is interrupted."""

import struct

import pytest

from agevlm.errors import DataError
from benchmarks.plan import Planner, Shown, remaining
from benchmarks.records import AnswerWriter, load_answers
from benchmarks.run import GIVE_UP, RunStopped, prefetch, run_groups
from tests.benchmarks.runs.stub import StubVlm, digest, picture

IMAGES, PROMPTS = 8, ("Is there a dog?", "Is there a cat?", "Is there a bus?")


@pytest.fixture
def groups():
    planner = Planner({"greedy": True, "max_new_tokens": 8}, "f")
    for number in range(IMAGES):
        for prompt in PROMPTS:
            planner.add(Shown(f"sha {number}", str(number)), prompt)
    for prompt in PROMPTS:
        planner.add(None, prompt)
    return planner.groups(0)


def load(shown):
    return picture(int(shown.name))


def go(path, vlm, groups, load=load):
    """One launch: what is left is asked."""
    left = remaining(groups, load_answers([path]) if path.exists() else {})
    writer = AnswerWriter(path)
    try:
        return run_groups(vlm, left, load, writer)
    finally:
        writer.close()


def named(groups, *places):
    pictures = [g for g in groups if g.shown is not None]
    return {digest(load(pictures[p].shown)) for p in places}


def failing(pictures, error, only=PROMPTS):
    def trouble(shown, prompt):
        if shown in pictures and prompt in only:
            raise error

    return trouble


def plain_answers(tmp_path, groups):
    go(tmp_path / "plain", StubVlm(), groups)
    return load_answers([tmp_path / "plain"])


def test_every_ask_is_answered_and_every_image_encoded_once(tmp_path, groups):
    vlm = StubVlm()
    tally = go(tmp_path / "a", vlm, groups)
    answers = load_answers([tmp_path / "a"])
    assert (tally.groups, tally.answers, tally.errors) == (IMAGES + 1, 3 * (IMAGES + 1), 0)
    assert len(set(vlm.asked)) == len(vlm.asked) == len(answers) == 3 * (IMAGES + 1)
    assert vlm.shown == IMAGES
    for group in groups:
        for ask in group.asks:
            expected = vlm._reply(None if group.shown is None else digest(load(group.shown)), ask.prompt)
            assert (answers[ask.key].text, answers[ask.key].logprobs) == (expected.text, expected.logprobs)
            assert answers[ask.key].prompt == ask.prompt


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("odd shape\nsecond line"), "RuntimeError: odd shape"),
        (MemoryError(), "MemoryError: "),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), "UnicodeEncodeError: 'utf-8' codec"),
    ],
)
def test_an_exception_is_an_error_record_never_an_answer_and_is_asked_again(tmp_path, groups, error, said):
    bad = named(groups, 1, 4)
    tally = go(tmp_path / "a", StubVlm(trouble=failing(bad, error)), groups)
    records = load_answers([tmp_path / "a"]).values()
    failed = [r for r in records if r.error is not None]
    assert (tally.errors, len(failed)) == (6, 6)
    assert all(r.text is None and r.stop == "error" and r.error.startswith(said) for r in failed)
    assert {digest(picture(int(r.image))) for r in failed} == bad
    assert len(tally.examples) == 1
    again = StubVlm()
    assert go(tmp_path / "a", again, groups).answers == 6
    assert {shown for shown, _ in again.asked} == bad
    assert load_answers([tmp_path / "a"]) == plain_answers(tmp_path, groups)


def test_each_ask_has_its_own_token_budget(tmp_path):
    planner, limits = Planner({"greedy": True, "max_new_tokens": 8}, "f"), {}

    class Limited(StubVlm):
        def answer(self, encoded, asks):
            limits.update({a.prompt: a.max_new_tokens for a in asks})
            return super().answer(encoded, asks)

    planner.add(Shown("sha 0", "0"), PROMPTS[0])
    planner.add(Shown("sha 0", "0"), PROMPTS[1], max_new_tokens=3)
    planner.add(None, PROMPTS[2], max_new_tokens=1)
    assert go(tmp_path / "a", Limited(), planner.groups(0)).answers == 3
    assert [limits[prompt] for prompt in PROMPTS] == [8, 3, 1]


def test_a_prompt_that_the_model_cannot_take_costs_the_other_prompts_of_its_image_one_launch_at_most(tmp_path, groups):
    vlm = StubVlm(trouble=failing(named(groups, 2), ValueError("too long"), only=PROMPTS[:1]))
    assert go(tmp_path / "a", vlm, groups).errors == 3
    tally = go(tmp_path / "a", vlm, groups)
    assert (tally.answers, tally.errors) == (2, 1)
    (left,) = (r for r in load_answers([tmp_path / "a"]).values() if r.error)
    assert left.prompt == PROMPTS[0]


def test_a_model_that_fails_three_times_in_a_row_stops_the_run_and_what_was_answered_stays(tmp_path, groups):
    bad = named(groups, *range(3, IMAGES))
    with pytest.raises(RunStopped, match=rf"failed on {GIVE_UP} images in a row: RuntimeError: broken"):
        go(tmp_path / "a", StubVlm(trouble=failing(bad, RuntimeError("broken"))), groups)
    records = load_answers([tmp_path / "a"]).values()
    assert sum(r.error is not None for r in records) == 3 * GIVE_UP
    assert sum(r.error is None for r in records) >= 9
    go(tmp_path / "a", StubVlm(), groups)
    assert load_answers([tmp_path / "a"]) == plain_answers(tmp_path, groups)


def test_two_failures_in_a_row_or_three_different_ones_do_not_stop_a_run(tmp_path, groups):
    assert go(tmp_path / "a", StubVlm(trouble=failing(named(groups, 0, 1, 3, 4), OSError("x"))), groups).errors == 12

    def changing(shown, _):
        raise RuntimeError(shown)

    assert go(tmp_path / "b", StubVlm(trouble=changing), groups).answers == 0


def test_images_that_no_launch_can_answer_do_not_keep_the_others_from_being_asked(tmp_path, groups):
    hopeless = StubVlm(trouble=failing(named(groups, 0, 1, 2), RuntimeError("too large")))
    with pytest.raises(RunStopped):
        go(tmp_path / "a", hopeless, groups)
    tally = go(tmp_path / "a", hopeless, groups)
    assert (tally.answers, tally.errors) == (3 * (IMAGES - 2), 9)


@pytest.mark.parametrize("error", [DataError("image 3: damaged"), struct.error("unpack requires 4 bytes")])
def test_images_that_cannot_be_opened_are_error_records_and_the_others_go_on(tmp_path, groups, error):
    def broken(shown):
        if int(shown.name) < 5:
            raise error
        return load(shown)

    vlm = StubVlm()
    tally = go(tmp_path / "a", vlm, groups, broken)
    assert (tally.answers, tally.errors) == (3 * (IMAGES - 5) + 3, 15)
    failed = [r for r in load_answers([tmp_path / "a"]).values() if r.error]
    assert {r.error for r in failed} == {
        str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
    }
    assert {r.image for r in failed} == set("01234")
    go(tmp_path / "a", vlm, groups)
    assert load_answers([tmp_path / "a"]) == plain_answers(tmp_path, groups)


def test_an_interrupt_keeps_every_finished_group_and_the_next_launch_asks_only_the_rest(tmp_path, groups):
    calls = []

    def interrupt(shown, prompt):
        calls.append(prompt)
        if len(calls) == 3 * 4 + 2:
            raise KeyboardInterrupt

    first, second = StubVlm(trouble=interrupt), StubVlm()
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "a", first, groups)
    assert len(load_answers([tmp_path / "a"])) == 12
    go(tmp_path / "a", second, groups)
    assert set(first.asked[:12]).isdisjoint(second.asked)
    assert len(second.asked) == 3 * (IMAGES + 1) - 12
    assert load_answers([tmp_path / "a"]) == plain_answers(tmp_path, groups)


def test_prefetching_keeps_the_order_and_hands_exceptions_over():
    def double(n):
        if n % 5 == 0:
            raise ValueError(n)
        return 2 * n

    got = [(n, str(r)) for n, r in prefetch(range(20), double, 3)]
    assert got == [(n, str(n if n % 5 == 0 else 2 * n)) for n in range(20)]


def test_no_more_images_are_decoded_than_asked_for_ahead():
    begun = []
    stream = prefetch(range(100), begun.append, 3)
    next(stream)
    stream.close()
    assert len(begun) <= 4
