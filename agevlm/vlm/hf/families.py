"""What differs between model families, in one place.

A family says how pixels become features and how many placeholder tokens stand for them in the prompt. The default
below holds wherever (1) `get_image_features` returns the features that replace the placeholder tokens one for one, in
order, and (2) positions are plain. Exceptions are subclasses and stand in `FAMILIES`; a type that is not listed
there is refused rather than guessed. torch is imported only when an image comes, so that refusing is quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agevlm.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


class Family:
    """Image features replace `<image>` placeholder tokens one for one; positions are 0, 1, 2, ..."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.image_token: str = processor.image_token
        self.image_token_id: int = model.config.image_token_id
        text_config = model.config.get_text_config()
        windows = (getattr(text_config, name, None) for name in ("sliding_window", "attention_chunk_size"))
        self.window: int | None = min((w for w in windows if w), default=None)
        """Tokens that some layer can look back, if limited."""

    def preprocess(self, image: Image) -> dict[str, torch.Tensor]:
        """One image as the model's vision inputs, on the model's device and in its dtype."""
        import torch

        inputs = self.processor.image_processor(images=[image], return_tensors="pt")
        device, dtype = self.model.device, self.model.dtype
        return {
            name: value.to(device, dtype) if torch.is_floating_point(value) else value.to(device)
            for name, value in inputs.items()
            if isinstance(value, torch.Tensor)
        }

    def features(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Vision features of one image in the language model's space: (visual tokens, hidden size)."""
        import torch

        output = self.model.get_image_features(**inputs)
        pooled = getattr(output, "pooler_output", output)
        if isinstance(pooled, (list, tuple)):
            pooled = torch.cat(list(pooled), dim=0)
        return pooled.reshape(-1, pooled.shape[-1])

    def expand(self, text: str, visual_tokens: int) -> str:
        """The prompt with its one placeholder repeated once per visual token, as the processor would."""
        return text.replace(self.image_token, self.image_token * visual_tokens, 1)

    def embed(self, ids: torch.Tensor, features: torch.Tensor | None) -> torch.Tensor:
        """Input embeddings of one row of token ids with features in place of placeholders: (1, length, hidden)."""
        embeddings = self.model.get_input_embeddings()(ids)
        mask = ids == self.image_token_id
        if features is None or not bool(mask.any()):
            return embeddings
        return embeddings.masked_scatter(mask.unsqueeze(-1), features.to(embeddings.dtype))


class Llava(Family):
    """LLaVA 1.5 and its kin (BakLLaVA, LLaVA-Interleave, TinyLLaVA-hf, ...)."""


class LlavaNext(Family):
    """LLaVA-NeXT (1.6): tiles of the image, packed with newline features by the model itself."""


FAMILIES: dict[str, type[Family]] = {"llava": Llava, "llava_next": LlavaNext}


ROW_MARKS = ("pixtral",)
"""Vision towers whose prompts hold a mark after each row of patches: not one placeholder per feature."""


def family_class(config: Mapping[str, Any]) -> type[Family]:
    """The family of a checkpoint by its config.json.

    Raises:
        CheckpointError: a model type or vision tower that no family handles; names the known types.
    """
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise CheckpointError(f"model type {model_type!r} is not supported yet; supported: {known}")
    tower = (config.get("vision_config") or {}).get("model_type")
    if tower in ROW_MARKS:
        raise CheckpointError(
            f"model type {model_type!r} with a {tower!r} vision tower is not supported yet: its prompts mark the end "
            "of each row of patches"
        )
    return FAMILIES[model_type]
