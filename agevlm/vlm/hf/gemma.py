"""Families in which tokens of the prompt see each other both ways: Gemma 3 (the image), PaliGemma (all of it)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agevlm.vlm.hf.general import General, Seen

if TYPE_CHECKING:
    import torch


class Gemma3(General):
    """The tokens of an image see each other; text is causal, so that a prefix that holds the whole image is shared."""

    plain_positions = False

    def beginning(self, ids: torch.Tensor, features: Seen | None, prompts: Sequence[int]) -> dict[str, Any]:
        return {} if features is None else {"token_type_ids": (ids == self.image_token_id).long()}


class PaliGemma(General):
    """All tokens of the prompt see each other, so that a question changes what becomes of the image before it."""

    plain_positions = False
    shares_prefix = False
    why_not = "its prompt is bidirectional: the question changes the keys and values of the image before it"

    def written(self, text: str, expansion: str) -> str:
        # As the processor does: BOS behind the image, a line break at the end.
        begin, end = text.split(self.image_token)
        return f"{begin}{expansion}{self.processor.tokenizer.bos_token}{end}\n"

    def shift(self, features: Seen | None) -> int:
        return 1

    def positions(self, ids: torch.Tensor, features: Seen | None) -> torch.Tensor:
        return super().positions(ids, features) + 1

    def beginning(self, ids: torch.Tensor, features: Seen | None, prompts: Sequence[int]) -> dict[str, Any]:
        import torch

        ends = torch.tensor(list(prompts), device=ids.device)
        return {"token_type_ids": (torch.arange(ids.shape[1], device=ids.device) >= ends[:, None]).long()}
