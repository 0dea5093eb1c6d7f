"""Our own small ConvNet: what the vision tower asks of a timm trunk, and its statistics kept through assembling."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from agevlm.errors import CheckpointError
from agevlm.model import AgeVlmForConditionalGeneration, AgeVlmVisionConfig
from agevlm.model.assemble import AssembleSettings, assemble
from agevlm.model.convnet import NAME, ConvNet
from agevlm.model.vision import AgeVlmVisionModel, build_trunk, trunk_output
from tests.model.parts import llama_folder

ARGS = {"stem": 4, "dims": [6, 8], "depths": [1, 2]}
COUNTER = "num_batches_tracked"


def made(seed=0, **changes):
    """With statistics that are not those of a new batch norm."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = ConvNet(**{**ARGS, **changes})
        net.train()
        with torch.no_grad():
            for _ in range(3):
                net(torch.randn(4, 3, 32, 32) * 2 + 1)
    return net.eval()


def images(count=2, side=32, seed=5):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("dims", "depths", "side", "shape"),
    [([6, 8], [1, 2], 32, (8, 4, 4)), ([6], [1], 24, (6, 6, 6)), ([4, 6, 10], [1, 0, 2], 64, (10, 4, 4))],
)
def test_every_stage_halves_the_map(dims, depths, side, shape):
    net = ConvNet(4, dims, depths).eval()
    assert tuple(net.forward_features(images(side=side)).shape) == (2, *shape)
    assert trunk_output(net) == (dims[-1], 2 ** (len(dims) + 1))
    assert [info["module"] for info in net.feature_info] == [f"stages.{i}" for i in range(len(dims))]


def longhand(net, x):
    """The same from the weights alone, by functions."""
    state = net.state_dict()

    def norm(x, name):
        names = (f"{name}.{part}" for part in ("running_mean", "running_var", "weight", "bias"))
        mean, var, weight, bias = (state[n][None, :, None, None] for n in names)
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def conv(x, name, stride=1):
        return functional.conv2d(x, state[f"{name}.weight"], stride=stride, padding=1)

    x = norm(conv(x, "stem.0", 2), "stem.1").relu()
    for i, depth in enumerate(ARGS["depths"]):
        x = norm(conv(x, f"stages.{i}.down.0", 2), f"stages.{i}.down.1").relu()
        for j in range(depth):
            block = f"stages.{i}.blocks.{j}"
            inner = norm(conv(x, f"{block}.conv_1"), f"{block}.norm_1").relu()
            x = (x + norm(conv(inner, f"{block}.conv_2"), f"{block}.norm_2")).relu()
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    x = (x - mean) / (var + 1e-6).sqrt()
    return x * state["norm.weight"][None, :, None, None] + state["norm.bias"][None, :, None, None]


def test_features_are_those_of_the_formula():
    net, x = made(), images()
    assert not torch.equal(net.stem[1].running_mean, torch.zeros(4))
    with torch.no_grad():
        torch.testing.assert_close(net(x), longhand(net, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_checkpointing_changes_no_feature_and_no_gradient(training):
    plain, saving = made().train(training), made().train(training)
    saving.set_grad_checkpointing()
    calls = []
    saving.stages[1].blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    weights = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    for net in (plain, saving):
        (net(images()) * weights).sum().backward()
    assert len(calls) == 2  # the second time for the gradient
    for (name, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert bool(one.grad.any()), name
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-5, atol=1e-6, msg=name)
    for (name, one), other in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(one, other), name
    saving.set_grad_checkpointing(False)
    saving(images()).sum().backward()
    assert len(calls) == 3


def test_timm_builds_it_by_name_and_its_weights_go_round(tmp_path):
    assert timm.is_model(NAME)
    net = made()
    again = timm.create_model(NAME, num_classes=0, global_pool="", **ARGS).eval()
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    with torch.no_grad():
        assert torch.equal(again(images()), net(images()))
    with pytest.raises(ValueError, match="no pretrained weights"):
        timm.create_model(NAME, pretrained=True)


@pytest.mark.parametrize("build", [lambda **a: timm.create_model(NAME, **a), ConvNet])
def test_arguments_that_it_does_not_take_are_named(build):
    with pytest.raises(TypeError, match="drop_path, width"):
        build(width=3, drop_path=0.1)
    with pytest.raises(ValueError, match="one entry a stage"):
        build(dims=[4, 8], depths=[1])


def test_the_tower_names_them_too():
    with pytest.raises(ValueError, match=r"cannot build 'agevlm_convnet'.*ls_init_value"):
        build_trunk(NAME, {"ls_init_value": 1.0}, None)
    with pytest.raises(ValueError, match="num_stages 3"):
        build_trunk(NAME, ARGS, 3)


@pytest.mark.parametrize("stages", [None, 2])
def test_its_configuration_is_read_off_it(stages):
    config = AgeVlmVisionConfig.from_timm(NAME, image_size=32, model_args=ARGS, num_stages=stages)
    assert (config.hidden_size, config.stride, config.grid) == (8, 8, (4, 4))
    tower = AgeVlmVisionModel(config).eval()
    tower.trunk.load_state_dict(made().state_dict())
    with torch.no_grad():
        tokens = tower(images()).last_hidden_state
        expected = made()(images())
    assert torch.equal(tokens, expected.flatten(2).transpose(1, 2))
    assert AgeVlmVisionConfig.from_dict(json.loads(json.dumps(config.to_dict()))).model_args == ARGS


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return llama_folder(tmp_path_factory.mktemp("parts") / "llama")


def folder_of(net, folder):
    """In timm's form, as trunks of the scenes world are saved."""
    folder.mkdir()
    save_file(net.state_dict(), folder / "model.safetensors")
    half = [0.5, 0.5, 0.5]
    config = {"architecture": NAME, "model_args": ARGS, "pretrained_cfg": {"mean": half, "std": half}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_assembled_it_keeps_every_bit(llama, tmp_path):
    net = made()
    # Values that float16 or bfloat16 would not hold.
    net.stem[1].running_mean.copy_(torch.tensor([1.0000001, -3.3333333, 1e-7, 70000.5]))
    net.stem[1].num_batches_tracked.fill_(16_777_217)
    settings = AssembleSettings(
        llama=str(llama), vision=str(folder_of(net, tmp_path / "trunk")), out=tmp_path / "made", image_size=32
    )
    assemble(settings)
    model = AgeVlmForConditionalGeneration.from_pretrained(tmp_path / "made").eval()
    trunk = model.model.vision_tower.trunk
    expected = net.state_dict()
    assert set(trunk.state_dict()) == set(expected)
    for name, tensor in trunk.state_dict().items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor, expected[name]), name
    with torch.no_grad():
        tokens = model.model.vision_tower(images()).last_hidden_state
        assert torch.equal(tokens, net(images()).flatten(2).transpose(1, 2))


def test_in_bfloat16_the_counter_stays_a_whole_number(llama, tmp_path):
    net = made()
    net.stem[1].num_batches_tracked.fill_(257)  # bfloat16 would make it 256 or 258
    vision = folder_of(net, tmp_path / "trunk")
    settings = AssembleSettings(llama=str(llama), vision=str(vision), out=tmp_path / "made", image_size=32)
    assemble(replace(settings, dtype="bfloat16"))
    stored = load_file(tmp_path / "made" / "model.safetensors")
    prefix = "model.vision_tower.trunk.stem.1."
    assert stored[prefix + COUNTER].dtype == torch.int64
    assert int(stored[prefix + COUNTER]) == 257
    assert stored[prefix + "running_var"].dtype == torch.bfloat16
    model = AgeVlmForConditionalGeneration.from_pretrained(tmp_path / "made", dtype="auto")
    assert int(model.model.vision_tower.trunk.stem[1].num_batches_tracked) == 257


def test_other_whole_numbers_are_still_refused_as_quantised(llama, tmp_path):
    vision = folder_of(made(), tmp_path / "trunk")
    weights = load_file(vision / "model.safetensors")
    weights["stem.0.weight"] = weights["stem.0.weight"].to(torch.int64)
    save_file(weights, vision / "model.safetensors")
    settings = AssembleSettings(llama=str(llama), vision=str(vision), out=tmp_path / "made", image_size=32)
    with pytest.raises(CheckpointError, match=r"stem\.0\.weight is stored as I64"):
        assemble(settings)
    del weights["stem.0.weight"]
    save_file(weights, vision / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing, first stem\.0\.weight"):
        assemble(settings)


def test_training_moves_its_statistics_and_reading_does_not():
    net = made()
    before = deepcopy(net.state_dict())
    net(images())
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
    net.train()(images())
    moved = [name for name, tensor in before.items() if not torch.equal(net.state_dict()[name], tensor)]
    assert {name.split(".")[-1] for name in moved} == {"running_mean", "running_var", COUNTER}
