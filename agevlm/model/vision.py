"""The vision tower: a timm ConvNet whose feature map becomes visual tokens."""

from typing import Any

import timm
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from agevlm.model import convnet  # noqa: F401 (makes our own trunk known to timm)
from agevlm.model.configuration import AgeVlmVisionConfig
from agevlm.model.pretrained import AgeVlmPreTrainedModel


def build_trunk(architecture: str, model_args: dict[str, Any] | None, num_stages: int | None) -> Any:
    """A randomly initialised timm trunk without its classifier.

    The head's norm goes too: it is never used on a feature map, and an unused parameter breaks distributed training.

    Raises:
        ValueError: unknown architecture, arguments it does not take, or more stages than it has.
    """
    try:
        trunk = timm.create_model(architecture, pretrained=False, num_classes=0, global_pool="", **(model_args or {}))
    except (RuntimeError, TypeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"vision tower: timm cannot build {architecture!r} with {model_args or {}}: {error}"
        ) from error
    if hasattr(trunk, "head"):
        trunk.head = nn.Identity()
    if num_stages is not None:
        stages = getattr(trunk, "stages", None)
        if stages is None or not 1 <= num_stages <= len(stages):
            held = "no stages" if stages is None else f"{len(stages)} stages"
            raise ValueError(f"vision tower: num_stages {num_stages}, but {architecture} has {held}")
        if num_stages < len(stages):
            trunk.stages = stages[:num_stages]
            trunk.norm_pre = nn.Identity()
    return trunk


def trunk_output(trunk: Any) -> tuple[int, int]:
    """Channels of the trunk's feature map, and input pixels per cell and side."""
    stages = getattr(trunk, "stages", None)
    info = trunk.feature_info[len(stages) - 1 if stages is not None else -1]
    return int(info["num_chs"]), int(info["reduction"])


class AgeVlmVisionModel(AgeVlmPreTrainedModel):
    """ConvNeXt: pixels (images, 3, side, side) -> visual tokens (images, rows x columns, channels)."""

    config: AgeVlmVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _no_split_modules = ["ConvNeXtStage"]  # noqa: RUF012

    def __init__(self, config: AgeVlmVisionConfig) -> None:
        super().__init__(config)
        self.trunk: Any = build_trunk(config.architecture, config.model_args, config.num_stages)
        width, stride = trunk_output(self.trunk)
        if (width, stride) != (config.hidden_size, config.stride):
            raise ValueError(
                f"vision tower: {config.architecture} has {width} channels at stride {stride}, but the configuration "
                f"says hidden_size {config.hidden_size} and stride {config.stride}; correct them "
                "(AgeVlmVisionConfig.from_timm reads them off the trunk)"
            )
        self.gradient_checkpointing = False
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutput:
        """Encode images of exactly the configured side. Raises ValueError on any other shape."""
        side = self.config.image_size
        if pixel_values.dim() != 4 or tuple(pixel_values.shape[-2:]) != (side, side):
            raise ValueError(
                f"pixel_values of shape {tuple(pixel_values.shape)}: expected (images, 3, {side}, {side}), as "
                "AgeVlmProcessor makes them"
            )
        if hasattr(self.trunk, "set_grad_checkpointing"):
            self.trunk.set_grad_checkpointing(self.gradient_checkpointing and self.training)
        features = self.trunk.forward_features(pixel_values.to(self.dtype))
        expected = (len(pixel_values), self.config.hidden_size, *self.config.grid)
        if tuple(features.shape) != expected:
            raise ValueError(
                f"vision tower: {self.config.architecture} gives features of shape {tuple(features.shape)}, not a "
                f"feature map of {expected}: take a ConvNet"
            )
        return BaseModelOutput(last_hidden_state=features.flatten(2).transpose(1, 2))
