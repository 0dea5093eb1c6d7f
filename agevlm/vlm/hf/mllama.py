"""Mllama (Llama 3.2 Vision): text reads the image through cross-attention layers and holds one mark of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agevlm.geometry import Geometry
from agevlm.vlm.hf.families import expect
from agevlm.vlm.hf.general import General, Seen

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache

    from agevlm.vlm.hf.layout import Layout


class Mllama(General):
    """Keys and values of the image are made once, with the prefix; from the mark on, text looks at its tiles."""

    plain_positions = False
    probes = True

    def features(self, inputs: dict[str, torch.Tensor]) -> Seen:
        inner = self.model.model
        names = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")
        states = inner.vision_model(**{name: inputs[name] for name in names}).last_hidden_state
        states = inner.multi_modal_projector(states)
        ids = inputs["input_ids"][0].tolist()
        return Seen(
            states.reshape(1, -1, states.shape[-1]),
            self.expansion(ids),
            ids.count(self.image_token_id),
            tiles=inputs["cross_attention_mask"][0, -1].to(self.device),
        )

    def start(self, features: Seen | None) -> DynamicCache:
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        from agevlm.model.cache import VisionCacheLayer

        cache = DynamicCache()
        text = self.model.config.get_text_config()
        crossing = set(text.cross_attention_layers)
        cache.layers = [VisionCacheLayer() if n in crossing else DynamicLayer() for n in range(text.num_hidden_layers)]
        return cache

    def outside(self, features: Seen) -> tuple[torch.Tensor, torch.Tensor]:
        states = features.visual[0]
        assert features.tiles is not None
        return states, features.tiles[0].bool().repeat_interleave(len(states) // features.tiles.shape[-1])

    def embed(self, ids: torch.Tensor, features: Seen | None) -> torch.Tensor:
        embeddings: torch.Tensor = self.model.get_input_embeddings()(ids)
        return embeddings

    def beginning(self, ids: torch.Tensor, features: Seen | None, prompts: Sequence[int]) -> dict[str, Any]:
        if features is None or features.tiles is None:
            return {}
        after = (ids == self.image_token_id).cumsum(-1)
        return {
            # One vision pass per row would be (rows, tiles * patches, hidden): rows share the memory.
            "cross_attention_states": features.visual.to(self.device).expand(len(ids), -1, -1),
            "cross_attention_mask": after[..., None, None] * features.tiles,
        }

    def further(self, features: Seen | None, rows: int, length: int, past: int) -> dict[str, Any]:
        if features is None or features.tiles is None:
            return {}
        # Of all tokens: some versions of transformers look up those that come, others take the last.
        return {"cross_attention_mask": features.tiles.expand(rows, past + length, -1, -1)}

    def visual_tokens(self, features: Seen) -> int:
        return features.visual.shape[1]

    def columns(self, ids: Sequence[int]) -> list[int]:
        # All keys of the cross-attention layers, empty tiles and class tokens too.
        vision = self.model.config.vision_config
        return list(range(vision.max_num_tiles * ((vision.image_size // vision.patch_size) ** 2 + 1)))

    def visual_end(self, ids: Sequence[int]) -> int:
        return super().columns(ids)[-1] + 1

    def attending_layers(self) -> list[int]:
        return list(self.model.config.get_text_config().cross_attention_layers)

    def layout(self, features: Seen, width: int, height: int) -> Layout:
        """Tiles of an image in the upper left corner of a canvas; each begins with a class token, others are empty."""
        from transformers.models.mllama.image_processing_mllama import (
            get_image_size_fit_to_canvas,
            get_optimal_tiled_canvas,
        )

        from agevlm.vlm.hf.layout import Layout, View, tile_by_tile

        images, vision = self.processor.image_processor, self.model.config.vision_config
        tile = images.size["height"]
        side, tokens = tile // vision.patch_size, self.visual_tokens(features)
        expect(self, tokens, images.max_image_tiles * (side * side + 1))
        canvas = get_optimal_tiled_canvas(height, width, images.max_image_tiles, tile)
        new_height, new_width = get_image_size_fit_to_canvas(height, width, *canvas, tile)
        down, across = (int(length) // tile for length in canvas)
        box = (0, 0, float(new_width), float(new_height))
        geometry = Geometry.onto((width, height), box, (across * tile, down * tile), (down * side, across * side))
        numbers = tile_by_tile((down, across), (side, side), first=1, stride=side * side + 1)
        return Layout.of(View(geometry, numbers), [], tokens)
