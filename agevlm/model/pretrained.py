"""What all parts of AGE-VLM share as transformers models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from agevlm.errors import CheckpointError
from agevlm.model.configuration import AgeVlmConfig
from agevlm.model.positions import sincos_positions

CONFIG = "config.json"
LOADING_PROBLEMS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
LAYER_SCALE = 1e-6
"""ConvNeXt's own initial layer scale, where model_args name none (`ls_init_value`)."""


class AgeVlmPreTrainedModel(PreTrainedModel):
    """Initialisation and what transformers may do with the model."""

    config: AgeVlmConfig
    base_model_prefix = "model"
    input_modalities: tuple[str, ...] = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["LlamaDecoderLayer", "AgeVlmCrossAttentionDecoderLayer", "ConvNeXtStage"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers does, from safetensors alone, and with every weight in its place.

        Raises:
            CheckpointError: no config.json, a missing or unexpected weight, or one of another shape (unless
                `ignore_mismatched_sizes`). transformers alone would go on with random numbers and a warning.
        """
        where = f"checkpoint {pretrained_model_name_or_path}"
        folder = Path(str(pretrained_model_name_or_path))
        if (
            folder.is_dir()
            and kwargs.get("config") is None
            and not (folder / kwargs.get("subfolder", "") / CONFIG).exists()
        ):
            # transformers would take the default configuration, and build the paper's model of it.
            raise CheckpointError(f"{where}: no {CONFIG} there; is this a checkpoint folder?")
        wants_info = kwargs.pop("output_loading_info", False)
        tolerated = "mismatched_keys" if kwargs.get("ignore_mismatched_sizes") else None
        # transformers' own refusal of another shape names no weight.
        kwargs |= {"use_safetensors": True, "ignore_mismatched_sizes": True}
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        kinds = [kind for kind in LOADING_PROBLEMS if kind != tolerated]
        refuse_incomplete(info, where, kinds)
        return (model, info) if wants_info else model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # Bare parameters that no generic rule of transformers knows: without a rule they stay uninitialised memory.
        for name in ("attn_gate", "mlp_gate"):
            if isinstance(gate := getattr(module, name, None), nn.Parameter):
                init.zeros_(gate)
        if isinstance(positions := getattr(module, "visual_positions", None), nn.Parameter):
            self._init_positions(positions)
        if isinstance(scale := getattr(module, "gamma", None), nn.Parameter):
            init.constant_(scale, self._layer_scale())
        if type(module).__name__ == "GlobalResponseNorm":
            init.zeros_(module.weight)
            init.zeros_(module.bias)

    def _init_positions(self, positions: nn.Parameter) -> None:
        if self.config.visual_positions == "sincos":
            rows, columns = self.config.vision_config.grid
            init.copy_(positions, sincos_positions(rows, columns, positions.shape[1]))
        else:
            init.normal_(positions, mean=0.0, std=self.config.initializer_range)

    def _layer_scale(self) -> float:
        vision: Any = getattr(self.config, "vision_config", self.config)
        value = (getattr(vision, "model_args", None) or {}).get("ls_init_value")
        return LAYER_SCALE if value is None else float(value)


def refuse_incomplete(info: Mapping[str, Any], where: str, kinds: Sequence[str] = LOADING_PROBLEMS) -> None:
    """Raise CheckpointError if transformers' loading report names any weight that is not in its place."""
    for kind in kinds:
        keys = sorted(map(str, info.get(kind) or []))
        if keys:
            # transformers only warns, and missing weights are then random: every score would be meaningless.
            raise CheckpointError(
                f"{where}: {len(keys)} {kind.replace('_', ' ')} in the weights, first {keys[0]}; "
                "the files do not belong to this config.json"
            )
