"""AGE-VLM's two fusions as families of the session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from agevlm.vlm.hf.families import Family

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import DynamicCache

    from agevlm.geometry import Geometry
    from agevlm.vlm.hf.attention import AttentionRows


class _AgeVlm(Family):
    adapter = "native"
    probes = True

    @property
    def grid(self) -> tuple[int, int]:
        rows, columns = self.model.config.vision_config.grid
        return rows, columns

    def geometry(self, width: int, height: int) -> Geometry:
        placed: Geometry = self.processor.image_processor.geometry(width, height)
        return placed


class AgeVlmCross(_AgeVlm):
    """AGE-VLM: an image is the keys and values of its cross-attention layers, made once; the text holds none of it."""

    _wanted: AttentionRows | None = None
    """What of its attention to record, at the moment."""

    def features(self, inputs: dict[str, torch.Tensor]) -> DynamicCache:
        """A cache of one row that holds the image alone, and beside it the states that its keys were made of."""
        states = self.model.get_image_features(inputs["pixel_values"]).pooler_output
        cache = self.model.vision_cache(image_features=states, vision_token_mask=inputs.get("vision_token_mask"))
        cache.visual_states = states
        return cache

    def outside(self, features: DynamicCache) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        states: torch.Tensor = features.visual_states[0]
        visible = features.layers[self.attending_layers()[0]].visible
        seen = torch.ones(len(states), dtype=torch.bool, device=states.device) if visible is None else visible[0]
        return states, seen

    def placeholders(self, features: DynamicCache) -> int:
        return 0

    def start(self, features: DynamicCache | None) -> DynamicCache:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config) if features is None else features

    def embed(self, ids: torch.Tensor, features: DynamicCache | None) -> torch.Tensor:
        embeddings: torch.Tensor = self.model.get_input_embeddings()(ids)
        return embeddings

    def attending_layers(self) -> list[int]:
        return list(self.model.config.text_config.cross_attention_layers)

    def columns(self, ids: Sequence[int]) -> list[int]:
        rows, columns = self.grid
        return list(range(rows * columns))

    def visual_end(self, ids: Sequence[int]) -> int:
        return 0

    def visual_tokens(self, features: DynamicCache) -> int:
        rows, columns = self.grid
        return rows * columns

    @contextmanager
    def recording(self, wanted: AttentionRows) -> Iterator[None]:
        self._wanted = wanted
        try:
            yield
        finally:
            self._wanted = None

    @contextmanager
    def hiding(
        self, rows: Sequence[Sequence[int]], past: int, hidden: Sequence[NDArray[np.bool_]]
    ) -> Iterator[dict[str, Any]]:
        import torch

        yield {"vision_token_mask": torch.from_numpy(~np.stack(hidden)).to(self.device)}

    def forward(self, ids: torch.Tensor, features: DynamicCache | None, **arguments: Any) -> Any:
        shown = arguments.pop("vision_token_mask", None)
        if shown is not None:
            # The image is in the cache already, and its layers hand this on to attention.
            for layer in arguments["past_key_values"].layers:
                if hasattr(layer, "visible"):
                    layer.visible = shown if layer.visible is None else shown & layer.visible
        wanted = self._wanted
        if wanted is not None:
            from agevlm.model import ProbeRequest

            arguments["probe"] = ProbeRequest(wanted.rows, wanted.queries, wanted.layers, heads=wanted.heads)
        before, config = self.model.config.mask_padding, self.model.config
        # Without it masks of single visual tokens are not heeded.
        config.mask_padding = before or shown is not None
        try:
            output = super().forward(ids, features, **arguments)
        finally:
            config.mask_padding = before
        if wanted is not None:
            found = zip(output.probe.layers, output.probe.attention, strict=True)
            wanted.found.update({layer: rows.cpu() for layer, rows in found})
        return output


class AgeVlmConcat(_AgeVlm):
    """AGE-VLM's concatenation baseline: visual tokens in the text sequence, as in LLaVA."""

    def features(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.model.get_image_features(inputs["pixel_values"]).pooler_output[0]
