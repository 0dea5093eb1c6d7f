"""Every sample counted: runs killed at random points and resumed, by one process or two, with and without workers."""

import json
import multiprocessing
import os
import signal
import socket
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tests.train.processes import one_of
from tests.train.toys import Toys, checkpoint, stage
from train import loop, model
from train.data.samples import BadSample, Message, Sample
from train.mixture import SKIPPED
from train.spec import Regions, SourceSpec
from train.step import TrainingModule

STEPS = 18
BROKEN = {4: BadSample("gone", "image"), 5: Sample("mute", (Message("user", "hm"),)), 17: BadSample("no JSON")}


def sources():
    return [Toys(31, broken=BROKEN), Toys(7, "others", text_only=0)]


def record_into(path):
    """Write down, step by step, the ids that went through the model and into an update of the weights."""
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    now = {"step": -1, "ids": []}
    forward, build_optimizer, set_rates, begin = (
        TrainingModule.forward,
        model.build_optimizer,
        loop.set_rates,
        loop.begin,
    )

    def told_forward(self, batch, scales):
        now["ids"] += batch.ids
        return forward(self, batch, scales)

    def told_rates(optimizer, step, spec):
        now.update(step=step, ids=[])
        return set_rates(optimizer, step, spec)

    def told_optimizer(*arguments):
        optimizer = build_optimizer(*arguments)
        optimizer.register_step_post_hook(lambda *_: os.write(out, (json.dumps(now) + "\n").encode()) and None)
        return optimizer

    def told_begin(*arguments):
        start = begin(*arguments)
        os.write(out, (json.dumps({"start": start.step}) + "\n").encode())
        return start

    TrainingModule.forward = told_forward
    loop.set_rates, model.build_optimizer, loop.begin = told_rates, told_optimizer, told_begin


def child(rank, world, port, queue, spec, records):
    record_into(records / f"{rank}.jsonl")
    if world > 1:
        one_of(rank, world, port, queue, lambda _: loop.run_stage(spec, sources(), resume=True) and None, {})
    else:
        loop.run_stage(spec, sources(), resume=True)
        queue.put((0, {}, None))


def rows(path):
    text = path.read_text() if path.exists() else ""
    return [{"ids": [], **json.loads(line)} for line in text.splitlines()]


def launch(spec, world, records, steps=None, delay=0.0):
    """Run to the end, or kill all processes once `steps` further steps are done and some time has passed."""
    folder = records / f"{len(list(records.iterdir()))}"
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=child, args=(r, world, port, queue, spec, folder)) for r in range(world)]
    for one in children:
        one.start()
    if steps is None:
        assert [queue.get(timeout=120)[2] for _ in children] == [None] * world
    else:
        deadline = time.monotonic() + 120
        while sum("step" in row for row in rows(folder / "0.jsonl")) < steps:
            assert time.monotonic() < deadline
            assert all(one.is_alive() for one in children), "ended before it was killed"
            time.sleep(0.005)
        time.sleep(delay)
        for one in children:
            os.kill(one.pid, signal.SIGKILL)
    for one in children:
        one.join(timeout=30)
        assert (one.exitcode == -signal.SIGKILL) == (steps is not None)


def history(records):
    """How often (step, id) is in the weights at the end, where each launch began, and all that was ever done."""
    kept, starts, done = {}, [], 0
    for folder in sorted(records.iterdir(), key=lambda path: int(path.name)):
        (start,) = [row["start"] for row in rows(folder / "0.jsonl") if "start" in row]
        starts.append(start)
        # What came after the checkpoint that was gone back to is not in the weights.
        kept = {key: count for key, count in kept.items() if key[0] < start}
        found = Counter((row["step"], name) for path in folder.iterdir() for row in rows(path) for name in row["ids"])
        done += sum(found.values())
        kept = {key: kept.get(key, 0) + found[key] for key in {*kept, *found}}
    return kept, starts, done


@pytest.mark.slow
def test_killed_and_resumed_every_sample_counts_once(tmp_path):
    base = checkpoint(tmp_path / "base")
    settings = {
        "steps": STEPS,
        "save_every": 3,
        "sources": (SourceSpec("a", 3.0), SourceSpec("b", 1.0)),
        "regions": Regions(share=0.5, batch_share=0.25),
    }
    spec = stage(base, tmp_path / "whole", **settings)
    (tmp_path / "once").mkdir()
    launch(spec, 1, tmp_path / "once")
    expected, starts, _ = history(tmp_path / "once")
    assert starts == [0]
    assert sum(expected.values()) == STEPS * spec.batch_size
    assert len({step for step, _ in expected}) == STEPS
    assert {"toys/toys-6", "others/others-0"} <= {name for _, name in expected}

    draw = np.random.default_rng(0)
    again = replace(spec, out=str(tmp_path / "parts"))
    records = tmp_path / "often"
    records.mkdir()
    for world, changes in ((1, {}), (2, {"micro_batch_size": 2}), (1, {"workers": 1}), (2, {"workers": 1})):
        steps, delay = int(draw.integers(3, 5)), float(draw.uniform(0, 0.1))
        launch(replace(again, **changes), world, records, steps, delay)
    launch(again, 1, records)
    found, starts, done = history(records)
    assert len(set(starts)) > 2
    assert done > STEPS * spec.batch_size, "no step was ever done twice, so nothing is shown"
    assert found == expected
    assert (tmp_path / "parts" / SKIPPED).read_bytes() == (tmp_path / "whole" / SKIPPED).read_bytes()
    assert (tmp_path / "whole" / SKIPPED).read_text().count("\n") > 3
    counts = [json.loads((tmp_path / run / "model/training.json").read_text())["sources"] for run in ("whole", "parts")]
    assert counts[0] == counts[1]
