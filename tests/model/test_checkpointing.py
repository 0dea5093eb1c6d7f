"""Gradient checkpointing changes neither the loss nor any gradient, in the vision tower either."""

import pytest
import torch

from tests.model.conftest import TOKENS, pixels, tiny_vision, with_image_tokens, words

WHO = torch.tensor([True, False, True])
SHOWN = torch.arange(TOKENS).expand(2, -1) < torch.tensor([[4], [7]])
CASES = {
    "an image each": ({}, {"pixel_values": pixels(3)}),
    "mixed rows": ({}, {"pixel_values": pixels(2), "image_mask": WHO}),
    "padding hidden": (
        {"mask_padding": True},
        {"pixel_values": pixels(2), "image_mask": WHO, "vision_token_mask": SHOWN},
    ),
    "three stages": ({"vision_config": tiny_vision(num_stages=3)}, {"pixel_values": pixels(3)}),
    "concat": ({"fusion": "concat"}, {"pixel_values": pixels(3)}),
    "features given": ({}, {"image_features": torch.randn(3, TOKENS, 48, generator=torch.Generator().manual_seed(0))}),
}


def losses_and_gradients(model, **given):
    loss = model(**given).loss
    loss.backward()
    return loss.detach(), {name: w.grad for name, w in model.named_parameters()}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_loss_and_gradients_stay(fresh, case, attention, reentrant):
    config, image = CASES[case]
    ids = with_image_tokens(words(3, 7)) if case == "concat" else words(3, 7)
    expected = losses_and_gradients(fresh(attention=attention, **config).train(), input_ids=ids, labels=ids, **image)
    model = fresh(attention=attention, **config).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    found = losses_and_gradients(model, input_ids=ids, labels=ids, **image)
    torch.testing.assert_close(found[0], expected[0])
    for name, gradient in expected[1].items():
        if case == "features given" and ("vision_tower" in name or "adapter" in name):
            assert gradient is None
            assert found[1][name] is None
            continue
        assert bool(gradient.any()), name
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def runs(module, counted):
    module.register_forward_pre_hook(lambda *_: counted.append(type(module).__name__))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_only_training_recomputes_and_then_every_kind_of_layer(fresh, checkpointing, mode):
    model = fresh()
    model.train(mode == "train")
    if checkpointing:
        model.gradient_checkpointing_enable()
    once = [
        model.model.vision_tower.trunk.stages[2].blocks[0],
        model.model.language_model.layers[0].self_attn,
        model.model.language_model.layers[1].cross_attn,
    ]
    counted = []
    for module in once:
        runs(module, counted)
    model(words(2, 7), pixel_values=pixels(2), labels=words(2, 7)).loss.backward()
    expected = 2 if checkpointing and mode == "train" else 1
    assert sorted(counted) == sorted(type(m).__name__ for m in once for _ in range(expected))


def test_it_can_be_turned_off_again(fresh):
    model, counted = fresh().train(), []
    model.gradient_checkpointing_enable()
    model(words(2, 7), pixel_values=pixels(2))
    model.gradient_checkpointing_disable()
    for module in (model.model.vision_tower.trunk.stages[2].blocks[0], model.model.language_model.layers[1].cross_attn):
        runs(module, counted)
    model(words(2, 7), pixel_values=pixels(2), labels=words(2, 7)).loss.backward()
    assert len(counted) == 2
