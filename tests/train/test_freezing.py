"""Parameter groups by paths, precedence, refusals, modes."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from agevlm.checkpoints.tiny import random_age_vlm
from agevlm.errors import TrainError
from tests.train.toys import SHAPE
from train.freezing import freeze, resolve, trainable_names
from train.optimisation import build_optimizer, rate, set_rates
from train.spec import ParameterGroup


@pytest.fixture(scope="module")
def model():
    return random_age_vlm(SHAPE, 0)[0]


def names(model, **groups):
    return {g.name: set(g.parameters) for g in resolve(model, {k: ParameterGroup(v, 1e-3) for k, v in groups.items()})}


def test_whole_components_and_stars(model):
    language = "model.language_model.layers"
    found = names(model, gates=(f"{language}.*.attn_gate", f"{language}.*.mlp_gate"))["gates"]
    # Never LLaMA's gate_proj, which a search for "gate" would find.
    assert found == {f"{language}.{i}.{kind}_gate" for i in (1, 3) for kind in ("attn", "mlp")}
    crossing = names(model, all=(f"{language}.1",))["all"]
    assert all(name.startswith(f"{language}.1.") for name in crossing)
    assert len(crossing) == len([n for n, _ in model.named_parameters() if n.startswith(f"{language}.1.")])
    assert names(model, all=("model",))["all"] == {n for n, _ in model.named_parameters() if n != "lm_head.weight"}
    spec = {"all": ParameterGroup(("model.adapter", "lm_head"), 1.0)}
    assert trainable_names(model, spec) == tuple(
        n for n, _ in model.named_parameters() if n.startswith("model.adapter.") or n == "lm_head.weight"
    )


def test_the_longest_path_has_it(model):
    found = names(model, body=("model.language_model.layers.1",), gates=("model.language_model.layers.*.attn_gate",))
    assert "model.language_model.layers.1.attn_gate" in found["gates"]
    assert "model.language_model.layers.1.mlp_gate" in found["body"]
    assert not found["gates"] & found["body"]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"a": ("model.adapter.linear1",)}, "model.adapter.linear_1 "),
        ({"a": ("model.adaptor",)}, "nearest is model.adapter"),
        ({"a": ("model.language_model.layers.9.attn_gate",)}, "layers"),
        ({"a": ("model.language_model.layers.*.attn_gat",)}, "attn_gate"),
        ({"a": ("model.adapter.linear_1.weight.data",)}, "nothing below"),
        ({"a": ("gate",)}, "the model has lm_head, model"),
        ({"a": ()}, "names no modules"),
        ({}, "trains nothing"),
        ({"a": ("model.adapter.linear_1",), "b": ("model.adapter.*",)}, "equally long"),
        ({"a": ("model.adapter",), "b": ("model.adapter.linear_1", "model.adapter.linear_2")}, "group a"),
    ],
)
def test_refusals(model, groups, said):
    with pytest.raises(TrainError, match=said):
        names(model, **groups)


def test_tied_embeddings_are_one_parameter(model):
    tied, _ = random_age_vlm(SHAPE, 0)
    tied.config.tie_word_embeddings = tied.config.text_config.tie_word_embeddings = True
    tied.tie_weights()
    assert tied.lm_head.weight is tied.model.language_model.embed_tokens.weight
    assert names(tied, head=("lm_head",))["head"] == {"model.language_model.embed_tokens.weight"}
    with pytest.raises(TrainError, match="longer paths"):
        names(tied, head=("lm_head",), words=("model.language_model.embed_tokens",))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_modes(checkpointing):
    model, _ = random_age_vlm(SHAPE, 0)
    model.model.vision_tower.trunk.bn = nn.BatchNorm1d(3)
    model.train()
    freeze(model, resolve(model, {"a": ParameterGroup(("model.language_model.layers.1",), 1.0)}), checkpointing)
    assert not model.model.vision_tower.trunk.bn.training
    assert not any(m.training for m in model.model.vision_tower.modules())
    # Frozen layers too: gradients go through them.
    assert {layer.training for layer in model.model.language_model.layers} == {checkpointing}
    assert not model.model.language_model.layers[1].cross_attn.training
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, _ in model.named_parameters() if n.startswith("model.language_model.layers.1.")
    }


def test_no_decay_for_vectors_and_rates_that_rise_and_fall(model):
    from tests.train.toys import stage

    groups = resolve(
        model,
        {
            "body": ParameterGroup(("model.language_model.layers.1",), 2e-3, 0.1),
            "gates": ParameterGroup(("model.language_model.layers.1.attn_gate",), 1e-2, 0.1),
        },
    )
    spec = replace(stage("x", "y"), steps=100, warmup_share=0.1, final_lr_share=0.2)
    optimizer = build_optimizer(groups, spec, torch.device("cpu"))
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.dim() > 1 else 0.0)
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == sum(g.count for g in groups)
    rates = [rate(step, spec) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1.0
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.2)
    assert set_rates(optimizer, 99, spec) == pytest.approx({"body": 4e-4, "gates": 2e-3})
    assert rate(0, replace(spec, warmup_share=0.0)) == 1.0
    assert rate(0, replace(spec, steps=1)) == 1.0
