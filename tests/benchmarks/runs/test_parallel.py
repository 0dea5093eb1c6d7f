"""The run loop with many groups under way at a time."""

import threading

import pytest

from agevlm.errors import EndpointError, RunFolderError
from benchmarks.plan import Planner, Shown, remaining
from benchmarks.records import AnswerWriter, load_answers, read_commits
from benchmarks.run import GIVE_UP, RunStopped, run_groups
from tests.benchmarks.runs.stub import StubVlm, digest, picture

IMAGES, PROMPTS, WIDTH = 48, ("Is there a dog?", "Is there a cat?", "Is there a bus?"), 6


class WideVlm(StubVlm):
    """Groups in several threads; knows how many are under way.

    Args:
        together: the first so many groups wait for each other.
    """

    parallel_groups = WIDTH

    def __init__(self, *, together=0, **settings):
        super().__init__(**settings)
        self.together, self.barrier = together, threading.Barrier(max(together, 1))
        self.lock, self.calls, self.under_way, self.most, self.threads = threading.Lock(), 0, 0, 0, set()

    def answer(self, encoded, asks):
        with self.lock:
            self.calls += 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            self.threads.add(threading.get_ident())
            waits = self.calls <= self.together
        try:
            if waits:
                self.barrier.wait(30)
            return super().answer(encoded, asks)
        finally:
            with self.lock:
                self.under_way -= 1


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


def go(path, vlm, groups, advance=lambda *_: None, load=load):
    left = remaining(groups, load_answers([path]) if path.exists() else {})
    writer = AnswerWriter(path)
    try:
        return run_groups(vlm, left, load, writer, advance)
    finally:
        writer.close()


def plain_answers(tmp_path, groups):
    go(tmp_path / "plain", StubVlm(), groups)
    return load_answers([tmp_path / "plain"])


def test_as_many_groups_as_the_model_says_are_under_way_and_the_answers_are_those_of_one_at_a_time(tmp_path, groups):
    vlm, committers = WideVlm(together=WIDTH), set()
    tally = go(tmp_path / "a", vlm, groups, lambda *_: committers.add(threading.get_ident()))
    assert (tally.groups, tally.answers, tally.errors) == (IMAGES + 1, 3 * (IMAGES + 1), 0)
    assert vlm.most == WIDTH
    assert committers == {threading.get_ident()}
    assert threading.get_ident() not in vlm.threads
    assert load_answers([tmp_path / "a"]) == plain_answers(tmp_path, groups)
    assert len(vlm.asked) == len(set(vlm.asked)) == 3 * (IMAGES + 1)
    for records, _ in read_commits(tmp_path / "a"):
        assert len({r.image for r in records}) == 1
        assert len(records) == len(PROMPTS)


def test_one_at_a_time_nothing_leaves_the_calling_thread(tmp_path, groups):
    vlm = WideVlm()
    vlm.parallel_groups = 1
    go(tmp_path / "a", vlm, groups)
    assert vlm.threads == {threading.get_ident()}
    assert vlm.asked == [(None if g.shown is None else digest(load(g.shown)), a.prompt) for g in groups for a in g.asks]


def test_a_slow_group_keeps_no_finished_one_from_the_disk(tmp_path, groups):
    slow, release = digest(load(next(g.shown for g in groups if g.shown))), threading.Event()

    def trouble(shown, _):
        if shown == slow:
            assert release.wait(30)

    def advance(group, tally):
        if tally.groups == IMAGES:
            # All others are on disk while the first of all is still being answered.
            assert len(load_answers([tmp_path / "a"])) == 3 * IMAGES
            release.set()

    tally = go(tmp_path / "a", WideVlm(trouble=trouble), groups, advance)
    assert (tally.groups, tally.errors) == (IMAGES + 1, 0)


def test_a_model_that_goes_on_failing_stops_the_run_and_what_was_under_way_is_kept(tmp_path, groups):
    answered, lock = [], threading.Lock()

    def trouble(shown, prompt):
        with lock:
            answered.append(prompt)
            number = len(answered)
        if number > 30:
            # Of one kind, each with a number of its own.
            raise EndpointError(f"request {number} failed", "down")

    vlm = WideVlm(trouble=trouble)
    with pytest.raises(RunStopped, match=rf"failed on {GIVE_UP} images in a row: request \d+ failed. Stopped"):
        go(tmp_path / "a", vlm, groups)
    records = load_answers([tmp_path / "a"])
    assert {k for g in groups for a in g.asks if (k := a.key) in records} == set(records)
    shown = {None if r.image is None else digest(picture(int(r.image))) for r in records.values()}
    assert shown == {image for image, _ in vlm.asked}, "a group that was begun is not on disk"
    assert 30 // 3 + GIVE_UP <= len(shown) <= 30 // 3 + GIVE_UP + 2 * WIDTH
    go(tmp_path / "a", WideVlm(), groups)
    assert load_answers([tmp_path / "a"]) == plain_answers(tmp_path, groups)


def test_bad_images_far_apart_stop_nothing_though_they_fail_before_the_others_are_answered(tmp_path, groups):
    shown = [digest(load(g.shown)) for g in groups if g.shown]
    bad, refused = {shown[n] for n in (0, 2, 4)}, threading.Event()

    def trouble(picture, _):
        if picture in bad:
            raise EndpointError("HTTP 400: bad image", "HTTP 400")
        # Nothing is answered before all three refusals are on disk.
        assert refused.wait(30)

    def advance(_, tally):
        if tally.errors == 3 * len(bad):
            refused.set()

    tally = go(tmp_path / "a", WideVlm(trouble=trouble), groups, advance)
    assert (tally.groups, tally.errors) == (IMAGES + 1, 3 * len(bad))


def test_failures_next_to_each_other_stop_the_run_whatever_comes_between_them(tmp_path, groups):
    shown = [digest(load(g.shown)) for g in groups if g.shown]
    last = threading.Event()

    def trouble(picture, _):
        if picture == shown[1]:
            # The middle one of three fails when much else is answered.
            assert last.wait(30)
        if picture in shown[:3]:
            raise EndpointError("down", "down")

    def advance(_, tally):
        if tally.groups == 12:
            last.set()

    with pytest.raises(RunStopped, match="3 images in a row: down"):
        go(tmp_path / "a", WideVlm(trouble=trouble), groups, advance)
    assert 13 <= len({r.image for r in load_answers([tmp_path / "a"]).values()}) <= 12 + 2 * WIDTH


def test_failures_of_different_kinds_stop_nothing(tmp_path, groups):
    def trouble(shown, _):
        raise EndpointError("failed", f"{shown}")

    assert go(tmp_path / "a", WideVlm(trouble=trouble), groups).errors == 3 * (IMAGES + 1)


@pytest.mark.parametrize("where", ["group", "commit"])
def test_an_interrupt_keeps_what_is_on_disk_and_asks_again_at_most_what_was_under_way(tmp_path, groups, where):
    def trouble(shown, _):
        if where == "group" and len(vlm.asked) > 40:
            raise KeyboardInterrupt

    def advance(group, tally):
        if where == "commit" and tally.groups == 10:
            raise KeyboardInterrupt

    vlm, second = WideVlm(trouble=trouble), WideVlm()
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "a", vlm, groups, advance)
    kept = len(load_answers([tmp_path / "a"]))
    assert kept
    go(tmp_path / "a", second, groups)
    assert len(second.asked) == 3 * (IMAGES + 1) - kept
    assert len({image for image, _ in set(vlm.asked) & set(second.asked)}) <= WIDTH
    assert load_answers([tmp_path / "a"]) == plain_answers(tmp_path, groups)


def test_a_disk_that_is_full_ends_the_run(tmp_path, groups, monkeypatch):
    def full(*_):
        raise RunFolderError("the disk is full")

    monkeypatch.setattr(AnswerWriter, "commit", full)
    with pytest.raises(RunFolderError, match="the disk is full"):
        go(tmp_path / "a", WideVlm(), groups)


def test_images_that_cannot_be_opened_are_error_records(tmp_path, groups):
    def broken(shown):
        if int(shown.name) % 2:
            raise OSError("gone")
        return load(shown)

    tally = go(tmp_path / "a", WideVlm(), groups, load=broken)
    assert (tally.answers, tally.errors) == (3 * (IMAGES // 2 + 1), 3 * IMAGES // 2)
    go(tmp_path / "a", WideVlm(), groups)
    assert load_answers([tmp_path / "a"]) == plain_answers(tmp_path, groups)
