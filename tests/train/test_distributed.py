"""Two processes train what one does, whole or sharded, also where one of them has no region, no image, or bad data."""

import os
import re
import shutil
import signal
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

import train
from agevlm.checkpoints.tiny import build_age_vlm
from agevlm.errors import DataError, TrainError
from agevlm.model import AgeVlmForConditionalGeneration
from tests.train.processes import GONE, failing, launched, trained
from tests.train.toys import GROUPS, SHAPE, Recorder, Toys, checkpoint, stage
from train import weights
from train.freezing import freeze, resolve
from train.loop import run_stage
from train.processes import connect
from train.sharding import assembled, full, shard, units
from train.spec import Guidance, ParameterGroup, Regions
from train.step import TrainingModule

CONVNET = {
    "architecture": "agevlm_convnet",
    "model_args": {"stem": 4, "dims": (4, 8, 12), "depths": (1, 1, 2)},
    "num_stages": None,
}
VISION = {"vision": ParameterGroup(("model.vision_tower.trunk.stages.2.blocks.1",), 1e-3)}
PART = {"part": ParameterGroup(("model.language_model.layers.1.cross_attn",), 1e-3)}
TEXT = {"text": ParameterGroup(("model.language_model",), 1e-3), "adapter": ParameterGroup(("model.adapter",), 2e-3)}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def bases(tmp_path_factory, base):
    """Checkpoints by what is special about them."""
    root = tmp_path_factory.mktemp("bases")
    tied = AgeVlmForConditionalGeneration.from_pretrained(base)
    tied.config.tie_word_embeddings = tied.config.text_config.tie_word_embeddings = True
    tied.tie_weights()
    shutil.copytree(base, root / "tied")
    tied.save_pretrained(root / "tied")
    return {
        "plain": base,
        "tied": root / "tied",
        "batch norms": checkpoint(root / "convnet", **CONVNET),
        "concat": checkpoint(root / "concat", fusion="concat"),
        "half": build_age_vlm(root / "half", shape=SHAPE, dtype="bfloat16"),
    }


CASES = {
    "regions here and there": ("plain", {"regions": Regions(share=0.3)}),
    "accumulation": ("plain", {"micro_batch_size": 2}),
    "checkpointing": ("plain", {"gradient_checkpointing": True}),
    "a vision block": ("batch norms", {"trainable": GROUPS | VISION, "gradient_checkpointing": True}),
    "tied embeddings": ("tied", {"trainable": {"text": TEXT["text"]}, "steps": 2}),
    # Frozen bfloat16 and trained float32 weights in one layer; from the second step on, rounding would be seen.
    "half precision": ("half", {"precision": "bfloat16", "trainable": PART, "steps": 1}),
    "visual tokens in the text": ("concat", {"fusion": "concat", "guidance": None, "trainable": TEXT, "steps": 2}),
}
SHARDED = [case for case in CASES if case != "checkpointing"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "sharding"), [*((case, "none") for case in list(CASES)[:4]), *((case, "full") for case in SHARDED)]
)
def test_two_train_what_one_does(bases, tmp_path, case, sharding):
    kind, changes = CASES[case]
    spec = stage(bases[kind], tmp_path / "one", log_every=1, **changes)
    recorder = Recorder()
    run_stage(spec, [Toys()], trackers=[recorder])
    rows = trained(replace(spec, out=str(tmp_path / "two")), [Toys()], sharding=sharding)
    assert rows.keys() == recorder.rows.keys()
    for step, row in recorder.rows.items():
        assert rows[step] == pytest.approx(row, rel=1e-4, abs=1e-6)
    first, alone, two = (
        load_file(folder / "model.safetensors")
        for folder in (bases[kind], tmp_path / "one/model", tmp_path / "two/model")
    )
    torch.testing.assert_close(two, alone, rtol=1e-4, atol=5e-5)
    changed = {name for name in first if not torch.equal(first[name], alone[name])}
    assert changed
    assert {name for name in first if not torch.equal(first[name], two[name])} == changed  # frozen bytes stay


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_process_without_regions_or_images_waits_for_no_one(base, tmp_path, sharding):
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
    rows = trained(stage(base, tmp_path / "two", **settings), [Toys(text_only=2)], sharding=sharding)
    for step, row in recorder.rows.items():
        for name in ("loss/text", "loss/guidance", "grad_norm", "phrases"):
            assert rows[step].get(name, -1.0) == pytest.approx(row.get(name, -1.0), rel=2e-3)


def test_each_process_holds_its_share(base):
    def call(rank):
        accelerator, sharded = connect("full")
        assert sharded
        model, _ = weights.load(base, with_weights=rank == 0)
        freeze(model, resolve(model, GROUPS))
        module = TrainingModule(model, Guidance(), "float32")
        shard(module, accelerator.device)
        held = {name: p.to_local().numel() for name, p in module.model.named_parameters()}
        whole = {name: full(p.detach()) for name, p in module.model.named_parameters()}
        plain = assembled(model)
        assert (plain is None) == (rank > 0)
        in_units = {id(p) for unit in units(model) for p in unit.parameters()}
        left = [name for name, p in model.named_parameters() if id(p) not in in_units]
        return held, whole, left, plain and plain.state_dict()

    found = launched(call)
    assert [error for _, error in found] == [None, None], found
    (held, whole, left, plain), (other, elsewhere, *_) = (made for made, _ in found)
    stored = load_file(base / "model.safetensors")
    assert whole.keys() == stored.keys()
    for name, weight in stored.items():
        assert torch.equal(whole[name], weight)
        assert torch.equal(elsewhere[name], weight)
        assert torch.equal(plain[name], weight)
        assert held[name] + other[name] == weight.numel()
    assert sum(held.values()) < 0.6 * sum(weight.numel() for weight in stored.values())
    assert all(re.search(r"\.(stem|downsample)\.|^model\.language_model\.norm\.", name) for name in left)


KINDS = {"one": (1, "none"), "DDP": (2, "none"), "FSDP2": (2, "full")}


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """Rows and run folders of uninterrupted stages, by their kind."""
    root = tmp_path_factory.mktemp("whole")
    made = {}
    for kind, (count, sharding) in KINDS.items():
        spec = stage(base, root / kind, steps=6, save_every=3, log_every=1, keep=9)
        made[kind] = trained(spec, [Toys()], count, sharding=sharding), spec
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"), [("FSDP2", "one"), ("one", "FSDP2"), ("FSDP2", "DDP"), ("DDP", "FSDP2"), ("FSDP2", "FSDP2")]
)
def test_any_kind_goes_on_from_any(whole, tmp_path, before, after):
    rows, spec = whole[before]
    out = tmp_path / "run"
    shutil.copytree(spec.out, out)
    for gone in ("model", "checkpoints/step-00000006"):
        shutil.rmtree(out / gone)
    count, sharding = KINDS[after]
    resumed = trained(replace(spec, out=str(out)), [Toys()], count, sharding=sharding, resume=True)
    assert sorted(resumed) == [4, 5, 6]
    for step, row in resumed.items():
        assert row == pytest.approx(rows[step], rel=1e-4, abs=1e-6)
    ends = [folder / "checkpoints/step-00000006" for folder in (Path(spec.out), out)]
    # The same sums in the same order give the same bits.
    near = {"rtol": 0, "atol": 0} if before == after else {"rtol": 1e-4, "atol": 1e-6}
    one, two = (torch.load(end / "optimizer.pt", weights_only=True)["optimizer"] for end in ends)
    torch.testing.assert_close(two["state"], one["state"], **near)
    assert two["param_groups"] == one["param_groups"]
    one, two = (load_file(end / "trainable.safetensors") for end in ends)
    torch.testing.assert_close(two, one, **near)


def test_bad_data_on_one_process_stop_both(base, tmp_path):
    source = Toys(23, broken={20: DataError("the folder is gone")})
    said = failing(lambda rank: run_stage(stage(base, tmp_path / "run"), [source]))
    assert sum("DataError: the folder is gone" in error for error in said) == 1
    assert sum("another process met data" in error for error in said) == 1


def test_a_refusal_reaches_both(base, tmp_path):
    spec = stage(base, tmp_path / "run", follows=(3,))
    said = failing(lambda rank: run_stage(spec, [Toys()]))
    assert all("starts from stage 3's checkpoint" in error for error in said)


@pytest.mark.parametrize(
    ("spec", "source", "said"),
    [
        ({}, 24, r"the data of source 0: toys, 24 samples \(toys-24\), not toys, 23 samples \(toys-23\)"),
        ({"save_every": 7}, 23, "setting save_every: 7, not 100"),
    ],
)
def test_processes_that_differ_are_told_apart(base, tmp_path, spec, source, said):
    """Data and settings: the second process has others; where its data lie is its own matter."""

    def call(rank):
        changes = spec | {"workers": 1} if rank else {}
        run_stage(stage(base, tmp_path / f"run-{rank}", **changes), [Toys(source if rank else 23)])

    for error in failing(call):
        assert re.match(rf"TrainError: process 1 on \S+ differs from process 0 on \S+ in {said}", error)


def test_what_one_process_lacks_is_named_by_all(base, tmp_path):
    def call(rank):
        run_stage(stage(tmp_path / "nothing" if rank else base, tmp_path / "run"), [Toys()])

    first, second = failing(call)
    assert first.startswith("TrainError: process 1 on ")
    assert "nothing" in first.splitlines()[0]
    assert "nothing" in second.splitlines()[0]


class Failing(Toys):
    """Data that do something to a process in its third step."""

    def __init__(self, act):
        super().__init__()
        self.act = act

    def read(self, index, epoch):
        if len(self.drawn) == 9:
            self.act()
        return super().read(index, epoch)


LEFT = r"TrainError: process \d on \S+: another process is gone, or was silent for longer than --patience \(.*resume "


def test_who_is_left_by_a_killed_process_ends_with_an_error(base, tmp_path):
    def call(rank):
        act = (lambda: os.kill(os.getpid(), signal.SIGKILL)) if rank else (lambda: None)
        run_stage(stage(base, tmp_path / "run", steps=9), [Failing(act)])

    (_, left), (_, killed) = launched(call)
    assert re.match(LEFT, left)
    assert killed == GONE


@pytest.mark.slow
def test_a_process_waits_no_longer_than_its_patience(base, tmp_path):
    def call(rank):
        act = (lambda: time.sleep(9)) if rank else (lambda: None)
        run_stage(stage(base, tmp_path / "run", steps=9), [Failing(act)], patience=timedelta(seconds=4))

    assert all(re.match(LEFT, error) for error in failing(call))


@pytest.fixture
def environ():
    """What accelerate's launcher tells processes, of a configuration that comes with the package, with changes."""

    def read(name, *changes):
        file = Path(train.__file__).parent / "launch" / name
        arguments = launch_command_parser().parse_args(["--config_file", str(file), *changes, "script.py"])
        checked, *_ = _validate_launch_command(arguments)
        made = prepare_multi_gpu_env(checked)
        return {name: made[name] for name in made if name.startswith(("ACCELERATE", "FSDP"))}

    return read


@pytest.mark.parametrize(("name", "sharded"), [("ddp.yaml", False), ("fsdp2.yaml", True)])
def test_configurations_of_the_package(environ, name, sharded):
    found = launched(lambda rank: (connect()[1], connect("none")[1]), **environ(name))
    assert found == [((sharded, False), None)] * 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--fsdp_version", "1"], "FSDP 1; write fsdp_version: 2 into its fsdp_config"),
        (["--fsdp_offload_params", "true"], "fsdp_offload_params is not supported"),
        (["--fsdp_activation_checkpointing", "true"], "set gradient_checkpointing"),
    ],
)
def test_what_accelerate_may_not_ask_for(environ, monkeypatch, changes, said):
    for key, value in environ("fsdp2.yaml", *changes).items():
        monkeypatch.setenv(key, value)
    with pytest.raises(TrainError, match=said):
        connect()
