"""The vision tower and the adapter against timm and against longhand, their initial weights, and what they refuse."""

import math

import pytest
import timm
import torch
from torch.nn import functional

from agevlm.model import AgeVlmForConditionalGeneration, AgeVlmVisionConfig, AgeVlmVisionModel
from agevlm.model.positions import sincos_positions
from tests.model import longhand
from tests.model.conftest import SIDE, TOKENS, build, pixels, tiny_config, tiny_vision, wake, words

TRUNKS = [("convnext_atto", None), ("convnext_atto", 3), ("convnextv2_atto", None)]


@pytest.fixture(params=TRUNKS, ids=str)
def tower(request):
    tower = AgeVlmVisionModel(tiny_vision(*request.param)).eval()
    wake(torch.nn.ModuleDict({"vision_tower": tower}))
    return tower


@torch.no_grad()
def test_tokens_are_the_cells_of_timms_feature_map_row_by_row(tower):
    config = tower.config
    plain = timm.create_model(config.architecture, **config.model_args).eval()
    missing, unexpected = plain.load_state_dict(tower.trunk.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith(("head.", "norm_pre.", "stages.3.")) for name in missing)
    states = plain.stem(pixels(2))
    for stage in plain.stages[: config.num_stages]:
        states = stage(states)
    rows, columns = config.grid
    assert states.shape[-2:] == (rows, columns)
    tokens = tower(pixels(2)).last_hidden_state
    assert tokens.shape == (2, rows * columns, config.hidden_size)
    for row in range(rows):
        for column in range(columns):
            torch.testing.assert_close(tokens[:, row * columns + column], states[:, :, row, column])


def test_every_weight_of_the_tower_takes_part_in_what_the_language_model_learns():
    for trunk in TRUNKS:
        model = build(tiny_config(vision_config=tiny_vision(*trunk), visual_positions="learned")).train()
        ids = words(2, 7)
        model(ids, pixel_values=pixels(2), labels=ids).loss.backward()
        for name, weight in model.named_parameters():
            assert weight.grad is not None, name
            assert bool(weight.grad.isfinite().all()), name
            assert bool(weight.grad.abs().sum() > 0), name


@pytest.mark.parametrize(
    "shape", [(2, 3, SIDE, SIDE + 1), (2, 3, SIDE - 32, SIDE), (2, 3, 2 * SIDE, 2 * SIDE), (3, SIDE, SIDE)]
)
def test_images_of_another_size_are_refused(vlm, shape):
    with pytest.raises(ValueError, match=rf"expected \(images, 3, {SIDE}, {SIDE}\)"):
        vlm()(words(2, 5), pixel_values=torch.zeros(shape))


@pytest.mark.parametrize("given", [None, 0.25, 1e-3])
def test_layer_scale_begins_as_the_configuration_says(given):
    args = {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 32]} | ({} if given is None else {"ls_init_value": given})
    config = AgeVlmVisionConfig.from_timm("convnext_atto", image_size=SIDE, model_args=args)
    for model in (AgeVlmVisionModel(config), build_untouched(vision_config=config).model.vision_tower):
        scales = [w for name, w in model.named_parameters() if name.endswith("gamma")]
        assert len(scales) == 4
        assert all(torch.equal(w, torch.full_like(w, 1e-6 if given is None else given)) for w in scales)


def build_untouched(**changes):
    return AgeVlmForConditionalGeneration(tiny_config(**changes))


@pytest.mark.parametrize("trunk", TRUNKS, ids=str)
def test_all_weights_are_set_where_memory_held_rubbish_before(trunk):
    model = build_untouched(vision_config=tiny_vision(*trunk), visual_positions="learned")
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(float("nan"))
    for module in model.modules():
        module._is_hf_initialized = False
    for weight in model.parameters():
        weight._is_hf_initialized = False
    model.init_weights()
    for name, weight in model.named_parameters():
        assert bool(weight.isfinite().all()), name
        assert bool((weight.abs() < 10).all()), name
    named = dict(model.named_parameters())
    gates = [w for name, w in named.items() if name.endswith(("attn_gate", "mlp_gate"))]
    assert len(gates) == 4
    assert not any(bool(w.any()) for w in gates)
    positions = named["model.adapter.visual_positions"]
    assert float(positions.std()) == pytest.approx(model.config.initializer_range, rel=0.3)


@pytest.mark.parametrize("adapter", ["mlp", "linear"])
@pytest.mark.parametrize("positions", ["none", "learned", "sincos"])
@torch.no_grad()
def test_the_adapter_equals_its_longhand(vlm, adapter, positions):
    model = vlm(adapter=adapter, visual_positions=positions)
    features = model.get_image_features(pixels(2))
    assert features.last_hidden_state.shape == (2, TOKENS, 32)
    expected = longhand.adapter(model.model.adapter, model.model.vision_tower(pixels(2)).last_hidden_state)
    torch.testing.assert_close(features.pooler_output, expected)
    assert (model.model.adapter.linear_2 is None) == (adapter == "linear")
    assert float((functional.gelu(expected) - expected).abs().max()) > 0.1


def test_sincos_positions_are_sines_of_row_and_column():
    rows, columns, width = 3, 5, 10
    found = sincos_positions(rows, columns, width)
    # Two waves for each direction: half a wave over the side, and one that spans three cells (but no longer than that).
    for row in range(rows):
        for column in range(columns):
            expected = []
            for cell, cells in ((column, columns), (row, rows)):
                angles = [2 * math.pi * (cell + 0.5) / cells * f for f in (0.5, max(0.5, cells / 3))]
                expected += [2 * math.sin(a) for a in angles] + [2 * math.cos(a) for a in angles]
            assert found[row * columns + column].tolist() == pytest.approx([*expected, 0, 0], abs=1e-6)


def test_sincos_positions_are_where_the_model_begins_and_are_trained():
    for fusion in ("cross", "concat"):
        model = build_untouched(visual_positions="sincos", fusion=fusion)
        positions, side = model.model.adapter.visual_positions, model.config.vision_config.grid[0]
        assert torch.equal(positions, sincos_positions(side, side, positions.shape[1]))
        assert positions.requires_grad
        # Every two cells differ by more than the initial weights would make them.
        apart = torch.cdist(positions.detach(), positions.detach()) + 100 * torch.eye(len(positions))
        assert float(apart.min()) > 1


@torch.no_grad()
def test_learned_positions_tell_identical_cells_apart(fresh):
    ids = words(1, 7)
    spread = {}
    for positions in ("none", "learned"):
        model = fresh(visual_positions=positions, attention="eager")
        if positions == "learned":
            model.model.adapter.visual_positions.normal_()
        same = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(0)).expand(1, TOKENS, 32)
        output = model(ids, image_features=model.model.adapter(same), output_vision_attentions=True)
        weights = torch.stack(output.vision_attentions)
        spread[positions] = float((weights.amax(-1) - weights.amin(-1)).max())
    assert spread["none"] < 1e-6
    assert spread["learned"] > 0.1
