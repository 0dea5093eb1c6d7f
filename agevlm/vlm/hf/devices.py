"""Where inputs go in a model that may be spread over several devices (`--device-map`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TOWERS = ("vision_tower", "visual", "vision_model")
"""What transformers calls the vision tower of its models."""


def input_device(model: Any) -> torch.device:
    """The device of the input embeddings; of offloaded ones the device that they run on."""
    return _device(model.get_input_embeddings()) or model.device


def vision_device(model: Any) -> torch.device:
    """The device of the vision tower, or of the input embeddings where no tower is known."""
    inner = getattr(model, "model", model)
    tower = next((found for name in TOWERS if (found := getattr(inner, name, None)) is not None), None)
    return _device(tower) or input_device(model)


def is_spread(model: Any) -> bool:
    """Whether parts of the model lie on different devices."""
    return len(set(map(str, (getattr(model, "hf_device_map", None) or {}).values()))) > 1


def _device(module: Any) -> torch.device | None:
    """Where a module runs: of its first part with weights, or as accelerate's hooks say if those are elsewhere."""
    import torch

    if module is None:
        return None
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        execution = getattr(hook, "execution_device", None)
        if execution is not None:
            return torch.device(execution)
        parameter = next(part.parameters(recurse=False), None)
        if parameter is not None and parameter.device.type != "meta":
            return parameter.device
    return None
