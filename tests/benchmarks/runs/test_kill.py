"""SIGKILL at any moment costs the image group in flight and nothing else."""

import os
import random
import signal
import time

import pytest

from tests.benchmarks.runs.launch import answers, asked, finish, pope, start
from tests.benchmarks.runs.stub import make_data

KILLS = 20
IMAGES = 120
CONTROLS = ("--control", "blind", "--control", "blank")


def wait_for_asks(log, count, process):
    while process.poll() is None and len(asked(log)) < count:
        time.sleep(0.002)


def torn_commit(draw, data, out, log):
    """Dies by its own hand when part of a commit is on disk."""
    spec = f"{draw.randint(1, 3)} {draw.random():.3f}"
    process = start(data, out, log, *CONTROLS, STUB_DELAY=0.03, STUB_TORN=spec)
    process.wait(60)
    return process


def killed_at_progress(draw, data, out, log):
    """Dies when it has asked about so many more images, or a moment later."""
    process = start(data, out, log, *CONTROLS, STUB_DELAY=0.03)
    wait_for_asks(log, len(asked(log)) + 9 * draw.randint(1, 3), process)
    time.sleep(draw.choice([0, draw.uniform(0, 0.06)]))
    process.kill()
    return process


def killed_by_the_clock(draw, data, out, log):
    """Dies somewhere between its start and its first few images."""
    process = start(data, out, log, *CONTROLS, STUB_DELAY=0.03)
    time.sleep(draw.uniform(0, 0.8))
    process.kill()
    return process


@pytest.mark.slow
def test_killed_at_twenty_points_and_resumed_the_scores_are_the_same_bytes_and_nothing_is_asked_again(tmp_path):
    data = make_data(tmp_path / "data", IMAGES)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    uninterrupted = pope(data, whole, tmp_path / "whole.log", *CONTROLS)
    assert uninterrupted.returncode == 0, uninterrupted.stderr

    draw, log = random.Random(20), tmp_path / "cut.log"
    ways = [torn_commit] * 7 + [killed_at_progress] * 7 + [killed_by_the_clock] * 6
    assert len(ways) == KILLS
    draw.shuffle(ways)
    lost = []
    for way in ways:
        before = answers(cut) if cut.exists() else {}
        process = way(draw, data, cut, log)
        finish(process)
        assert process.returncode == -signal.SIGKILL, f"{way.__name__} came too late: the run had ended"
        kept = answers(cut) if cut.exists() else {}
        assert before.items() <= kept.items()
        mine = [(image, prompt) for owner, image, prompt in asked(log) if owner == process.pid]
        # What the process asked and what is on disk differ by the last image at most.
        lost.append({p for i, p in enumerate(mine) if i >= len(kept) - len(before)})
        assert len({image for image, _ in lost[-1]}) <= 1
    last = pope(data, cut, log, *CONTROLS)
    assert last.returncode == 0, last.stderr

    assert (cut / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()
    assert answers(cut) == answers(whole)
    times = {}
    for _, image, prompt in asked(log):
        times[image, prompt] = times.get((image, prompt), 0) + 1
    assert set(times) == {(image, prompt) for _, image, prompt in asked(tmp_path / "whole.log")}
    for ask, count in times.items():
        assert count == 1 + sum(ask in group for group in lost), ask
    assert sum(map(bool, lost)) >= 7, "the kills hit no group in flight"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_stop_says_what_is_kept_and_how_to_go_on(tmp_path, number):
    data = make_data(tmp_path / "data", 30)
    out, log = tmp_path / "run", tmp_path / "log"
    process = start(data, out, log, STUB_DELAY=0.05)
    wait_for_asks(log, 20, process)
    os.kill(process.pid, number)
    stopped = finish(process)
    assert stopped.returncode == 130
    kept = len(answers(out))
    assert kept
    assert f"interrupted: {kept} answers are safe in {out}; the same command goes on from there" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    again = pope(data, out, log)
    assert again.returncode == 0
    assert f"{kept} answered before" in again.stderr
