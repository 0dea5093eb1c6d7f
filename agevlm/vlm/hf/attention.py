"""Attention of a few queries in any transformers model, without eager attention.

transformers lets models run on a registered attention function. Ours is SDPA, and beside it computes the wanted rows a
second time, in float32; full maps of all queries never exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from agevlm.model.probe import attention_rows

NAME = "agevlm_rows"


@dataclass
class AttentionRows:
    """Which rows to compute, and what was found."""

    rows: torch.Tensor
    """(P,) batch row of each query."""
    queries: torch.Tensor
    """(P,) its position among the tokens of this forward pass; what is cached does not count."""
    columns: torch.Tensor
    """(P, C) positions of the keys to keep, cached ones counted."""
    layers: Sequence[int]
    heads: bool = False
    """Whether to keep the heads apart; else their mean."""
    found: dict[int, torch.Tensor] = field(default_factory=dict)
    """Layer -> (P, C), or (P, heads, C), float32 on the CPU: softmax over all visible keys, the wanted columns."""


_active: ContextVar[AttentionRows | None] = ContextVar("active", default=None)


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> Any:
    wanted = _active.get()
    if wanted is not None and module.layer_idx in wanted.layers:
        rows, queries, columns = (t.to(key.device) for t in (wanted.rows, wanted.queries, wanted.columns))
        if attention_mask is None:
            # Then it is plainly causal.
            past = key.shape[2] - query.shape[2]
            visible = torch.arange(key.shape[2], device=key.device)[None] <= past + queries[:, None]
        else:
            seen = attention_mask[rows if attention_mask.shape[0] > 1 else torch.zeros_like(rows), 0, queries]
            visible = seen if seen.dtype == torch.bool else seen == 0
        scaling = kwargs.get("scaling")
        weights = attention_rows(
            query[rows, :, queries],
            key,
            rows,
            query.shape[-1] ** -0.5 if scaling is None else scaling,
            visible,
            wanted.heads,
        )
        kept = columns[:, None].expand(-1, weights.shape[1], -1) if wanted.heads else columns
        wanted.found[module.layer_idx] = weights.gather(-1, kept).cpu()
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)


@contextmanager
def recording(language_model: Any, wanted: AttentionRows) -> Iterator[AttentionRows]:
    """Record the wanted rows of every forward pass of a language model in this context."""
    before = language_model.config._attn_implementation
    language_model.set_attn_implementation(NAME)
    token = _active.set(wanted)
    try:
        yield wanted
    finally:
        _active.reset(token)
        language_model.set_attn_implementation(before)
