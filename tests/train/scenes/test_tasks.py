"""Tasks in processes of their own: in order, once, and none left running when one fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agevlm.errors import TrainError
from train.scenes import tasks as module
from train.scenes.tasks import TAIL, Task, run_tasks

# Writes when it began and ended, waits, and makes its folder appear at the end.
WORK = """
import pathlib, sys, time
name, out, wait, end = sys.argv[1], pathlib.Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
with open(out / "events", "a") as events:
    print("begin", name, file=events)
print(*(f"line {i} of {name}" for i in range(30)), sep="\\n", flush=True)
time.sleep(wait)
if end:
    sys.exit(end)
(out / name).mkdir()
with open(out / "events", "a") as events:
    print("end", name, file=events)
"""


@pytest.fixture
def task(tmp_path):
    def make(name, needs=(), wait=0.0, end=0, **more):
        command = ("-S", "-c", WORK, name, str(tmp_path), str(wait), str(end))
        return Task(name, command, tmp_path / name, tuple(needs), **more)

    return make


@pytest.fixture
def run(tmp_path):
    said = []

    def go(*tasks, workers=2):
        said.clear()
        run_tasks(tasks, tmp_path / "logs", workers, said.append)
        return said

    return go


@pytest.fixture
def events(tmp_path):
    def read():
        path = tmp_path / "events"
        return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []

    return read


def test_needs_are_done_before_whatever_order_they_are_given_in(task, run, events):
    run(task("d", ["b", "c"]), task("b", ["a"]), task("c", ["a"]), task("a"))
    order = events()
    for before, after in (("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")):
        assert order.index(("end", before)) < order.index(("begin", after))
    assert len(order) == 8


def test_as_many_run_at_once_as_there_are_workers(task, run, events):
    run(task("a", wait=0.6), task("b", wait=0.6), task("c"), workers=2)
    order = events()
    assert {order[0], order[1]} == {("begin", "a"), ("begin", "b")}
    assert order.index(("begin", "c")) > min(order.index(("end", "a")), order.index(("end", "b")))


def test_with_one_worker_they_run_one_after_the_other(task, run, events):
    run(task("a"), task("b"), workers=1)
    assert events() == [("begin", "a"), ("end", "a"), ("begin", "b"), ("end", "b")]


def test_what_is_done_is_not_done_again(task, run, events, tmp_path):
    (tmp_path / "a").mkdir()
    said = run(task("a"), task("b", ["a"]))
    assert events() == [("begin", "b"), ("end", "b")]
    assert said[0] == "1 of 2 tasks were done before"
    assert run(task("a"), task("b", ["a"])) == ["2 of 2 tasks were done before"]
    assert len(events()) == 2


def test_what_was_started_goes_on_with_its_other_command(task, run, tmp_path):
    again = ("-S", "-c", f"import pathlib; pathlib.Path({str(tmp_path / 'a')!r}).write_text('again')")
    started = tmp_path / "stage.yaml"
    started.touch()
    run(task("a", again=again, started=started))
    assert (tmp_path / "a").read_text() == "again"
    run(task("b", again=again, started=tmp_path / "other.yaml"))
    assert (tmp_path / "b").is_dir()


def test_a_failure_shows_the_end_of_its_log_and_stops_the_others(task, run, events, tmp_path):
    since = time.monotonic()
    with pytest.raises(TrainError) as error:
        run(task("slow", wait=60), task("bad", wait=0.3, end=3), task("after", ["bad"]))
    assert time.monotonic() - since < 30
    message = str(error.value)
    assert "bad ended with code 3" in message
    shown = [line for line in message.splitlines() if line.startswith("line ")]
    assert shown == [f"line {i} of bad" for i in range(30 - TAIL, 30)]
    assert str(tmp_path / "logs" / "bad.log") in message
    assert ("begin", "after") not in events()
    assert ("end", "slow") not in events()
    assert not (tmp_path / "slow").exists()
    # The same call goes on.
    run(task("slow"), task("bad"), task("after", ["bad"]))
    assert {name for what, name in events() if what == "end"} == {"slow", "bad", "after"}


def test_a_task_that_makes_nothing_has_failed(task, run, tmp_path):
    with pytest.raises(TrainError, match=r"a left no .*/elsewhere"):
        run(Task("a", task("a").command, tmp_path / "elsewhere"))


def test_logs_grow_and_are_named_without_slashes(tmp_path, run):
    one = Task("arm/seed-0/1", ("-S", "-c", f"open({str(tmp_path / 'x')!r}, 'w'); print('hello')"), tmp_path / "x")
    run(one)
    (tmp_path / "x").unlink()
    run(one)
    assert (tmp_path / "logs" / "arm-seed-0-1.log").read_text() == "hello\nhello\n"


def test_a_need_that_nothing_makes_is_named(task, run):
    with pytest.raises(TrainError, match=r"b waits for what nothing makes: nowhere"):
        run(task("a"), task("b", ["a", "nowhere"]))


def test_a_task_that_waits_for_a_stuck_one_is_not_blamed(task, run):
    with pytest.raises(TrainError, match=r"b waits for what nothing makes: nowhere"):
        run(task("c", ["b"]), task("b", ["nowhere"]))


def test_needs_in_a_circle_are_told(task, run, events):
    with pytest.raises(TrainError, match=r"a, b: each waits for another"):
        run(task("a", ["b"]), task("b", ["a"]))
    assert events() == []


def test_children_have_one_thread(tmp_path, run):
    code = f"import os; open({str(tmp_path / 'x')!r}, 'w').write(os.environ['OMP_NUM_THREADS'])"
    run(Task("x", ("-S", "-c", code), tmp_path / "x"))
    assert (tmp_path / "x").read_text() == "1"


STUBBORN = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(120)
"""
PARENT = """
import signal
import sys
# Where tests run in the background the interrupt is ignored from the start.
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from train.scenes.tasks import Task, run_tasks
root = Path(sys.argv[1])
child = Task("child", ("-S", "-c", sys.argv[2], str(root / "pid")), root / "never")
try:
    run_tasks([child], root / "logs", 1, print)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_an_interruption_stops_the_children_first(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])}
    arguments = [sys.executable, "-c", PARENT, str(tmp_path), STUBBORN]
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < until:
            time.sleep(0.05)
        child = int((tmp_path / "pid").read_text())
        os.kill(child, 0)
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 130
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_folder_that_cannot_be_made_is_refused(task, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainError, match=r"file/logs: cannot be written: .*give another --out"):
        run_tasks([task("a")], tmp_path / "file" / "logs", 1, print)
