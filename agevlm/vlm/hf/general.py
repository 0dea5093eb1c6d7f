"""Any transformers VLM whose processor writes the image into the prompt as placeholder tokens."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agevlm.errors import CheckpointError
from agevlm.vlm.hf import prompts
from agevlm.vlm.hf.families import Family

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

QUESTION = "Is there a zebra?"
"""Asked of the processor alone, with each image, to see how it writes that image into a prompt."""


@dataclass(frozen=True)
class Seen:
    """What is kept of one image."""

    visual: torch.Tensor
    """What takes the place of the placeholders, (visual tokens, hidden size); for cross-attention its states."""
    expansion: str
    """What the processor writes into a prompt in the placeholder's place."""
    placeholders: int
    """Placeholder tokens in the expansion."""
    shift: int = 0
    """What is added to the index of a token after the image for its position."""
    grid: torch.Tensor | None = None
    """(1, 3) patches in time, height and width, where positions follow them."""
    deepstack: tuple[torch.Tensor, ...] = ()
    """(visual tokens, hidden size) added to the hidden states of the first layers, one each."""
    tiles: torch.Tensor | None = None
    """(1, tiles): 1 for tiles that hold part of the image."""


class General(Family):
    """Placeholders are written as the checkpoint's own processor writes them, tiles, row marks and all."""

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        self._probe = prompts.render(processor, QUESTION, with_image=True)
        self.blind = self._takes_text_alone()

    def preprocess(self, image: Image) -> Any:
        """All that the processor makes of an image in a prompt, token ids included."""
        special = prompts.add_special_tokens(self.processor.tokenizer, self._probe)
        return self.processor(text=self._probe, images=image, return_tensors="pt", add_special_tokens=special)

    def features(self, inputs: dict[str, torch.Tensor]) -> Seen:
        """What is kept of an image.

        Raises:
            CheckpointError: the processor's placeholders are not one for each feature, or cannot be repeated.
        """
        accepted = inspect.signature(self.model.get_image_features).parameters
        vision = {name: value for name, value in inputs.items() if name in accepted}
        seen = self.seen(inputs, self.model.get_image_features(**vision))
        if len(seen.visual) != seen.placeholders:
            raise CheckpointError(
                f"the processor writes {seen.placeholders} placeholders (token {self.image_token_id}) for "
                f"{len(seen.visual)} visual tokens: processor and config.json do not agree"
            )
        return seen

    def seen(self, inputs: dict[str, torch.Tensor], output: Any) -> Seen:
        """What is kept of the vision tower's output, with how the processor writes the image."""
        ids = inputs["input_ids"][0].tolist()
        visual = joined(getattr(output, "pooler_output", output))
        return Seen(visual, self.expansion(ids), ids.count(self.image_token_id))

    def placeholders(self, features: Seen) -> int:
        return features.placeholders

    def prompt(self, text: str, features: Seen) -> str:
        return self.written(text, features.expansion)

    def written(self, text: str, expansion: str) -> str:
        """A rendered prompt with the expansion in its place."""
        return text.replace(self.image_token, expansion, 1)

    def embed(self, ids: torch.Tensor, features: Seen | None) -> torch.Tensor:
        mask = ids == self.image_token_id
        # Some placeholders are beyond the embedding table.
        embeddings: torch.Tensor = self.model.get_input_embeddings()(ids.masked_fill(mask, 0) if features else ids)
        if features is None:
            return embeddings
        return embeddings.masked_scatter(mask.unsqueeze(-1), features.visual.to(embeddings.device, embeddings.dtype))

    def expansion(self, ids: list[int]) -> str:
        """What the processor wrote, as text that gives exactly its token ids.

        Raises:
            CheckpointError: no text does.
        """
        tokenizer = self.processor.tokenizer
        begin, end = self._probe.split(self.image_token)
        whole = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        added = tokenizer.bos_token or ""
        skipped = len(added) if whole.startswith(added) and not begin.startswith(added) else 0
        read = whole[whole.find(begin, skipped) + len(begin) : len(whole) - len(end)]
        for expansion in (self.image_token * ids.count(self.image_token_id), read):
            if prompts.token_ids(tokenizer, self.written(self._probe, expansion)) == ids:
                return expansion
        raise CheckpointError(
            f"how {type(self.processor).__name__} writes an image into a prompt cannot be repeated for other questions"
        )

    def _takes_text_alone(self) -> bool:
        """Whether the processor takes a prompt without an image, and leaves it as it is."""
        tokenizer = self.processor.tokenizer
        text = prompts.render(self.processor, QUESTION, with_image=False)
        special = prompts.add_special_tokens(tokenizer, text)
        try:
            made = self.processor(text=text, return_tensors="pt", add_special_tokens=special)
            return bool(made["input_ids"][0].tolist() == prompts.token_ids(tokenizer, text))
        except Exception:
            # Processors have many ways to say that they need an image; whoever asks without one is told.
            return False


def joined(features: Any) -> torch.Tensor:
    """Features of one image as (visual tokens, hidden size), from whatever form a model returns them in."""
    import torch

    if isinstance(features, (list, tuple)):
        return torch.cat([part.reshape(-1, part.shape[-1]) for part in features])
    flat: torch.Tensor = features.reshape(-1, features.shape[-1])
    return flat
