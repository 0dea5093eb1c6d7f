"""What a configuration says, refuses, and keeps through JSON; the defaults are the paper's model."""

import json

import pytest
import torch
from transformers import LlamaConfig

from agevlm.model import (
    AgeVlmConfig,
    AgeVlmForConditionalGeneration,
    AgeVlmTextConfig,
    AgeVlmTextModel,
    AgeVlmVisionConfig,
    AgeVlmVisionModel,
)
from agevlm.model.cross_attention import AgeVlmCrossAttentionDecoderLayer
from tests.model.conftest import SIDE, TOKENS, tiny_config, tiny_text, tiny_vision


def count(model) -> int:
    return sum(p.numel() for p in model.parameters())


def on_meta(kind, config):
    with torch.device("meta"):
        return kind(config)


def test_the_defaults_are_the_papers_model():
    config = AgeVlmConfig()
    text, vision = config.text_config, config.vision_config
    assert text.cross_attention_layers == [2, 7, 12, 17]
    assert (text.num_hidden_layers, text.hidden_size, text.num_attention_heads, text.num_key_value_heads) == (
        20, 2048, 32, 8,
    )  # fmt: skip
    assert [text.layer_types.count(kind) for kind in ("full_attention", "cross_attention")] == [16, 4]
    assert [i for i, kind in enumerate(text.layer_types) if kind == "cross_attention"] == [2, 7, 12, 17]
    assert text.self_attention_layers == [i for i in range(20) if i not in (2, 7, 12, 17)]
    assert text.rope_parameters == {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }  # fmt: skip
    assert (text.head_dim, text.vocab_size, text.max_position_embeddings, text.rms_norm_eps) == (
        64, 128256, 131072, 1e-5,
    )  # fmt: skip
    assert (vision.architecture, vision.image_size, vision.grid) == ("convnext_large_mlp", 768, (24, 24))
    assert (vision.num_visual_tokens, vision.hidden_size, vision.stride) == (576, 1536, 32)
    assert (config.fusion, config.adapter, config.visual_positions, config.mask_padding) == (
        "cross", "mlp", "none", False,
    )  # fmt: skip
    assert config.tie_word_embeddings


def test_the_text_stack_has_the_papers_number_of_parameters():
    llama = 128256 * 2048 + 16 * (2 * 2048 * 2048 + 2 * 2048 * 512 + 3 * 2048 * 8192 + 2 * 2048) + 2048
    attention = 4 * (2 * 2048 * 2048 + 2 * 2048 * 512 + 2 * 64 + 2048 + 1)
    mlp = 4 * (3 * 2048 * 8192 + 2048 + 1)
    assert [round(n / 1e6, 1) for n in (llama, attention + mlp, llama + attention + mlp)] == [1235.8, 243.3, 1479.1]
    model = on_meta(AgeVlmTextModel, AgeVlmTextConfig())
    crossing = [layer for layer in model.layers if isinstance(layer, AgeVlmCrossAttentionDecoderLayer)]
    assert sum(count(layer) for layer in crossing) == attention + mlp
    assert count(model) == llama + attention + mlp
    assert count(on_meta(AgeVlmTextModel, AgeVlmTextConfig(cross_attention_mlp=False))) == llama + attention


def test_the_whole_default_model_fits_together():
    model = on_meta(AgeVlmForConditionalGeneration, AgeVlmConfig())
    assert model.model.adapter.linear_1.weight.shape == (2048, 1536)
    assert model.model.adapter.linear_2.weight.shape == (2048, 2048)
    assert 190e6 < count(model.model.vision_tower) < 200e6


@pytest.mark.parametrize(
    ("fused", "expected"),
    [
        (20, [2, 7, 12, 17]),
        (40, [2, 7, 12, 17, 22, 27, 32, 37]),
        (5, [2]),
        (3, [2]),
    ],
)
def test_one_layer_in_five_crosses_unless_told(fused, expected):
    assert AgeVlmTextConfig(num_hidden_layers=fused).cross_attention_layers == expected


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([0, 2], "layer 0"),
        ([2, 6], r"\[6\] lie outside the fused stack of 6 layers"),
        ([2, 99], r"\[99\] lie outside"),
        ([-1, 2], r"\[-1\] lie outside"),
        ([2, 4, 2], "names a layer twice"),
    ],
)
def test_impossible_cross_attention_layers_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        tiny_text(cross_attention_layers=layers)


def test_the_order_of_cross_attention_layers_does_not_matter_and_the_last_layer_may_cross():
    config = tiny_text(cross_attention_layers=[5, 1])
    assert config.cross_attention_layers == [1, 5]
    assert config.layer_types == ["full_attention", "cross_attention", *["full_attention"] * 3, "cross_attention"]


def test_layer_types_cannot_contradict_the_cross_attention_layers():
    assert tiny_text(layer_types=["full_attention"] * 6).layer_types[1] == "cross_attention"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fusion": "add"}, "fusion 'add' is unknown; give one of cross, concat"),
        ({"adapter": "resampler"}, "adapter 'resampler' is unknown; give one of mlp, linear"),
        ({"visual_positions": "rope"}, "visual_positions 'rope' is unknown; give one of none, learned, sincos"),
        ({"text": {"cross_attention_layers": []}}, "would never see an image"),
        ({"fusion": "concat", "text": {"cross_attention_layers": [1]}}, r"names cross_attention_layers \[1\]"),
        ({"fusion": "concat", "mask_padding": True}, "mask_padding"),
    ],
)
def test_settings_that_are_unknown_or_contradict_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**settings)


def test_concat_alone_is_a_plain_llama_stack():
    config = AgeVlmConfig(fusion="concat", image_token_id=5)
    assert config.text_config.num_hidden_layers == 16
    assert set(config.text_config.layer_types) == {"full_attention"}


@pytest.mark.parametrize("side", [767, 0, -32, 16])
def test_an_image_side_that_is_no_multiple_of_the_stride_is_refused(side):
    with pytest.raises(ValueError, match=f"image_size {side} is not a multiple of the stride 32"):
        AgeVlmVisionConfig(image_size=side)


def test_the_side_that_would_fit_is_named():
    with pytest.raises(ValueError, match="give 736"):
        AgeVlmVisionConfig(image_size=767)


CONFIGS = {
    "default": lambda: AgeVlmConfig(),
    "tiny": lambda: tiny_config(),
    "everything changed": lambda: tiny_config(
        {"cross_attention_layers": [3], "cross_attention_mlp": False, "tie_word_embeddings": False},
        adapter="linear",
        visual_positions="learned",
        mask_padding=True,
        vision_config=tiny_vision(num_stages=3),
    ),
    "concat": lambda: tiny_config(fusion="concat"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration_survives_json(tmp_path, case):
    config = CONFIGS[case]()
    config.save_pretrained(tmp_path)
    loaded = AgeVlmConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert type(loaded.text_config) is AgeVlmTextConfig
    assert type(loaded.vision_config) is AgeVlmVisionConfig
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == "age_vlm"
    assert written["text_config"]["cross_attention_layers"] == config.text_config.cross_attention_layers
    for name in ("fusion", "adapter", "visual_positions", "mask_padding", "image_token_id"):
        assert getattr(loaded, name) == getattr(config, name)


def test_the_parts_may_be_given_as_dictionaries():
    config = tiny_config(mask_padding=True)
    again = AgeVlmConfig(**config.to_dict())
    assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize("tied", [True, False])
def test_whether_the_head_is_tied_is_said_by_the_text_part(tied):
    assert tiny_config({"tie_word_embeddings": tied}).tie_word_embeddings is tied


LLAMA = {
    "vocab_size": 333,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "max_position_embeddings": 777,
    "rms_norm_eps": 3e-6,
    "attention_dropout": 0.125,
    "bos_token_id": 7,
    "eos_token_id": [8, 9],
    "pad_token_id": 10,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1234.0},
}


@pytest.mark.parametrize(
    ("own", "layers", "fused", "expected"),
    [
        (16, None, 20, [2, 7, 12, 17]),
        (32, None, 40, [2, 7, 12, 17, 22, 27, 32, 37]),
        (28, None, 35, [2, 7, 12, 17, 22, 27, 32]),
        (4, [1, 5], 6, [1, 5]),
        (4, [], 4, []),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_from_llama_keeps_everything_and_counts_both_kinds_of_layers(own, layers, fused, expected, tied):
    llama = LlamaConfig(**LLAMA, num_hidden_layers=own, tie_word_embeddings=tied)
    config = AgeVlmTextConfig.from_llama(llama, cross_attention_layers=layers, cross_attention_mlp=tied)
    for name, value in LLAMA.items():
        assert getattr(config, name) == value, name
    assert (config.num_hidden_layers, config.cross_attention_layers) == (fused, expected)
    assert config.tie_word_embeddings is config.cross_attention_mlp is tied
    assert len(config.self_attention_layers) == own


def test_from_llama_gives_a_configuration_of_its_own_type():
    config = AgeVlmTextConfig.from_llama(LlamaConfig(**LLAMA, num_hidden_layers=4))
    assert config.model_type == config.to_dict()["model_type"] == "age_vlm_text"


@pytest.mark.parametrize("own", range(2, 40))
def test_from_llama_and_the_default_for_a_fused_stack_agree(own):
    config = AgeVlmTextConfig.from_llama(LlamaConfig(**LLAMA, num_hidden_layers=own))
    default = AgeVlmTextConfig(num_hidden_layers=config.num_hidden_layers)
    assert config.cross_attention_layers == default.cross_attention_layers


TRUNKS = {
    "stride 32": ("convnext_atto", {}, None, 320, 32),
    "three stages": ("convnext_atto", {}, 3, 160, 16),
    "two stages": ("convnext_atto", {}, 2, 80, 8),
    "all stages by number": ("convnext_atto", {}, 4, 320, 32),
    # timm then halves once more in the first stage.
    "patches of two": ("convnext_atto", {"patch_size": 2}, None, 320, 32),
    "patches of two, three stages": ("convnext_atto", {"patch_size": 2}, 3, 160, 16),
    "patches of eight": ("convnext_atto", {"patch_size": 8}, 3, 160, 32),
    "norm before the pool": ("convnext_atto", {"head_norm_first": True}, None, 320, 32),
    "norm before the pool, three stages": ("convnext_atto", {"head_norm_first": True}, 3, 160, 16),
    "dilated": ("convnext_atto", {"output_stride": 16}, None, 320, 16),
    "another width": ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 24]}, None, 24, 32),
    "another width, three stages": ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 24]}, 3, 16, 16),
    "second version": ("convnextv2_atto", {}, None, 320, 32),
    "clip head": ("convnext_tiny", {"head_hidden_size": 64}, None, 768, 32),
}


@pytest.mark.parametrize("case", TRUNKS)
def test_from_timm_reads_width_and_stride_off_the_trunk_as_its_output_has_them(case):
    architecture, model_args, num_stages, width, stride = TRUNKS[case]
    config = AgeVlmVisionConfig.from_timm(
        architecture, image_size=SIDE, num_stages=num_stages, model_args=model_args or None
    )
    assert (config.hidden_size, config.stride) == (width, stride)
    assert config.grid == (SIDE // stride, SIDE // stride)
    tower = on_meta(AgeVlmVisionModel, config)
    tokens = tower(torch.zeros(2, 3, SIDE, SIDE, device="meta")).last_hidden_state
    assert tokens.shape == (2, config.num_visual_tokens, config.hidden_size)


def test_the_tiny_trunk_has_the_tokens_that_other_tests_count_on():
    assert tiny_vision().num_visual_tokens == TOKENS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "convnext_gigantic"}, "cannot build 'convnext_gigantic'"),
        ({"architecture": "convnext_atto", "model_args": {"no_such_argument": 1}}, "no_such_argument"),
        ({"architecture": "convnext_atto", "num_stages": 5}, "num_stages 5, but convnext_atto has 4 stages"),
        ({"architecture": "convnext_atto", "num_stages": 0}, "num_stages 0"),
        ({"architecture": "convnext_atto", "num_stages": -1}, "num_stages -1"),
        ({"architecture": "resnet18", "num_stages": 2}, "no stages"),
    ],
)
def test_a_trunk_that_timm_does_not_have_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AgeVlmVisionConfig.from_timm(**settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 16}, "32 channels at stride 32, but the configuration says hidden_size 16 and stride 32"),
        ({"stride": 16}, "32 channels at stride 32, but the configuration says hidden_size 32 and stride 16"),
        ({"num_stages": 3}, "16 channels at stride 16"),
    ],
)
def test_a_width_or_stride_that_is_not_the_trunks_is_refused(change, message):
    config = AgeVlmVisionConfig(**tiny_vision().to_dict() | change)
    with pytest.raises(ValueError, match=message):
        AgeVlmVisionModel(config)
