"""Two processes train what one does, also where one of them has no region, no image, or bad data."""

import multiprocessing
import os
import socket
import traceback

import pytest
import torch
from safetensors.torch import load_file

from agevlm.errors import DataError
from tests.train.toys import Recorder, Toys, checkpoint, stage
from train.loop import run_stage
from train.spec import Guidance, Regions


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("base") / "model")


def one_process(rank, port, queue, spec, sources, resume=False):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    from accelerate.state import AcceleratorState, GradientState, PartialState

    # Left by other tests of the process that this one is a copy of.
    for shared in (AcceleratorState, GradientState, PartialState):
        shared._shared_state.clear()
    recorder = Recorder()
    try:
        run_stage(spec, sources, trackers=[recorder], resume=resume)
        queue.put((rank, recorder.rows, None))
    except Exception as error:
        queue.put((rank, recorder.rows, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))


def two_processes(spec, sources):
    """Rows of the first process, and each one's error."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=one_process, args=(rank, port, queue, spec, sources)) for rank in (0, 1)]
    for child in children:
        child.start()
    try:
        found = sorted(queue.get(timeout=120) for _ in children)
    finally:
        for child in children:
            child.join(timeout=20)
            child.kill()
    assert found[1][1] == {}  # trackers belong to the first process
    return found[0][1], [error for _, _, error in found]


CASES = {
    "regions here and there": {"regions": Regions(share=0.3)},
    "accumulation": {"micro_batch_size": 2},
    "checkpointing": {"gradient_checkpointing": True},
}


@pytest.mark.parametrize("case", CASES)
def test_two_train_what_one_does(base, tmp_path, case):
    recorder = Recorder()
    spec = stage(base, tmp_path / "one", log_every=1, **CASES[case])
    one = run_stage(spec, [Toys()], trackers=[recorder])
    rows, errors = two_processes(stage(base, tmp_path / "two", log_every=1, **CASES[case]), [Toys()])
    assert errors == [None, None], errors
    for step, row in recorder.rows.items():
        assert rows[step] == pytest.approx(row, rel=1e-4, abs=1e-6)
    alone, together = (load_file(folder / "model/model.safetensors") for folder in (one.out, tmp_path / "two"))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=5e-5)


def test_a_process_without_regions_or_images_waits_for_no_one(base, tmp_path):
    """One sample each: mostly only one of the two has any region, now and then none has, or no image."""
    settings = {
        "batch_size": 2,
        "micro_batch_size": 1,
        "steps": 12,
        "log_every": 1,
        "guidance": Guidance(),
        "regions": Regions(share=0.3),
    }
    recorder = Recorder()
    run_stage(
        stage(base, tmp_path / "one", **settings | {"micro_batch_size": 2}), [Toys(text_only=2)], trackers=[recorder]
    )
    assert {row["phrases"] > 0 for row in recorder.rows.values()} == {True, False}
    rows, errors = two_processes(stage(base, tmp_path / "two", **settings), [Toys(text_only=2)])
    assert errors == [None, None], errors
    for step, row in recorder.rows.items():
        for name in ("loss/text", "loss/guidance", "grad_norm", "phrases"):
            assert rows[step].get(name, -1.0) == pytest.approx(row.get(name, -1.0), rel=2e-3)


def test_bad_data_on_one_process_stop_both(base, tmp_path):
    _, errors = two_processes(stage(base, tmp_path / "run"), [Toys(23, broken={20: DataError("the folder is gone")})])
    assert sum("DataError: the folder is gone" in error for error in errors) == 1
    assert sum("another process met data" in error for error in errors) == 1


def test_a_refusal_reaches_both(base, tmp_path):
    _, errors = two_processes(stage(base, tmp_path / "run", follows=(3,)), [Toys()])
    assert all("starts from stage 3's checkpoint" in error for error in errors)
