"""What a stage is planned to take, against counting and against training it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from agevlm.checkpoints.tiny import AgeVlmShape, random_age_vlm
from agevlm.errors import TrainError
from agevlm.model.describe import backbone_config, count_parameters, on_meta, variant
from train.config import load_stage
from train.freezing import freeze, resolve
from train.plan import plan_stage

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
    assert plan.memory.weights == 4 * plan.trained + 2 * plan.frozen
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
