"""Attention of a few queries in any transformers model, without eager attention.

transformers lets models run on a registered attention function. Ours is SDPA, and beside it computes the wanted rows a
second time, in float32; full maps of all queries never exist.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from agevlm.errors import NotSupported
from agevlm.model.probe import attention_rows

NAME = "agevlm_rows"
T = TypeVar("T")


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


@dataclass(frozen=True)
class HiddenKeys:
    """What tokens must not look at."""

    keys: torch.Tensor
    """(rows, keys) True for hidden ones, cached ones counted; keys beyond them are not hidden."""
    first: torch.Tensor
    """(rows,) the first token that must not, counted as the tokens of this forward pass; negative: all of them."""
    layers: Sequence[int]
    applied: set[int] = field(default_factory=set)
    """Layers in which they were hidden."""

    def added_to(self, mask: torch.Tensor | None, queries: int, keys: int, device: torch.device) -> torch.Tensor:
        """A mask of attention (rows or 1, heads or 1, queries, keys), or None for a causal one, with these added."""
        if mask is None:
            mask = torch.ones((1, 1, queries, keys), dtype=torch.bool, device=device).tril(keys - queries)
        gone = torch.nn.functional.pad(self.keys, (0, keys - self.keys.shape[1])).to(device)
        gone = gone[:, None, :] & (torch.arange(queries) >= self.first[:, None])[..., None].to(device)
        if mask.dtype == torch.bool:
            return mask & ~gone[:, None]
        return mask.masked_fill(gone[:, None], torch.finfo(mask.dtype).min)


_active: ContextVar[AttentionRows | None] = ContextVar("active", default=None)
_hidden: ContextVar[HiddenKeys | None] = ContextVar("hidden", default=None)


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> Any:
    hidden = _hidden.get()
    if hidden is not None and module.layer_idx in hidden.layers:
        attention_mask = hidden.added_to(attention_mask, query.shape[2], key.shape[2], key.device)
        hidden.applied.add(module.layer_idx)
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
def recording(language_model: Any, wanted: AttentionRows) -> Iterator[None]:
    """Record the wanted rows of every forward pass of a language model in this context. Raises NotSupported."""
    with _attending(language_model, _active, wanted):
        yield
    _require(language_model, wanted.layers, wanted.found)


@contextmanager
def hiding(language_model: Any, hidden: HiddenKeys) -> Iterator[None]:
    """Hide keys in every forward pass of a language model in this context. Raises NotSupported."""
    with _attending(language_model, _hidden, hidden):
        yield
    _require(language_model, hidden.layers, hidden.applied)


def _require(language_model: Any, layers: Sequence[int], reached: Container[int]) -> None:
    """Models with attention of their own are left as they are: nothing is recorded then, and nothing is hidden."""
    if missing := [layer for layer in layers if layer not in reached]:
        raise NotSupported(
            f"layers {missing} of the language model (type {language_model.config.model_type!r}) do not run on "
            "transformers' attention interface, so that their attention can be neither recorded nor masked; the "
            "checkpoint can be asked, but not looked into"
        )


@contextmanager
def _attending(language_model: Any, variable: ContextVar[T | None], value: T) -> Iterator[None]:
    before = language_model.config._attn_implementation
    language_model.set_attn_implementation(NAME)
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
        language_model.set_attn_implementation(before)
