"""One key/value cache for the prompt prefix that all questions of an image share; suffixes run as a batch on top."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from agevlm.model.cache import VisionCacheLayer
from agevlm.vlm.hf.devices import is_spread
from agevlm.vlm.hf.families import Family


@dataclass(frozen=True)
class Prefix:
    """What the rows of an image share: its prompt prefix, and what the family keeps of the image itself."""

    ids: tuple[int, ...]
    """The prompt prefix; empty where rows share no text."""
    held: DynamicCache
    """One row: keys and values of the prefix, and the image's own where the family has such. Never written to."""
    features: Any | None = None
    """Of the image, as the family keeps them."""

    def cache(self, rows: int) -> DynamicCache:
        """A cache that holds all this for so many rows; writing to it leaves the prefix untouched."""
        return _view(self.held, rows, len(self.ids))

    def first(self, length: int) -> Prefix:
        """The first so many tokens of it: later tokens never change earlier keys and values."""
        return Prefix(self.ids[:length], _view(self.held, 1, length), self.features)


def _view(cache: DynamicCache, rows: int, length: int) -> DynamicCache:
    """The first tokens of a one-row cache for many rows, without copying any: updates concatenate into new memory."""
    view = copy.copy(cache)
    view.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in view.layers:
        if isinstance(layer, VisionCacheLayer):
            layer.batch_repeat_interleave(rows)
        elif layer.is_initialized:
            layer.keys, layer.values = (t[:, :, :length].expand(rows, -1, -1, -1) for t in (layer.keys, layer.values))
    return view


def build_prefix(family: Family, ids: Sequence[int], features: Any | None) -> Prefix:
    """Run the shared prefix once and keep its keys and values; without ids, only what the image brings by itself."""
    start = Prefix((), family.start(features), features)
    if not ids:
        return start
    row = torch.tensor([list(ids)], device=family.device)
    cache = start.cache(1)
    family.forward(
        row,
        features,
        attention_mask=torch.ones_like(row),
        position_ids=family.positions(row, features),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        **family.beginning(row, features, [len(ids)]),
    )
    return Prefix(tuple(ids), cache, features)


@dataclass
class Prefilled:
    """A batch of rows after their suffixes ran."""

    logits: list[torch.Tensor]
    """For each row (wanted positions, vocabulary) in the model's dtype."""
    cache: DynamicCache
    mask: torch.Tensor
    """(rows, prefix + longest suffix): 1 for tokens, 0 for the right padding."""
    lengths: torch.Tensor
    """(rows,): suffix length of each row."""
    features: Any | None = None
    """Of the image, as the family keeps them."""


def prefill(
    family: Family,
    prefix: Prefix,
    suffixes: Sequence[Sequence[int]],
    wanted: Sequence[Sequence[int]],
    features: Any | None,
    pad: int,
    hidden: Sequence[NDArray[np.bool_]] | None = None,
) -> Prefilled:
    """Run right-padded suffixes on top of a shared prefix.

    Right padding keeps every row's tokens at their own positions; padded slots are masked for ever after.

    Args:
        family: the model's family.
        prefix: what the rows share; may be empty.
        suffixes: the rest of each row, at least one token each.
        wanted: for each row the positions within its suffix whose logits are needed.
        features: the image's features if the suffixes hold its placeholders (an empty prefix), else None.
        pad: any valid token id but the image placeholder's.
        hidden: for each row (visual tokens,): those that the suffix shall not look at.
    """
    device = family.device
    rows, longest, past = len(suffixes), max(map(len, suffixes)), len(prefix.ids)
    ids = torch.full((rows, longest), pad, device=device)
    mask = torch.zeros((rows, past + longest), dtype=torch.long, device=device)
    mask[:, :past] = 1
    for i, suffix in enumerate(suffixes):
        ids[i, : len(suffix)] = torch.tensor(list(suffix), device=device)
        mask[i, past : past + len(suffix)] = 1
    if past:
        shift = past + family.shift(prefix.features)
        positions = torch.arange(shift, shift + longest, device=device).expand(rows, -1)
        more = family.further(prefix.features, rows, longest, past)
    else:
        positions = family.positions(ids, features)
        # A row is prompt up to the first position whose logits are wanted; what follows continues it.
        more = family.beginning(ids, features, [min(places) + 1 for places in wanted])
    cache = prefix.cache(rows)
    # The vocabulary projection is a large share of a short suffix: only where some row needs it.
    kept = sorted(set().union(*wanted))
    if is_spread(family.model):
        # Hidden states end up on another device than an index would: all from the first one on.
        kept = list(range(kept[0], longest))
    column = {position: n for n, position in enumerate(kept)}
    masked: AbstractContextManager[dict[str, Any]] = nullcontext({})
    if hidden is not None:
        masked = family.hiding([[*prefix.ids, *suffix] for suffix in suffixes], past, hidden)
    with masked as masks:
        output: Any = family.forward(
            ids,
            features,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=len(kept) if is_spread(family.model) else torch.tensor(kept, device=device),
            **more,
            **masks,
        )
    logits = [output.logits[i, [column[p] for p in places]] for i, places in enumerate(wanted)]
    lengths = torch.tensor([len(s) for s in suffixes], device=device)
    return Prefilled(logits, cache, mask, lengths, prefix.features)


def decode_greedily(
    family: Family, state: Prefilled, past: int, limits: Sequence[int], end_ids: frozenset[int], pad: int
) -> tuple[torch.Tensor, list[list[int] | None]]:
    """Greedy continuation of every row; `state` holds the logits of each row's last token.

    Returns:
        The first step's logits, (rows, vocabulary) in float32, and the generated ids of each row, end token included;
        None for a row whose logits are not numbers (float16 overflows so): its argmax would look like an answer.
    """
    logits = torch.cat(state.logits).float()
    first = logits
    generated: list[list[int]] = [[] for _ in limits]
    broken = [False for _ in limits]
    open_rows = [limit > 0 for limit in limits]
    positions = past + state.lengths + family.shift(state.features)
    mask = state.mask
    while any(open_rows):
        tokens = logits.argmax(-1).tolist()
        undefined = logits.isnan().any(-1).tolist()
        for i, token in enumerate(tokens):
            if open_rows[i] and undefined[i]:
                broken[i], open_rows[i] = True, False
            elif open_rows[i]:
                generated[i].append(token)
                open_rows[i] = token not in end_ids and len(generated[i]) < limits[i]
        if not any(open_rows):
            break
        mask = torch.cat([mask, mask.new_ones((len(limits), 1))], dim=1)
        logits = step(family, state, [t if o else pad for t, o in zip(tokens, open_rows, strict=True)], mask, positions)
        # A row that has ended stays where it is: its place may be the last that the model has.
        positions = positions + positions.new_tensor(open_rows)
    return first, [None if b else ids for b, ids in zip(broken, generated, strict=True)]


def step(
    family: Family, state: Prefilled, tokens: Sequence[int], mask: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """One more token for every row, written to the cache: next-token logits (rows, vocabulary) in float32."""
    output: Any = family.model(
        input_ids=torch.tensor([[token] for token in tokens], device=mask.device),
        attention_mask=mask,
        position_ids=positions[:, None],
        past_key_values=state.cache,
        use_cache=True,
        **family.further(state.features, len(tokens), 1, mask.shape[1] - 1),
    )
    logits: torch.Tensor = output.logits[:, -1].float()
    return logits
