"""Several processes on one machine that train together, as torchrun would start them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

from tests.train.toys import Recorder
from train.loop import run_stage

GONE = "gone without a word"
LONGEST = 120.0
"""Seconds."""


def launched(call: Callable[[int], Any], count: int = 2, **environ: str) -> list[tuple[Any, str | None]]:
    """What `call(rank)` gives in each of the processes, and its error in words."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [
        context.Process(target=one_of, args=(rank, count, port, results, call, environ)) for rank in range(count)
    ]
    for child in children:
        child.start()
    found: dict[int, tuple[Any, str | None]] = {}
    started = time.monotonic()
    try:
        while len(found) < count and time.monotonic() < started + LONGEST:
            dead = [rank for rank, child in enumerate(children) if rank not in found and not child.is_alive()]
            try:
                rank, made, error = results.get(timeout=0.2)
                found[rank] = pickle.loads(made), error
            except queue.Empty:
                found |= dict.fromkeys(dead, (None, GONE))
    finally:
        for child in children:
            child.join(timeout=20)
            child.kill()
    assert len(found) == count, f"after {LONGEST} seconds {count - len(found)} processes still run"
    return [found[rank] for rank in range(count)]


def one_of(rank: int, count: int, port: int, results: Any, call: Callable[[int], Any], environ: dict[str, str]) -> None:
    """One process of a group: puts (rank, pickled result, error in words) into `results`."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **environ,
    }
    from accelerate.state import AcceleratorState, GradientState, PartialState

    # Left by other tests of the process that this one is a copy of.
    for shared in (AcceleratorState, GradientState, PartialState):
        shared._shared_state.clear()
    try:
        # Bytes: a tensor would be gone with its process.
        results.put((rank, pickle.dumps(call(rank)), None))
    except Exception as error:
        results.put((rank, pickle.dumps(None), f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))


def trained(spec: Any, sources: Any, count: int = 2, **settings: Any) -> dict[int, dict[str, float]]:
    """The rows of a stage that several processes train without an error."""
    recorder = Recorder()

    def call(rank: int) -> dict[int, dict[str, float]]:
        run_stage(spec, sources, trackers=[recorder], **settings)
        return recorder.rows

    if count == 1:
        return call(0)
    found = launched(call, count)
    assert [error for _, error in found] == [None] * count, found
    assert all(rows == {} for rows, _ in found[1:])  # trackers belong to the first process
    rows: dict[int, dict[str, float]] = found[0][0]
    return rows


def failing(call: Callable[[int], Any], count: int = 2, **environ: str) -> list[str]:
    """How each process fails."""
    found = launched(call, count, **environ)
    assert all(error for _, error in found), found
    return [str(error) for _, error in found]
