"""Cache layers for the keys and values of visual tokens.

Text layers of a cache grow token by token; these are written once per image. Defining the classes registers them with
transformers: `DynamicCache(config=...)`, `StaticCache` and `generate` then build them wherever a configuration's
`layer_types` say "cross_attention".
"""

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer, StaticLayer

from agevlm.model.configuration import CROSS_ATTENTION


class VisionCacheMixin:
    """What both kinds share: a mask over visual tokens that travels with the keys, and no notion of text length."""

    keys: Any
    values: Any
    is_initialized: bool
    supports_early_init = False
    """Memory set aside ahead of the first image would look like an image of no tokens."""
    visible: torch.Tensor | None = None
    """(rows, visual tokens) bool: what each row may look at; None for everything. A row without True has no image."""

    def crop(self, *_: Any) -> None:
        """Rolling text back leaves the image alone."""

    def get_max_length(self) -> int:
        """No bound on the text: -1."""
        return -1

    def reset(self) -> None:
        """Forget the image."""
        self.keys = self.values = self.visible = None
        self.is_initialized = False

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Beams of one prompt share an image, but which rows are which prompt's may still change."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows."""
        self._each(lambda t: t[indices.to(t.device)])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row; the rows of a single image share its memory, since it is only ever read."""
        self._each(
            lambda t: t.expand(repeats, *t.shape[1:]) if t.shape[0] == 1 else t.repeat_interleave(repeats, dim=0)
        )

    def _each(self, change: Any) -> None:
        if not self.is_initialized:
            return
        self.keys, self.values = change(self.keys), change(self.values)
        if self.visible is not None:
            self.visible = change(self.visible)


class VisionCacheLayer(VisionCacheMixin, DynamicLayer):
    """Keys and values of visual tokens: (rows, key/value heads, visual tokens, head size)."""

    _layer_type = CROSS_ATTENTION

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the place of what was there: a second image is not appended to the first."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys, self.values = key_states, value_states
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys, whatever the number of queries."""
        return self.get_seq_length(), 0


class StaticVisionCacheLayer(VisionCacheMixin, StaticLayer):
    """The same for `StaticCache`: memory is set aside at the first image and written in place."""

    _layer_type = CROSS_ATTENTION

    def __init__(self, max_cache_len: int = 0, **_: Any) -> None:
        super().__init__(max_cache_len=0)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the place of what was there; memory is set aside anew only where the shape changes."""
        if not self.is_initialized or self.keys is None or self.keys.shape != key_states.shape:
            self.max_cache_len = key_states.shape[-2]
            self.lazy_initialization(key_states, value_states)
        self.keys.copy_(key_states)
        self.values.copy_(value_states)
        self.cumulative_length.fill_(key_states.shape[-2])
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row in memory of its own: the next image is written into it."""
        self._each(lambda t: t.repeat_interleave(repeats, dim=0))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys, whatever the number of queries."""
        return self.max_cache_len, 0


VisionLayer = VisionCacheLayer | StaticVisionCacheLayer
