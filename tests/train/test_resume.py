"""Training checkpoints: going on as if nothing had happened, kills at any moment, full disks, refusals, export."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from agevlm.errors import TrainError
from agevlm.model import AgeVlmForConditionalGeneration
from tests.train.toys import Recorder, Stop, Toys, checkpoint, stage, stopping_after
from train import state
from train.folder import Lock
from train.loop import run_stage
from train.spec import ParameterGroup
from train.weights import export_checkpoint


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("base") / "model")


def same(one, other):
    one, other = load_file(one), load_file(other)
    return one.keys() == other.keys() and all(torch.equal(w, other[name]) for name, w in one.items())


@pytest.mark.parametrize("stopped", [1, 3, 4])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(base, tmp_path, stopped):
    whole, parts = Recorder(), Recorder()
    run_stage(stage(base, tmp_path / "whole", steps=6, save_every=2, log_every=3, keep=9), [Toys()], trackers=[whole])
    spec = stage(base, tmp_path / "parts", steps=6, save_every=2, log_every=3, keep=9)
    with pytest.raises(Stop):
        run_stage(spec, [Toys()], trackers=[parts], progress=stopping_after(stopped))
    resumed = run_stage(spec, [Toys()], trackers=[parts], resume=True)
    assert parts.begun == [0, {1: 0, 3: 2, 4: 2}[stopped]]
    assert parts.rows == whole.rows
    assert same(tmp_path / "whole/model/model.safetensors", resumed.model / "model.safetensors")
    for step in (2, 4, 6):
        assert same(
            *(tmp_path / run / f"checkpoints/step-{step:08d}/trainable.safetensors" for run in ("whole", "parts"))
        )
    ends = [
        torch.load(tmp_path / run / "checkpoints/step-00000006/optimizer.pt", weights_only=True)
        for run in ("whole", "parts")
    ]
    for number, moments in ends[0]["optimizer"]["state"].items():
        for name, moment in moments.items():
            assert torch.equal(moment, ends[1]["optimizer"]["state"][number][name])
    assert json.loads((tmp_path / "whole/model/training.json").read_text()) == json.loads(
        (resumed.model / "training.json").read_text()
    )


def test_a_finished_stage_is_left_alone_and_can_be_extended(base, tmp_path):
    spec = stage(base, tmp_path / "run", steps=2, keep=1)
    first = run_stage(spec, [Toys()])
    toys, recorder = Toys(), Recorder()
    again = run_stage(spec, [toys], resume=True, trackers=[recorder])
    assert (again.model, again.steps, again.metrics, toys.drawn, recorder.begun) == (first.model, 2, {}, [], [])
    assert recorder.closed == 1
    longer = run_stage(replace(spec, steps=4, micro_batch_size=8), [Toys()], resume=True, trackers=[recorder])
    assert recorder.begun == [2]
    assert json.loads((longer.model / "training.json").read_text())["steps"] == 4
    assert list(state.checkpoints(tmp_path / "run")) == [4]
    with pytest.raises(TrainError, match="4 steps are done, more"):
        run_stage(spec, [Toys()], resume=True)
    # The model alone is kept: it is finished all the same, but cannot be extended.
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    finished = replace(spec, steps=4)
    assert run_stage(finished, [Toys()], resume=True).metrics == {}
    with pytest.raises(TrainError, match="checkpoint to go on from is gone"):
        run_stage(replace(spec, steps=5), [Toys()], resume=True)


def test_what_failed_before_its_first_checkpoint_may_begin_anew_and_differently(base, tmp_path):
    out = tmp_path / "run"
    wrong = {"adapter": ParameterGroup(("model.adaptor",), 1e-3)}
    with pytest.raises(TrainError, match=r"model\.adaptor"):
        run_stage(stage(base, out, steps=2, trainable=wrong), [Toys()])
    assert (out / "run.json").exists()
    with pytest.raises(Stop):
        run_stage(stage(base, out, steps=2), [Toys()], progress=stopping_after(1))
    recorder = Recorder()
    done = run_stage(stage(base, out, steps=3, seed=5), [Toys()], trackers=[recorder])
    assert (done.steps, recorder.begun) == (3, [0])
    straight = run_stage(stage(base, tmp_path / "straight", steps=3, seed=5), [Toys()])
    assert load_file(done.model / "model.safetensors").keys() == load_file(straight.model / "model.safetensors").keys()
    for name, weight in load_file(straight.model / "model.safetensors").items():
        assert torch.equal(load_file(done.model / "model.safetensors")[name], weight), name


def test_runs_are_not_mixed_up(base, tmp_path):
    spec = stage(base, tmp_path / "run", steps=4, save_every=1)
    with pytest.raises(Stop):
        run_stage(spec, [Toys()], progress=stopping_after(2))
    with pytest.raises(TrainError, match=f"an unfinished run; go on with it by agevlm-train resume {tmp_path}/run"):
        run_stage(spec, [Toys()])
    with pytest.raises(TrainError, match="seed was 0, is 1"):
        run_stage(replace(spec, seed=1), [Toys()], resume=True)
    with pytest.raises(TrainError, match=r"data of source toys were 23 samples .* are 24"):
        run_stage(spec, [Toys(24)], resume=True)
    shutil.copytree(base, tmp_path / "other")
    run_stage(
        replace(spec, init_from=str(tmp_path / "other"), log_every=1), [Toys()], resume=True
    )  # the same by content
    with pytest.raises(TrainError, match="a finished run"):
        run_stage(spec, [Toys()])
    config = tmp_path / "other" / "generation_config.json"
    config.write_text(config.read_text().replace("{", '{"max_length": 7,', 1))
    with pytest.raises(TrainError, match="the checkpoint it starts from is another"):
        run_stage(replace(spec, init_from=str(tmp_path / "other")), [Toys()], resume=True)


def test_a_folder_has_one_owner(base, tmp_path):
    lock = Lock(tmp_path / "run")
    with pytest.raises(TrainError, match=f"in use by process {os.getpid()}"):
        run_stage(stage(base, tmp_path / "run", steps=1), [Toys()])
    lock.release()
    assert run_stage(stage(base, tmp_path / "run", steps=1), [Toys()], resume=True).steps == 1


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(base, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(TrainError, match=f"run folder {out}: .*give another --out"):
            run_stage(stage(base, out, steps=1), [Toys()])


def test_what_killed_writers_left_is_ignored_and_removed(base, tmp_path):
    spec = stage(base, tmp_path / "run", steps=3, save_every=1, keep=2)
    with pytest.raises(Stop):
        run_stage(spec, [Toys()], progress=stopping_after(3))
    folder = tmp_path / "run" / "checkpoints"
    (folder / ".step-00000007.unfinished-1").mkdir()
    (tmp_path / "run" / ".model.unfinished-1").mkdir()
    assert state.latest(tmp_path / "run") == folder / "step-00000002"
    run_stage(spec, [Toys()], resume=True)
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000002", "step-00000003"]
    assert not list((tmp_path / "run").glob(".*unfinished*"))


@pytest.fixture
def full_disk(monkeypatch):
    def fill(how):
        if how == "known before":
            monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
        elif how == "while weights are written":

            def fail(*args, **kwargs):
                raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

            monkeypatch.setattr(state, "save_file", fail)
        else:

            def fail(*args, **kwargs):
                raise RuntimeError(
                    "[enforce fail at inline_container.cc:743] . PytorchStreamWriter failed writing file"
                )

            monkeypatch.setattr(torch, "save", fail)

    return fill


@pytest.mark.parametrize("how", ["known before", "while weights are written", "while the optimiser is written"])
def test_a_full_disk_leaves_the_last_checkpoint(base, tmp_path, full_disk, how, monkeypatch):
    spec = stage(base, tmp_path / "run", steps=4, save_every=2)

    def progress(done, total):
        if done == 3:
            full_disk(how)

    with pytest.raises(OSError, match="step-00000004") as caught:
        run_stage(spec, [Toys()], progress=progress)
    assert caught.value.errno == errno.ENOSPC
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000002"]
    monkeypatch.undo()
    assert run_stage(spec, [Toys()], resume=True).steps == 4


def test_a_damaged_checkpoint_is_named(base, tmp_path):
    spec = stage(base, tmp_path / "run", steps=4, save_every=2)
    with pytest.raises(Stop):
        run_stage(spec, [Toys()], progress=stopping_after(3))
    weights = tmp_path / "run/checkpoints/step-00000002/trainable.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(TrainError, match=r"step-00000002: cannot be read .* remove this folder"):
        run_stage(spec, [Toys()], resume=True)


def test_optimiser_states_run_no_code(base, tmp_path):
    import pickle

    spec = stage(base, tmp_path / "run", steps=4, save_every=2)
    with pytest.raises(Stop):
        run_stage(spec, [Toys()], progress=stopping_after(3))

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "run/checkpoints/step-00000002/optimizer.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(TrainError, match="cannot be read"):
        run_stage(spec, [Toys()], resume=True)
    assert not (tmp_path / "ran").exists()


def saving(out):
    """Checkpoints without end."""
    weights = {f"w{i}": torch.nn.Parameter(torch.full((300, 300), float(i))) for i in range(5)}
    optimizer = torch.optim.AdamW(weights.values())
    for weight in weights.values():
        weight.grad = torch.ones_like(weight)
    found = state.latest(out)
    step = 0
    if found is not None:
        state.restore(found, weights, optimizer)
        step = state.read_state(found)["step"]
    while True:
        step += 1
        optimizer.step()
        state.save(out, step, weights, optimizer, {}, keep=2)


def killed(target, delay, *arguments):
    """Run in a child and kill it without warning."""
    child = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    child.start()
    time.sleep(delay)
    os.kill(child.pid, signal.SIGKILL)
    child.join()


def test_kills_while_checkpoints_are_written(tmp_path):
    draw = np.random.default_rng(0)
    steps = []
    for _ in range(14):
        killed(saving, 0.05 + 0.2 * draw.random(), tmp_path)
        found = state.latest(tmp_path)
        if found is None:
            continue
        step = state.read_state(found)["step"]
        weights = {f"w{i}": torch.nn.Parameter(torch.zeros(300, 300)) for i in range(5)}
        optimizer = torch.optim.AdamW(weights.values())
        state.restore(found, weights, optimizer)
        assert all(float(held["step"]) == step for held in optimizer.state_dict()["state"].values())
        steps.append(step)
    assert len(steps) > 7
    assert steps == sorted(steps)
    state.clean(tmp_path)
    assert len(list((tmp_path / "checkpoints").iterdir())) <= 3


@pytest.mark.slow
def test_a_killed_stage_goes_on(base, tmp_path):
    spec = stage(base, tmp_path / "run", steps=12, save_every=1, log_every=1)
    for delay in (0.6, 0.9, 1.3):
        killed(lambda: run_stage(spec, [Toys()], resume=True), delay)
    assert state.latest(tmp_path / "run") is not None
    done = run_stage(spec, [Toys()], resume=True)
    whole = run_stage(replace(spec, out=str(tmp_path / "whole")), [Toys()])
    assert same(done.model / "model.safetensors", whole.model / "model.safetensors")


def test_export(base, tmp_path):
    spec = stage(base, tmp_path / "run", steps=4, save_every=2, keep=3)
    result = run_stage(spec, [Toys()])
    export_checkpoint(tmp_path / "run", None, tmp_path / "last")
    assert same(tmp_path / "last/model.safetensors", result.model / "model.safetensors")
    half = export_checkpoint(tmp_path / "run", 2, tmp_path / "half", dtype="bfloat16")
    assert not same(half / "model.safetensors", result.model / "model.safetensors")
    assert {w.dtype for w in load_file(half / "model.safetensors").values()} == {torch.bfloat16}
    record = json.loads((half / "training.json").read_text())
    assert (record["stage"], record["steps"], record["planned_steps"]) == (1, 2, 4)
    assert AgeVlmForConditionalGeneration.from_pretrained(half).dtype == torch.bfloat16
    for run, step, out, said in (
        (tmp_path / "run", 3, tmp_path / "new", "no checkpoint of step 3; it has those of steps 2, 4"),
        (tmp_path / "run", 2, half, "exists already"),
        (tmp_path, None, tmp_path / "new", "it has none"),
    ):
        with pytest.raises(TrainError, match=said):
            export_checkpoint(run, step, out)
