"""Families whose visual tokens have positions in time, height and width (Qwen2-VL, Qwen2.5-VL, Qwen3-VL)."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from agevlm.geometry import Geometry
from agevlm.vlm.hf.families import expect
from agevlm.vlm.hf.general import General, Seen, joined

if TYPE_CHECKING:
    import torch

    from agevlm.vlm.hf.layout import Layout


class MRope(General):
    """Positions are the model's own (`get_rope_index`); text after the image goes on from them.

    An image of h x w visual tokens takes max(h, w) positions, so that the index of a token after it and its position
    differ by a constant that depends on the image alone: prefixes can be shared.
    """

    plain_positions = False

    def seen(self, inputs: dict[str, torch.Tensor], output: Any) -> Seen:
        ids, grid = inputs["input_ids"], inputs["image_grid_thw"]
        layers = getattr(output, "deepstack_features", None) or ()
        return replace(
            super().seen(inputs, output),
            grid=grid,
            shift=int(self._index(ids, grid)[1][0, 0]),
            deepstack=tuple(joined(layer) for layer in layers),
        )

    def shift(self, features: Seen | None) -> int:
        return 0 if features is None else features.shift

    def positions(self, ids: torch.Tensor, features: Seen | None) -> torch.Tensor:
        if features is None or features.grid is None:
            return super().positions(ids, None)
        positions: torch.Tensor = self._index(ids, features.grid.repeat(len(ids), 1))[0]
        return positions

    def _index(self, ids: torch.Tensor, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's positions (3, rows, length), and for each row its last position less its last index."""
        kinds = (ids == self.image_token_id).int()
        found: tuple[torch.Tensor, torch.Tensor] = self.model.model.get_rope_index(
            ids, mm_token_type_ids=kinds, image_grid_thw=grid.to(ids.device)
        )
        return found

    def forward(self, ids: torch.Tensor, features: Seen | None, **arguments: Any) -> Any:
        if features is None or not features.deepstack:
            return super().forward(ids, features, **arguments)
        kept = arguments.pop("logits_to_keep")
        hidden = self.model.model.language_model(
            inputs_embeds=self.embed_rows(ids, features),
            visual_pos_masks=ids == self.image_token_id,
            deepstack_visual_embeds=[layer.repeat(len(ids), 1) for layer in features.deepstack],
            **arguments,
        ).last_hidden_state
        kept = slice(-kept, None) if isinstance(kept, int) else kept.to(hidden.device)
        return SimpleNamespace(logits=self.model.lm_head(hidden[:, kept]))


class QwenVL(MRope):
    """Qwen2-VL, Qwen2.5-VL, Qwen3-VL: the image stretched to whole patches, squares of which are merged into a token.

    Where its vision tower reorders patches into windows, it undoes that itself.
    """

    probes = True

    def layout(self, features: Seen, width: int, height: int) -> Layout:
        from agevlm.vlm.hf.layout import Layout

        vision = self.model.config.vision_config
        merged, patch = vision.spatial_merge_size, vision.patch_size
        assert features.grid is not None
        _, rows, columns = features.grid[0].tolist()
        grid = rows // merged, columns // merged
        expect(self, len(features.visual), grid[0] * grid[1])
        geometry = Geometry.squash((width, height), (columns * patch, rows * patch), grid)
        return Layout.plain(geometry, len(features.visual))
