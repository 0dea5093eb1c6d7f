"""AGE-VLM as a transformers model. Importing this package registers it with transformers' Auto classes."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor

from agevlm.model.configuration import AgeVlmConfig, AgeVlmTextConfig, AgeVlmVisionConfig
from agevlm.model.image_processing import AgeVlmImageProcessor
from agevlm.model.modeling import AgeVlmForConditionalGeneration, AgeVlmModel
from agevlm.model.probe import ProbeRequest, ProbeResult
from agevlm.model.processing import AgeVlmProcessor
from agevlm.model.text import AgeVlmTextModel
from agevlm.model.vision import AgeVlmVisionModel

__all__ = [
    "AgeVlmConfig",
    "AgeVlmForConditionalGeneration",
    "AgeVlmImageProcessor",
    "AgeVlmModel",
    "AgeVlmProcessor",
    "AgeVlmTextConfig",
    "AgeVlmTextModel",
    "AgeVlmVisionConfig",
    "AgeVlmVisionModel",
    "ProbeRequest",
    "ProbeResult",
]

for _config, _model in (
    (AgeVlmTextConfig, AgeVlmTextModel),
    (AgeVlmVisionConfig, AgeVlmVisionModel),
    (AgeVlmConfig, AgeVlmModel),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
AutoModelForImageTextToText.register(AgeVlmConfig, AgeVlmForConditionalGeneration, exist_ok=True)
AutoImageProcessor.register(
    AgeVlmConfig,
    image_processor_classes={"pil": AgeVlmImageProcessor, "torchvision": AgeVlmImageProcessor},
    exist_ok=True,
)
AutoProcessor.register(AgeVlmConfig, AgeVlmProcessor, exist_ok=True)
