"""What a stage is planned to take, against counting and against training it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from agevlm.checkpoints.tiny import AgeVlmShape, random_age_vlm
from agevlm.errors import TrainError
from agevlm.model.describe import backbone_config, count_parameters, on_meta, variant
from train.config import load_stage
from train.freezing import freeze, resolve
from train.measure import Measured, made_up
from train.plan import plan_stage
from train.plan_table import print_measured
from train.step import Scales, TrainingModule
from train.tables import duration
from train.weights import shrink_frozen

SHAPE = AgeVlmShape(image_size=128)
CHANGES = [
    "vars.vision_block=model.vision_tower.trunk.stages.2.blocks.0",
    "trainable.cross.modules=[model.language_model.layers.1, model.language_model.layers.4]",
    "tokens_per_sample=50",
    "vars.steps_3=250",
]


@pytest.fixture(scope="module")
def tiny():
    return random_age_vlm(SHAPE, 0)[0]


def tiny_stage(name: str = "3-guide", *more: str):
    return load_stage(f"scenes/age-vlm/{name}", [*CHANGES, *more])


def test_paper_size():
    spec = load_stage("paper/age-vlm/3-guide")
    plan = plan_stage(spec, backbone_config("1b"), world_size=8)
    groups = {g.name: g for g in plan.groups}
    assert groups["gates"].parameters == 8
    assert groups["vision"].parameters == 18_963_456
    assert groups["adapter"].parameters + groups["cross"].parameters + 8 == 250_630_664
    assert plan.trained + plan.frozen == count_parameters(on_meta(backbone_config("1b"))).total
    assert plan.accumulation == 4
    assert plan.samples == 2_500_096
    assert plan.guided == 77_003  # 3.1 % of a few samples more than planned
    assert plan.memory.optimizer == 8 * plan.trained
    vision = sum(p.numel() for p in on_meta(backbone_config("1b")).model.vision_tower.parameters()) - 18_963_456
    assert plan.memory.weights == 4 * plan.trained + 2 * (plan.frozen - vision) + 4 * vision
    assert plan.memory == plan.whole
    assert plan.seconds == pytest.approx(plan.steps * plan.operations / (150e12 * 8))
    assert json.loads(json.dumps(plan.as_json()))["tokens"] == plan.samples * 200


def test_operations_are_those_of_a_step(tiny):
    """Against torch's counter over forward and backward."""
    for name in ("1-align", "3-guide"):
        spec = replace(tiny_stage(name), gradient_checkpointing=False)
        plan = plan_stage(spec, tiny.config)
        freeze(tiny, resolve(tiny, spec.trainable))
        ids = torch.zeros(1, 50, dtype=torch.long)
        pixels = torch.zeros(1, 3, SHAPE.image_size, SHAPE.image_size)
        with FlopCounterMode(display=False) as counter:
            tiny(input_ids=ids, pixel_values=pixels, labels=ids).loss.backward()
        assert plan.operations / spec.batch_size == pytest.approx(counter.get_total_flops(), rel=0.15)


@pytest.mark.slow
def test_checkpointing_trades_memory_for_operations():
    spec, config = load_stage("paper/concat-unfrozen/4-instruct"), variant(backbone_config("1b"), fusion="concat")
    saved = plan_stage(spec, config)
    whole = plan_stage(replace(spec, gradient_checkpointing=False), config)
    assert whole.memory.activations > 2 * saved.memory.activations
    assert whole.operations < saved.operations
    assert plan_stage(replace(spec, micro_batch_size=16), config).memory.activations == 2 * saved.memory.activations


def kept_for_backward(spec, config):
    """Bytes of all that torch keeps for the backward pass of a micro-batch, and of these copies of trained matrices."""
    model, _ = random_age_vlm(replace(SHAPE, fusion=config.fusion, **LARGER[config.fusion]), 0)
    groups = resolve(model, spec.trainable)
    freeze(model, groups, spec.gradient_checkpointing)
    trained = {name: p for group in groups for name, p in group.parameters.items()}
    if spec.precision == "bfloat16":
        half = {name: torch.bfloat16 for name in dict(model.named_parameters()) if "vision_tower" not in name}
        shrink_frozen(model, trained.keys(), half)
    shapes = {tuple(shape) for p in trained.values() if p.dim() >= 2 for shape in (p.shape, p.shape[::-1])}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, tuple[torch.UntypedStorage, bool]] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            copied = tensor.dtype == torch.bfloat16 and tuple(tensor.shape) in shapes
            seen.setdefault(storage.data_ptr(), (storage, copied))
        return tensor

    module, batch = TrainingModule(model, spec.guidance, spec.precision), made_up(spec, model.config, TOKENS)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(batch, Scales(1.0, 1.0))
    sizes = [(storage.nbytes(), copied) for storage, copied in seen.values()]
    return sum(size for size, copied in sizes if not copied), sum(size for size, copied in sizes if copied)


TOKENS = 40
LARGER = {
    "cross": {"text_hidden": 96, "text_intermediate": 416, "vocabulary": 300},
    "concat": {"text_hidden": 96, "text_intermediate": 416, "vocabulary": 300, "cross_layers": ()},
}
"""Sizes that no two kinds of tensors share."""


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["age-vlm/1-align", "age-vlm/3-guide", "concat/1-align", "concat-unfrozen/4-instruct"])
def test_activations_are_what_torch_keeps(name, precision):
    spec = load_stage(f"scenes/{name}", [c for c in CHANGES if "age-vlm" in name or "cross" not in c])
    spec = replace(spec, precision=precision, gradient_checkpointing=False, tokens_per_sample=TOKENS)
    spec = replace(spec, batch_size=3, micro_batch_size=3)
    config = random_age_vlm(replace(SHAPE, fusion=spec.fusion, **LARGER[spec.fusion]), 0)[0].config
    memory = plan_stage(spec, config).memory
    kept, copies = kept_for_backward(spec, config)
    number = 2 if precision == "bfloat16" else 4
    # At the peak logits exist in half precision and twice in float32; of these torch keeps one.
    passing = 3 * TOKENS * 300 * (number + 4)
    assert memory.activations - passing == pytest.approx(kept, rel=0.1)
    assert (copies > 0) == (precision == "bfloat16")
    # Where nothing below is trained, a copy is made but not kept.
    assert copies <= memory.copies <= 1.2 * copies


def test_what_is_sharded(tiny):
    spec = replace(tiny_stage(), micro_batch_size=1)
    whole, half, quarter = (
        plan_stage(spec, tiny.config, world_size=n, sharding=s).memory
        for n, s in ((1, "full"), (2, "full"), (4, "full"))
    )
    assert whole == plan_stage(spec, tiny.config, world_size=8).memory
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(half, name) == getattr(whole, name) // 2
        assert getattr(quarter, name) == getattr(whole, name) // 4
    assert half.activations == quarter.activations == whole.activations
    # Of what is brought together, most is the layer of the largest size twice over, and its gradients.
    layers = tiny.model.language_model.layers
    largest = 4 * max(sum(p.numel() for p in layer.parameters()) for layer in layers)
    assert half.copies == quarter.copies > whole.copies + 2 * largest
    assert plan_stage(spec, tiny.config, world_size=2, sharding="full").whole == whole


@pytest.mark.slow
def test_measured_steps(tiny, tmp_path, call):
    tiny.config.save_pretrained(tmp_path)
    options = ["--model-config", tmp_path, *(part for change in CHANGES for part in ("--set", change))]
    code, out, _ = call("plan", "--config", "scenes/age-vlm/3-guide", *options, "--measure", "--json", "-")
    (row,) = json.loads(out)
    found = row["measured"]
    assert code == 0
    assert found["pass_seconds"] > 0 < found["update_seconds"]
    assert found["seconds_per_step"] == row["accumulation"] * found["pass_seconds"] + found["update_seconds"]
    assert found["stage_seconds"] == row["steps"] * found["seconds_per_step"]
    assert found["tflops"] == pytest.approx(row["operations"] / found["seconds_per_step"] / 1e12)
    assert found["peak"] > found["resting"] >= row["whole"]["weights"] + row["whole"]["optimizer"]
    assert found["estimated_over_measured"]["memory"] == row["whole"]["total"] / found["peak"]


def test_measured_beside_estimated_in_words(tiny, capsys):
    plan = plan_stage(tiny_stage("3-guide"), tiny.config)
    measured = Measured("CPU", 3, 2, 9, pass_seconds=2.0, update_seconds=0.5, resting=1, peak=2 * plan.whole.total)
    print_measured(Console(width=200), plan, measured)
    out = capsys.readouterr().out
    rows = {line.split("  ")[0].strip(): line.split() for line in out.splitlines() if line.strip()}
    assert "measured: CPU" in out
    assert rows["memory, the model whole"][-1] == "0.5"
    seconds = plan.accumulation * 2.0 + 0.5
    assert float(rows["seconds a step"][-2]) == pytest.approx(seconds, rel=0.01)
    assert rows["time"][-3:-1] == duration(plan.steps * seconds).split()


@pytest.mark.parametrize(
    ("changes", "guided"),
    [
        (["guidance=null"], 0),
        (["regions.batch_share=0.1"], 400),
        (["regions.batch_share=null", "planned_samples=1000", "planned_guided=100", "regions.share=0.5"], 200),
        (["regions.batch_share=null"], None),
    ],
)
def test_guided_samples(tiny, changes, guided):
    assert plan_stage(tiny_stage("3-guide", *changes), tiny.config).guided == guided


def test_what_cannot_be_planned(tiny):
    with pytest.raises(TrainError, match="fusion 'concat'; the model is 'cross'"):
        plan_stage(load_stage("scenes/concat/1-align"), tiny.config)
    with pytest.raises(TrainError, match="no multiple of micro_batch_size 16 x 3"):
        plan_stage(tiny_stage(), tiny.config, world_size=3)
    with pytest.raises(TrainError, match="leads to no parameter"):
        plan_stage(tiny_stage("3-guide", "trainable.adapter.modules=[model.adaptor]"), tiny.config)
