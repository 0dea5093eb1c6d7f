"""Families in which tokens of the prompt see each other both ways: Gemma 3 (the image), PaliGemma (all of it)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agevlm.geometry import Geometry
from agevlm.vlm.hf.families import expect
from agevlm.vlm.hf.general import General, Seen

if TYPE_CHECKING:
    import torch

    from agevlm.vlm.hf.layout import Layout


class _Stretched(General):
    """The image is stretched to a square and seen once."""

    probes = True

    def layout(self, features: Seen, width: int, height: int) -> Layout:
        from agevlm.vlm.hf.layout import Layout

        side, vision = self.side(), self.model.config.vision_config
        expect(self, len(features.visual), side * side)
        seen = vision.image_size // vision.patch_size * vision.patch_size
        box = (0, 0, vision.image_size, vision.image_size)
        return Layout.plain(Geometry.onto((width, height), box, (seen, seen), (side, side)), side * side)

    def side(self) -> int:
        """Visual tokens along a side of the square."""
        vision = self.model.config.vision_config
        return int(vision.image_size // vision.patch_size)


class Gemma3(_Stretched):
    """The tokens of an image see each other; text is causal, so that a prefix that holds the whole image is shared."""

    plain_positions = False

    def beginning(self, ids: torch.Tensor, features: Seen | None, prompts: Sequence[int]) -> dict[str, Any]:
        return {} if features is None else {"token_type_ids": (ids == self.image_token_id).long()}

    def side(self) -> int:
        # Patches are averaged in squares. (Pan and scan, which cuts tiles, is off unless a call asks for it.)
        return math.isqrt(self.model.config.mm_tokens_per_image)


class PaliGemma(_Stretched):
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
