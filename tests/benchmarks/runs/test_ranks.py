"""Several processes on one run, as torchrun and `accelerate launch` start them, on the CPU by gloo."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.benchmarks.runs.launch import (
    OPTIONS,
    ROOT,
    answers,
    asked,
    command_here,
    environment,
    finish,
    pope,
    pope_here,
)
from tests.benchmarks.runs.stub import make_data
from tests.benchmarks.runs.test_real_model import EVAL, arguments

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

BOUND = 60
"""Seconds within which a launch must end once one of its processes has."""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def launch(command, **settings):
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, command)],
        env=environment(**settings),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def torchrun(*command, **settings):
    base = ["torch.distributed.run", "--nproc-per-node", 2, "--master-port", free_port()]
    return launch([*base, *command], **settings)


def stub_run(data, out, log, delay=0.0):
    command = ["-m", "tests.benchmarks.runs.child", "pope", "--ckpt", "stub", *data.options, "--out", out, *OPTIONS]
    return torchrun(*command, STUB_LOG=log, STUB_DELAY=delay)


def ranks_in(log, count, process):
    """The processes that have asked, once there are so many, in the order of their first ask."""
    end = time.monotonic() + BOUND
    while len(pids := list(dict.fromkeys(pid for pid, *_ in asked(log)))) < count:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    return pids


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_two_processes_go_on_from_one_and_give_the_same_records_bit_for_bit(tiny_checkpoint, tmp_path):
    data = make_data(tmp_path / "data", 9, size=(60, 44))
    one, two, fresh = (tmp_path / n for n in ("one", "two", "fresh"))
    assert command_here(*arguments(tiny_checkpoint, data, one)).returncode == 0
    assert command_here(*arguments(tiny_checkpoint, data, two), "--limit", "3").returncode == 0
    begun = (two / "answers-00000.jsonl").stat().st_size

    resumed = finish(torchrun("--no-python", EVAL, *arguments(tiny_checkpoint, data, two)))
    assert resumed.returncode == 0, resumed.stderr
    assert (two / "answers-00000.jsonl").stat().st_size > begun
    assert (two / "answers-00001.jsonl").stat().st_size > 0

    accelerate = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--num_machines", 1]
    accelerate += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", free_port()]
    launched = finish(launch([*accelerate, "--no_python", EVAL, *arguments(tiny_checkpoint, data, fresh)]))
    assert launched.returncode == 0, launched.stderr
    assert len(list(fresh.glob("answers-*.jsonl"))) == 2

    for out in (two, fresh):
        assert answers(out) == answers(one)
        assert (out / "scores.json").read_bytes() == (one / "scores.json").read_bytes()


def test_when_a_process_dies_the_other_does_not_wait_for_it_and_one_process_can_finish_the_run(tmp_path):
    data = make_data(tmp_path / "data", 60)
    whole, cut, log = tmp_path / "whole", tmp_path / "cut", tmp_path / "log"
    assert pope_here(data, whole, tmp_path / "whole.log").returncode == 0
    running = stub_run(data, cut, log, delay=0.1)
    ranks = ranks_in(log, 2, running)
    refused = pope(data, cut, tmp_path / "second.log")
    assert refused.returncode == 2
    assert "is in use by process" in refused.stderr
    os.kill(ranks[1], signal.SIGKILL)
    _, said = running.communicate(timeout=BOUND)
    assert "another process of this launch has ended" in said or "the same command goes on from there" in said
    assert running.returncode not in (0, None)
    assert all(map(gone, ranks))

    kept = answers(cut)
    assert 0 < len(kept) < len(answers(whole))
    assert pope_here(data, cut, log).returncode == 0
    assert answers(cut) == answers(whole)
    assert (cut / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()
    images = {pid: {image for owner, image, _ in asked(log) if owner == pid} for pid in (*ranks, os.getpid())}
    assert images[ranks[0]].isdisjoint(images[ranks[1]]), "two processes were asked about one image"
    assert len(images[os.getpid()] & (images[ranks[0]] | images[ranks[1]])) <= 2


def test_a_survivor_of_a_killed_launch_keeps_the_folder_closed_until_it_is_gone(tmp_path):
    data = make_data(tmp_path / "data", 60)
    out, log = tmp_path / "run", tmp_path / "log"
    running = stub_run(data, out, log, delay=0.3)
    ranks = ranks_in(log, 2, running)
    os.kill(running.pid, signal.SIGKILL)
    owner = int((out / "lock").read_text().split()[1])
    survivor = next(pid for pid in ranks if pid != owner)
    os.kill(owner, signal.SIGKILL)
    running.wait()
    # A killed process holds its locks for a moment more.
    with (out / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    second = pope_here(data, out, tmp_path / "second.log")
    assert second.returncode == 2
    assert "another process is writing it" in second.stderr
    os.kill(survivor, signal.SIGKILL)
    running.communicate()  # ends when the last process has closed its output
    assert pope_here(data, out, log).returncode == 0


def test_a_refusal_reaches_every_process(tmp_path):
    data = make_data(tmp_path / "data", 2)
    (tmp_path / "file").write_text("")
    refused = finish(stub_run(data, tmp_path / "file", tmp_path / "log"))
    assert refused.returncode != 0
    assert "cannot be used" in refused.stderr
    assert not asked(tmp_path / "log")
