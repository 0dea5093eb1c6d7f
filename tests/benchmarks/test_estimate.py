"""The rough cost of a run: right in kind for every family, and known without torch."""

import json
import struct
import subprocess
import sys

import pytest
import torch

from agevlm.checkpoints.tiny import TinyLlava, build_tiny_llava
from agevlm.model import AgeVlmConfig, AgeVlmForConditionalGeneration
from benchmarks import estimate as module
from benchmarks.estimate import PROMPT_TOKENS, Work, estimate, model_work

CONVNEXT_LARGE_AT_768 = 807.8e9
"""Counted by torch's FlopCounterMode over forward_features."""


def write(folder, config, shapes):
    """A checkpoint folder of headers alone."""
    header = json.dumps({n: {"dtype": "BF16", "shape": s, "data_offsets": [0, 0]} for n, s in shapes.items()}).encode()
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module", params=["cross", "concat"])
def paper(request, tmp_path_factory):
    """The paper's model without its weights."""
    config = AgeVlmConfig(fusion=request.param, image_token_id=5 if request.param == "concat" else None)
    with torch.device("meta"):
        model = AgeVlmForConditionalGeneration(config)
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}
    return request.param, write(tmp_path_factory.mktemp("paper") / "model", config.to_dict(), shapes), model


def parameters(model, *parts):
    return sum(p.numel() for name, p in model.named_parameters() if any(part in name for part in parts))


def test_a_convnet_costs_more_than_its_parameters_times_its_tokens(paper):
    fusion, folder, model = paper
    work = model_work(folder)
    over_tokens = parameters(model, "adapter", "cross_attn.k_proj", "cross_attn.v_proj")
    vision = work.image - 2 * 576 * over_tokens
    assert vision == pytest.approx(CONVNEXT_LARGE_AT_768, rel=0.005)
    assert vision > 3 * 2 * 576 * parameters(model, "vision_tower")
    text = parameters(model, "language_model.layers") + model.config.text_config.hidden_size
    assert work.token == 2 * (text - parameters(model, "cross_attn.k_proj", "cross_attn.v_proj"))
    assert work.visual_tokens == (576 if fusion == "concat" else 0)


def test_visual_tokens_pass_the_language_model_only_where_they_are_part_of_the_text(paper, monkeypatch):
    fusion, folder, _ = paper
    monkeypatch.setattr(module, "matrix_speed", lambda: 1e9 / module.EFFICIENCY)
    given = {"questions": 9, "checkpoint": folder, "manifest": {}, "device": "cpu"}
    cost = estimate(images=1, pairs=0, **given)
    work = model_work(folder)
    positions = PROMPT_TOKENS + (576 if fusion == "concat" else 0)
    assert cost.seconds == pytest.approx((work.image + positions * work.token) / 1e9, rel=1e-3)
    assert cost.basis.startswith("rough: ")
    further = estimate(images=1, pairs=1, **given).seconds - cost.seconds
    assert further == pytest.approx(PROMPT_TOKENS * work.token / 1e9)


def test_defaults_that_a_configuration_leaves_out(paper, tmp_path):
    fusion, folder, model = paper
    config = {"model_type": "age_vlm", **({"fusion": fusion} if fusion == "concat" else {})}
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}
    assert model_work(write(tmp_path / "sparse", config, shapes)) == model_work(folder)


def test_fewer_stages_end_at_a_smaller_stride(tmp_path):
    config = {"model_type": "age_vlm", "vision_config": {"image_size": 64, "stride": 8, "num_stages": 2}}
    trunk = "model.vision_tower.trunk."
    shapes = {f"{trunk}stem.0.weight": [3], f"{trunk}stages.0.w": [5], f"{trunk}stages.1.w": [7]}
    assert model_work(write(tmp_path / "cut", config, shapes)) == Work(2 * (256 * 3 + 256 * 5 + 64 * 7), 0, 0)


def test_a_trunk_without_stages_counts_its_visual_tokens(tmp_path):
    config = {"model_type": "age_vlm", "vision_config": {"image_size": 64, "stride": 32}, "fusion": "concat"}
    shapes = {"model.vision_tower.trunk.conv1.weight": [3], "model.language_model.norm.weight": [2]}
    assert model_work(write(tmp_path / "other", config, shapes)) == Work(2 * 4 * 3, 4, 4)


def test_llava(tmp_path):
    folder = build_tiny_llava(tmp_path, sizes=TinyLlava(vocabulary=300))
    work = model_work(folder)
    assert work.visual_tokens == 16
    assert work.image == 2 * 16 * sum(n for k, n in module.parameter_counts(folder).items() if "vision" in k)
    assert work.token > 0


def test_a_damaged_weight_file_leaves_the_time_unknown(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "config.json").write_text('{"model_type": "age_vlm"}')
    cost = estimate(images=1, pairs=1, questions=1, checkpoint=tmp_path, manifest={}, device="cpu")
    assert cost.seconds is None
    assert "cannot be read" in cost.basis


def test_needs_no_torch(paper):
    code = (
        "import pathlib, sys; from benchmarks.estimate import model_work; "
        "print(model_work(pathlib.Path(sys.argv[1])).image, sorted({'torch', 'transformers', 'timm'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code, paper[1]], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(model_work(paper[1]).image), "[]"]
