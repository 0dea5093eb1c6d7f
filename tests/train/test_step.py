"""The losses of one forward pass against transformers' own and against eager attention's."""

from dataclasses import replace

import pytest
import torch

from agevlm.checkpoints.tiny import random_age_vlm
from tests.train.toys import CROSSING, GROUPS, SHAPE, Toys
from train.data.collate import IGNORED, Collator
from train.freezing import freeze, resolve
from train.losses import FORMS
from train.spec import Guidance, ParameterGroup
from train.step import Scales, TrainingModule

ROWS = (0, 1, 2, 4, 7)
"""One of them, 4, has no image."""


def made(guidance=None, checkpointing=False, trained=GROUPS, **changes):
    model, processor = random_age_vlm(replace(SHAPE, **changes), 0)
    freeze(model, resolve(model, trained), checkpointing)
    toys = Toys()
    batch = Collator(processor, guidance, 999)([toys.read(i, 0) for i in ROWS], [True] * len(ROWS))
    return model, batch


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_image_and_region_matter():
    """Else all that follows would say nothing."""
    guidance = Guidance()
    model, batch = made(guidance)
    module = TrainingModule(model, guidance, "float32")
    _, sums = module(batch, Scales(1.0, 1.0))
    _, other_image = module(replace(batch, pixel_values=batch.pixel_values.flip(0)), Scales(1.0, 1.0))
    _, other_region = module(replace(batch, coverage=batch.coverage.flip(1)), Scales(1.0, 1.0))
    assert abs(float(other_image[0] - sums[0])) > 0.1
    assert abs(float(other_image[1] - sums[1])) > 1e-3
    assert other_region[0] == sums[0]
    assert abs(float(other_region[1] - sums[1])) > 1e-3


@pytest.mark.parametrize("fusion", ["cross", "concat"])
def test_the_text_loss_is_transformers_own(fusion):
    groups = {"all": ParameterGroup(("model.adapter",), 1.0)}
    model, batch = made(fusion=fusion, trained=groups)
    loss, sums = TrainingModule(model, None, "float32")(batch, Scales(1.0 / batch.tokens, 0.0))
    loss.backward()
    found = gradients(model)
    model.zero_grad()
    expected = model(
        input_ids=batch.input_ids,
        pixel_values=batch.pixel_values,
        attention_mask=batch.attention_mask,
        image_mask=batch.image_mask,
        vision_token_mask=batch.vision_token_mask,
        labels=batch.labels,
    ).loss
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(sums[0] / batch.tokens, expected.detach())
    wanted = gradients(model)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert bool(gradient.any()), name
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tokens", ["last", "all"])
def test_the_guidance_loss_is_that_of_eager_attention(form, tokens):
    guidance = Guidance(form=form, tokens=tokens, answers=True)
    model, batch = made(guidance)
    loss, sums = TrainingModule(model, guidance, "float32")(batch, Scales(0.0, 1.0))
    loss.backward()
    found = gradients(model)
    model.zero_grad()
    model.set_attn_implementation("eager")
    output = model.model(
        input_ids=batch.input_ids,
        pixel_values=batch.pixel_values,
        attention_mask=batch.attention_mask,
        image_mask=batch.image_mask,
        output_vision_attentions=True,
    )
    # Row by row, place by place.
    total = torch.zeros(())
    for weights in output.vision_attentions:
        for row, position, m, share in zip(batch.rows, batch.positions, batch.coverage, batch.shares, strict=True):
            p = weights[row, :, position].mean(0)
            total = total + share * FORMS[form](p[None], m[None])[0] / len(CROSSING)
    total.backward()
    torch.testing.assert_close(loss, total, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sums[1], total.detach(), rtol=1e-5, atol=1e-5)
    wanted = gradients(model)
    moved = 0
    for name, gradient in wanted.items():
        moved += int(bool(gradient.any()))
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)
    assert moved > 5


def test_layers_can_be_chosen():
    both, last = Guidance(), Guidance(layers=(3,))
    model, batch = made(both)
    whole = TrainingModule(model, both, "float32")
    part = TrainingModule(model, last, "float32")
    assert part.sums[2:] == ("iou/3", "mass/3", "pointing/3", "padding/3")
    everything = dict(zip(whole.sums, whole(batch, Scales(1.0, 1.0))[1].tolist(), strict=True))
    chosen = dict(zip(part.sums, part(batch, Scales(1.0, 1.0))[1].tolist(), strict=True))
    assert chosen["mass/3"] == everything["mass/3"]
    assert chosen["guidance"] != everything["guidance"]


def test_checkpointing_changes_nothing():
    guidance = Guidance(answers=True)
    groups = GROUPS | {"vision": ParameterGroup(("model.vision_tower.trunk.stages.2",), 1e-3)}
    found = []
    for checkpointing in (False, True):
        model, batch = made(guidance, checkpointing, groups)
        runs: list[int] = []
        model.model.language_model.layers[1].cross_attn.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        loss, _ = TrainingModule(model, guidance, "float32")(batch, Scales(0.1, 1.0))
        loss.backward()
        found.append((loss.detach(), gradients(model)))
        assert len(runs) == 1 + checkpointing
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)


def test_autocast_keeps_weights_and_losses_in_float32():
    guidance = Guidance(answers=True)
    model, batch = made(guidance)
    exact, _ = TrainingModule(model, guidance, "float32")(batch, Scales(0.1, 1.0))
    seen = set()
    model.model.language_model.layers[0].register_forward_hook(lambda m, i, o: seen.add(m.mlp.up_proj(i[0]).dtype))
    loss, sums = TrainingModule(model, guidance, "bfloat16")(batch, Scales(0.1, 1.0))
    loss.backward()
    assert seen == {torch.bfloat16}
    assert loss.dtype == sums.dtype == torch.float32
    assert loss != exact
    torch.testing.assert_close(loss, exact, rtol=0.05, atol=0.0)
    for parameter in model.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is None or parameter.grad.dtype == torch.float32


def test_rows_without_images_keep_every_parameter_in_the_graph():
    guidance = Guidance()
    model, processor = random_age_vlm(SHAPE, 0)
    freeze(model, resolve(model, GROUPS))
    batch = Collator(processor, guidance, 999)([Toys().read(i, 0) for i in (4, 9)], [True, True])
    loss, sums = TrainingModule(model, guidance, "float32")(batch, Scales(1.0, 0.0))
    loss.backward()
    assert sums[0] > 0
    assert not sums[1:].any()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_a_frozen_tower_runs_without_a_graph():
    model, batch = made(trained={"a": ParameterGroup(("model.adapter",), 1.0)})
    seen = []
    model.model.vision_tower.register_forward_hook(lambda m, i, o: seen.append(o.last_hidden_state.requires_grad))
    TrainingModule(model, None, "float32")(batch, Scales(1.0, 0.0))
    assert seen == [False]


def test_the_head_runs_where_something_is_predicted():
    model, batch = made()
    seen = []
    model.lm_head.register_forward_hook(lambda m, i, o: seen.append(tuple(i[0].shape)))
    TrainingModule(model, None, "float32")(batch, Scales(1.0, 0.0))
    assert seen == [(int((batch.labels[:, 1:] != IGNORED).sum()), SHAPE.text_hidden)]
