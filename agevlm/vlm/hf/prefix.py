"""One key/value cache for the prompt prefix that all questions of an image share; suffixes run as a batch on top."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from agevlm.model.cache import VisionCacheLayer
from agevlm.vlm.hf.families import Family


@dataclass(frozen=True)
class Prefix:
    """What the rows of an image share: its prompt prefix, and what the family keeps of the image itself."""

    ids: tuple[int, ...]
    """The prompt prefix; empty where rows share no text."""
    held: DynamicCache
    """One row: keys and values of the prefix, and the image's own where the family has such. Never written to."""

    def cache(self, rows: int) -> DynamicCache:
        """A cache that holds all this for so many rows; writing to it leaves the prefix untouched."""
        return _view(self.held, rows, len(self.ids))

    def first(self, length: int) -> Prefix:
        """The first so many tokens of it: later tokens never change earlier keys and values."""
        return Prefix(self.ids[:length], _view(self.held, 1, length))


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
    start = Prefix((), family.start(features))
    if not ids:
        return start
    row = torch.tensor([list(ids)], device=family.model.device)
    cache = start.cache(1)
    family.model(
        inputs_embeds=family.embed(row, features),
        attention_mask=torch.ones_like(row),
        position_ids=torch.arange(row.shape[1], device=row.device)[None],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return Prefix(tuple(ids), cache)


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


def prefill(
    family: Family,
    prefix: Prefix,
    suffixes: Sequence[Sequence[int]],
    wanted: Sequence[Sequence[int]],
    features: Any | None,
    pad: int,
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
    """
    device = family.model.device
    rows, longest, past = len(suffixes), max(map(len, suffixes)), len(prefix.ids)
    ids = torch.full((rows, longest), pad, device=device)
    mask = torch.zeros((rows, past + longest), dtype=torch.long, device=device)
    mask[:, :past] = 1
    for i, suffix in enumerate(suffixes):
        ids[i, : len(suffix)] = torch.tensor(list(suffix), device=device)
        mask[i, past : past + len(suffix)] = 1
    embeddings = (
        torch.cat([family.embed(row[None], features) for row in ids])
        if features is not None
        else family.embed(ids, None)
    )
    cache = prefix.cache(rows)
    # The vocabulary projection is a large share of a short suffix: only where some row needs it.
    kept = sorted(set().union(*wanted))
    column = {position: n for n, position in enumerate(kept)}
    output: Any = family.model(
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=torch.arange(past, past + longest, device=device).expand(rows, -1),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=torch.tensor(kept, device=device),
    )
    logits = [output.logits[i, [column[p] for p in positions]] for i, positions in enumerate(wanted)]
    lengths = torch.tensor([len(s) for s in suffixes], device=device)
    return Prefilled(logits, cache, mask, lengths)


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
    positions = past + state.lengths
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
        step = torch.tensor([[t if o else pad] for t, o in zip(tokens, open_rows, strict=True)], device=mask.device)
        mask = torch.cat([mask, mask.new_ones((len(limits), 1))], dim=1)
        output: Any = family.model(
            input_ids=step,
            attention_mask=mask,
            position_ids=positions[:, None],
            past_key_values=state.cache,
            use_cache=True,
        )
        logits = output.logits[:, -1].float()
        positions = positions + 1
    return first, [None if b else ids for b, ids in zip(broken, generated, strict=True)]
