"""The tests that every model inside transformers must pass, on ours: cross-attention, and the concat baseline."""

from __future__ import annotations

import unittest
from fnmatch import fnmatchcase
from unittest.mock import patch

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel, initialization

from agevlm.model import (
    AgeVlmConfig,
    AgeVlmForConditionalGeneration,
    AgeVlmModel,
    AgeVlmTextConfig,
    AgeVlmTextModel,
    AgeVlmVisionConfig,
)
from agevlm.model.pretrained import AgeVlmPreTrainedModel
from tests.model.common.harness import Skip, transformers_tests

pytestmark = pytest.mark.slow

common = transformers_tests()

NO_GPU = "runs on machines with an accelerator"
SKIPS = {
    # what this machine lacks: the tests run where it is
    "test_can_load_with_*": Skip("requires accelerator", NO_GPU),
    "test_[cd]*_offload*": Skip("requires accelerator", NO_GPU),
    "test_flex_attention_with_grads": Skip("requires accelerator", NO_GPU),
    "test_sdpa_can_[cd]*": Skip("requires accelerator", NO_GPU),
    "test_model_parallelism": Skip("requires multiple accelerators", "runs on machines with several"),
    "test_flash_attn_[234]_*": Skip("requires Flash Attention", "runs where that package is"),
    "test_flash_attn_kernels_inf*": Skip("requires the kernels library", "tests load no kernels from the hub"),
    "test_flash_attn_kernels_mps*": Skip("requires MPS", "runs on Apple machines"),
    "test_kernels_can_load*": Skip("requires the kernels library", "tests load no kernels from the hub"),
    "test_resize_*_with_deepspeed*": Skip("requires deepspeed", "runs where DeepSpeed is"),
    "test_torch_compile_for_training": Skip("test is slow", "minutes of compiling, for accelerators; RUN_SLOW=1"),
    # what the model has not
    "test_eager_matches_batched_and_grouped*": Skip("does not support grouped_mm", "no mixture of experts"),
    "test_moe_models*": Skip("no sparse experts", "no mixture of experts"),
    "test_output_router_logits*": Skip("no `output_router_logits`", "no mixture of experts"),
    "test_encoder_decoder_loss*": Skip("not an encoder-decoder", "a decoder that looks at an image"),
    "test_keep_in_fp32_modules*": Skip("_keep_in_fp32_modules", "every module may run in half precision"),
    "test_resize_position_vector_embeddings": Skip("does not have position embeddings", "positions are rotary"),
    "test_model_rope_with_partial_rotation": Skip("not have partial rope", "LLaMA rotates whole heads"),
    "test_vision_axial_rope": Skip("no axial RoPE layer", "the tower is a ConvNet"),
    "test_sliding_window_mask": Skip("does not support sliding window", "attention is over the whole context"),
    "test_reverse_loading_mapping": Skip("No conversion found", "checkpoints have the model's own names"),
    "test_can_load_from_already_mapped_keys": Skip("No conversion found", "checkpoints have the model's own names"),
    "test_get_image_features_attentions": Skip("ConvNet", "the tower is a ConvNet"),
    "test_get_image_features_hidden_states": Skip("last feature map", "the tower gives its last feature map alone"),
    "test_inputs_embeds*": Skip("embeddings do not tell", "concat finds its image tokens in input_ids"),
    # what the tests cannot do with it
    "test_sdpa_can_dispatch_non_composite_models": Skip("does not support SDPA", "for models without sub-models"),
    "test_disk_offload_bin": Skip("safetensors alone", "pickled checkpoints are refused"),
    "test_generation_tester_mixin_inheritance": Skip("source distribution", "tests of generation are in tests/model"),
}
"""Skipped test: what it says, and why that is in order. Any other skip is a failure (see conftest.py)."""

IMAGE_TOKEN = 3
VISUAL_TOKENS = 4
SPREAD = 0.1
"""Of initial weights. At the usual 0.02 the image hardly moves the logits, and much would pass that should not."""


class Tester:
    """Sizes, configuration and inputs, in the terms that the common tests ask for."""

    is_training = True
    # What the tests of attention implementations want: they fill smaller batches up with random words.
    batch_size = 7
    seq_length = encoder_seq_length = 7
    vocab_size = 97
    hidden_size = 64
    num_attention_heads = 4
    # Self-attention layers, whose weights `output_attentions` gives. Between them is one of cross-attention.
    num_hidden_layers = 2
    expected_num_hidden_layers = 4

    def get_config(self) -> AgeVlmConfig:
        text = AgeVlmTextConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=2,
            cross_attention_layers=[1],
            max_position_embeddings=256,
            initializer_range=SPREAD,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        return AgeVlmConfig(text_config=text, vision_config=self.get_vision_config(), initializer_range=SPREAD)

    def get_vision_config(self) -> AgeVlmVisionConfig:
        # A layer scale that lets the blocks take part; its usual 1e-6 makes them all but invisible.
        model_args = {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 32], "ls_init_value": 0.5}
        return AgeVlmVisionConfig(
            architecture="convnext_atto",
            model_args=model_args,
            image_size=64,
            hidden_size=32,
            initializer_range=SPREAD,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[AgeVlmConfig, dict[str, torch.Tensor]]:
        input_ids = IMAGE_TOKEN + 1 + common.ids_tensor([self.batch_size, self.seq_length], self.vocab_size - 4)
        inputs = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "pixel_values": common.floats_tensor([self.batch_size, 3, 64, 64]),
        }
        return self.get_config(), inputs


class ConcatTester(Tester):
    """The baseline: visual tokens in the text sequence."""

    expected_num_hidden_layers = 3

    def get_config(self) -> AgeVlmConfig:
        text = super().get_config().text_config.to_dict() | {"num_hidden_layers": 2, "cross_attention_layers": []}
        return AgeVlmConfig(
            text_config=AgeVlmTextConfig(**text),
            vision_config=self.get_vision_config(),
            initializer_range=SPREAD,
            fusion="concat",
            image_token_id=IMAGE_TOKEN,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[AgeVlmConfig, dict[str, torch.Tensor]]:
        config, inputs = super().prepare_config_and_inputs_for_common()
        inputs["input_ids"][:, 1 : 1 + VISUAL_TOKENS] = IMAGE_TOKEN
        return config, inputs


class CommonTests(common.ModelTesterMixin):
    """What both fusions share."""

    all_model_classes = (AgeVlmModel, AgeVlmForConditionalGeneration)
    _is_composite = True
    # Tests of attention implementations take the text alone, but for what is named here.
    additional_model_inputs = ("pixel_values",)
    test_can_init_all_missing_weights_before_2023 = True
    # It would look for the width in timm's arguments; see test_image_features_are_as_wide_as_configured.
    skip_test_image_features_output_shape = True

    def setUp(self) -> None:
        super().setUp()
        common.set_seed(0)
        common.global_rng.seed(0)
        self.model_tester = self.sizes()
        # The common tests know a model's kind by its name, and only of models inside transformers.
        heads = {"age_vlm": AgeVlmForConditionalGeneration.__name__}
        self.enterContext(patch.dict(common.MODEL_MAPPING_NAMES, {"age_vlm": AgeVlmModel.__name__}))
        self.enterContext(patch.dict(common.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, heads))
        if self._testMethodName != "test_can_init_all_missing_weights":
            self.enterContext(open_gates())
        if "_rope_scaling_" in self._testMethodName:
            # They go beyond the context, which our model refuses.
            self.enterContext(patch.object(AgeVlmTextModel, "_check_length"))

    def test_the_image_moves_the_logits(self) -> None:
        """Without that most tests here would pass whatever the model does with images."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = AgeVlmForConditionalGeneration(config).to(common.torch_device).eval()
        with torch.no_grad():
            seen = model(**inputs).logits
            inputs["pixel_values"] = common.floats_tensor(inputs["pixel_values"].shape)
            moved = (model(**inputs).logits - seen).abs().max()
        assert moved > 0.1 * seen.std()

    def test_image_features_are_as_wide_as_configured(self) -> None:
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = AgeVlmForConditionalGeneration(config).to(common.torch_device).eval()
        with torch.no_grad():
            features = model.get_image_features(inputs["pixel_values"])
        rows = len(inputs["pixel_values"])
        assert features.last_hidden_state.shape == (rows, VISUAL_TOKENS, config.vision_config.hidden_size)
        assert features.pooler_output.shape == (rows, VISUAL_TOKENS, config.text_config.hidden_size)

    def test_every_allowed_skip_is_of_a_common_test(self) -> None:
        """Entries of tests that a newer transformers no longer has would hide new skips."""
        names = [name for name in dir(CommonTests) if name.startswith("test_")]
        assert [pattern for pattern in SKIPS if not any(fnmatchcase(name, pattern) for name in names)] == []

    def test_can_init_all_missing_weights(self) -> None:
        with lenient():
            super().test_can_init_all_missing_weights()

    def test_model_weights_reload_no_missing_tied_weights(self) -> None:
        with lenient():
            super().test_model_weights_reload_no_missing_tied_weights()

    def test_generation_tester_mixin_inheritance(self) -> None:
        self.skipTest("the source distribution has no tests of generation")

    def test_get_image_features_attentions(self) -> None:
        self.skipTest("a ConvNet has no attention")

    def test_get_image_features_hidden_states(self) -> None:
        self.skipTest("the vision tower gives its last feature map alone")

    def test_disk_offload_bin(self) -> None:
        self.skipTest("weights are read from safetensors alone")


def open_gates():
    """Gates start at zero, which would shut the image out of every test here."""
    initialise = AgeVlmPreTrainedModel._init_weights

    @torch.no_grad()
    def opened(model: AgeVlmPreTrainedModel, module: nn.Module) -> None:
        initialise(model, module)
        for name in ("attn_gate", "mlp_gate"):
            if (gate := getattr(module, name, None)) is not None:
                initialization.constant_(gate, 0.5)

    return patch.object(AgeVlmPreTrainedModel, "_init_weights", opened)


def lenient():
    """Loading as transformers does it, for tests that load files without weights: ours refuses them."""
    return patch.object(AgeVlmPreTrainedModel, "from_pretrained", PreTrainedModel.__dict__["from_pretrained"])


class CrossAttentionTest(CommonTests, unittest.TestCase):
    sizes = Tester


class ConcatTest(CommonTests, unittest.TestCase):
    sizes = ConcatTester

    def test_inputs_embeds(self) -> None:
        self.skipTest("embeddings do not tell where the image tokens are")

    def test_inputs_embeds_matches_input_ids(self) -> None:
        self.skipTest("embeddings do not tell where the image tokens are")
