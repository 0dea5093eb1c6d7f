"""The suffixes of all questions of an image in one row after their shared prefix, kept apart by a block mask.

Every suffix has the positions that follow the prefix and sees the prefix and itself, nothing of the others: the same
sums as in a row of its own. The prefix's keys and values are read as they are, where a batch repeats them for every
question; no slot is padding; and the vocabulary projection runs over wanted positions alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from agevlm.model.cache import VisionCacheLayer
from agevlm.vlm.hf.families import Family
from agevlm.vlm.hf.greedy import Greedy
from agevlm.vlm.hf.prefix import Decoded, Prefilled, Prefix, decode_batch, decode_greedily

SHARED = -1
"""Owner of the keys that every question sees."""
MOST_POSITIONS = 768
"""Suffix tokens in one pack: attention among them grows with their square, though only its blocks are used."""
MOST_KEYS = 2048
"""Keys in one pack beside the shared ones; with more, its answers go on as a batch. Each step goes past all of them."""
ATTENTIONS = ("sdpa", "eager")
"""Attention implementations that take a mask of queries by keys."""


def can_pack(family: Family) -> bool:
    """Whether a family's questions may share a row: positions are plain, and its attention takes a block mask."""
    config = family.model.config.get_text_config()
    return family.plain_positions and config._attn_implementation in ATTENTIONS


def worth_packing(family: Family, past: int, suffixes: Sequence[Sequence[int]], steps: int) -> bool:
    """Whether these suffixes are better off in one row than as a batch, as far as was measured (docs/speed.md).

    Args:
        family: one that `can_pack`.
        past: tokens of the shared prefix.
        suffixes: of the questions.
        steps: most tokens of an answer. A sliding window counts slots, not positions: all must fit into it.
    """
    total = sum(map(len, suffixes))
    room = family.window is None or past + max(map(len, suffixes)) + steps <= family.window
    return len(suffixes) > 1 and total <= MOST_POSITIONS and room


@dataclass
class Pack:
    """Questions in one row after their suffixes ran."""

    logits: list[torch.Tensor]
    """For each question (wanted positions, vocabulary) in the model's dtype."""
    cache: DynamicCache
    """One row: the prefix, then the suffixes one after another, then what is generated."""
    owners: torch.Tensor
    """(keys,): the question that each key belongs to, or SHARED."""
    next_positions: list[int]
    """Position of each question's next token."""
    positions: int
    """Positions that the language model ran over."""


def block_mask(owners: torch.Tensor, queries: int, dtype: torch.dtype) -> torch.Tensor:
    """What the last keys' queries may see: shared keys, and keys of the same question up to themselves.

    Args:
        owners: (keys,), the queries' own last.
        queries: how many.
        dtype: of the attention.

    Returns:
        (1, 1, queries, keys): 0 where a query sees a key, the dtype's lowest value where not; to be added.
    """
    mine = owners[-queries:, None]
    places = torch.arange(len(owners), device=owners.device)
    seen = ((owners == SHARED) | (owners == mine)) & (places <= places[-queries:, None])
    mask = torch.zeros(seen.shape, dtype=dtype, device=owners.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[None, None]


def prefill_packed(
    family: Family, prefix: Prefix, suffixes: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]
) -> Pack:
    """Run all suffixes in one row on top of a shared prefix.

    Args:
        family: the model's family.
        prefix: what the questions share; may be empty.
        suffixes: the rest of each question, at least one token each, without placeholders of the image.
        wanted: for each question the positions within its suffix whose logits are needed.
    """
    device, past = family.model.device, len(prefix.ids)
    lengths = [len(s) for s in suffixes]
    owners = torch.tensor(
        [SHARED] * past + [i for i, length in enumerate(lengths) for _ in range(length)], device=device
    )
    cache = prefix.cache(1)
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    kept = [start + position for start, positions in zip(starts, wanted, strict=True) for position in positions]
    output: Any = family.model(
        inputs_embeds=family.embed(torch.tensor([[t for s in suffixes for t in s]], device=device), None),
        attention_mask=block_mask(owners, sum(lengths), family.model.dtype),
        position_ids=torch.tensor([[past + p for length in lengths for p in range(length)]], device=device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=torch.tensor(kept, device=device),
    )
    logits = list(output.logits[0].split([len(positions) for positions in wanted]))
    return Pack(logits, cache, owners, [past + length for length in lengths], sum(lengths))


def decode(
    family: Family, state: Prefilled | Pack, limits: Sequence[int], end_ids: frozenset[int], pad: int
) -> Decoded:
    """Greedy continuation of what ran in one row or as a batch."""
    if isinstance(state, Pack):
        return decode_packed(family, state, limits, end_ids, pad)
    return decode_greedily(family, state, limits, end_ids, pad)


def decode_packed(family: Family, pack: Pack, limits: Sequence[int], end_ids: frozenset[int], pad: int) -> Decoded:
    """Greedy continuation of every question, one token of each open one per step; long answers go on as a batch.

    Args:
        family: the model's family.
        pack: holds the logits of each question's last token.
        limits: most tokens of each answer.
        end_ids: tokens that end an answer.
        pad: any valid token id.
    """
    first = torch.cat(pack.logits).float()
    said, positions, owners = Greedy(limits, end_ids), 0, pack.owners
    said.take(first, range(len(limits)))
    step = 0
    while questions := said.open:
        if int((owners != SHARED).sum()) + len(questions) > MOST_KEYS:
            batch = unpack(pack.cache, owners, questions)
            return Decoded(first, said.answers, positions + decode_batch(family, batch, said, questions, pad))
        owners = torch.cat([owners, owners.new_tensor(questions)])
        output: Any = family.model(
            input_ids=owners.new_tensor([[said.last(i) for i in questions]]),
            attention_mask=block_mask(owners, len(questions), family.model.dtype),
            position_ids=owners.new_tensor([[pack.next_positions[i] + step for i in questions]]),
            past_key_values=pack.cache,
            use_cache=True,
        )
        positions += len(questions)
        step += 1
        said.take(output.logits[0].float(), questions)
    return Decoded(first, said.answers, positions)


def unpack(cache: DynamicCache, owners: torch.Tensor, questions: Sequence[int]) -> Prefilled:
    """The packed questions as rows of a batch: each with the shared keys and its own, padded on the right.

    Returns:
        A batch without logits; its cache is the one given, in new memory.
    """
    own = [((owners == SHARED) | (owners == i)).nonzero().squeeze(1) for i in questions]
    lengths = owners.new_tensor([len(places) for places in own])
    places = torch.nn.utils.rnn.pad_sequence(own, batch_first=True)
    for layer in cache.layers:
        if isinstance(layer, VisionCacheLayer):
            layer.batch_repeat_interleave(len(questions))
        elif layer.is_initialized:
            layer.keys, layer.values = (t[0][:, places].transpose(0, 1) for t in (layer.keys, layer.values))
    mask = (torch.arange(places.shape[1], device=owners.device) < lengths[:, None]).long()
    return Prefilled([], cache, mask, 0)
