"""The suffixes of all questions of an image in one row after their shared prefix, kept apart by a block mask.

Every suffix has the positions that follow the prefix and sees the prefix and itself, nothing of the others: the same
sums as in a row of its own. The prefix's keys and values are read as they are, where a batch repeats them for every
question; no slot is padding; and the vocabulary projection runs over wanted positions alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from agevlm.model.cache import VisionCacheLayer
from agevlm.vlm.hf.families import Family
from agevlm.vlm.hf.prefix import Prefilled, Prefix, decode_greedily

SHARED = -1
"""Owner of the keys that every question sees."""
MOST_POSITIONS = 768
"""Suffix tokens in one pack: attention among them grows with their square, though only its blocks are used."""
MOST_KEYS = 2048
"""Keys in one pack beside the shared ones; with more, its answers go on as a batch. Each step goes past all of them."""
ATTENTIONS = ("sdpa", "eager")
"""Attention implementations that take a mask of queries by keys."""


def can_pack(family: Family) -> bool:
    """Whether a family's questions may share a row.

    Positions must be plain, attention take a block mask, and the model lie on one device.
    """
    attention = family.model.config.get_text_config()._attn_implementation
    devices = set((getattr(family.model, "hf_device_map", None) or {}).values())
    return family.plain_positions and attention in ATTENTIONS and len(devices) < 2


def worth_packing(family: Family, past: int, suffixes: Sequence[Sequence[int]], steps: int = 0) -> bool:
    """Whether these suffixes are better off in one row than as a batch, as far as was measured (docs/speed.md).

    Args:
        family: one that `can_pack`.
        past: tokens of the shared prefix.
        suffixes: of the questions.
        steps: most tokens of an answer. A sliding window counts slots, not positions: all must fit into it.
    """
    fits = family.window is None or past + max(map(len, suffixes)) + steps <= family.window
    return len(suffixes) > 1 and sum(map(len, suffixes)) <= MOST_POSITIONS and fits


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
    output: Any = family.forward(
        torch.tensor([[t for s in suffixes for t in s]], device=device),
        None,
        attention_mask=block_mask(owners, sum(lengths), family.model.dtype),
        position_ids=torch.tensor([[past + p for length in lengths for p in range(length)]], device=device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=torch.tensor(kept, device=device),
    )
    logits = list(output.logits[0].split([len(positions) for positions in wanted]))
    return Pack(logits, cache, owners, [past + length for length in lengths])


@dataclass(frozen=True)
class Decoded:
    """What greedy decoding made of a pack."""

    first: torch.Tensor
    """The first step's logits, (questions, vocabulary) in float32."""
    answers: list[list[int]]
    """Generated ids of each question, end token included."""
    positions: int
    """Positions that the language model ran over."""


def decode_packed(
    family: Family,
    pack: Pack,
    limits: Sequence[int],
    end_ids: frozenset[int],
    pad: int,
    watch: Callable[[list[int]], AbstractContextManager[Any]] | None = None,
) -> Decoded | None:
    """Greedy continuation of every question, one token of each open one per step; long answers go on as a batch.

    Args:
        family: the model's family.
        pack: holds the logits of each question's last token.
        limits: most tokens of each answer.
        end_ids: tokens that end an answer.
        pad: any valid token id.
        watch: given the questions whose first token goes in, in order, what to be in as it does.

    Returns:
        None where some logits are no numbers (float16 overflows so). Masked keys weigh 0, but 0 x NaN is NaN: one
        question's overflow spoils all of a pack, and only rows of their own tell whose it was.
    """
    first = torch.cat(pack.logits).float()
    answers: list[list[int]] = [[] for _ in limits]
    open_ = [i for i, limit in enumerate(limits) if limit > 0]
    logits, owners, positions, step = first[open_], pack.owners, 0, 0
    own = int((owners != SHARED).sum())
    while open_:
        if logits.isnan().any():
            return None
        if own + positions + len(open_) > MOST_KEYS:
            batch = unpack(pack.cache, owners, open_, logits)
            _, rest = decode_greedily(family, batch, 0, [limits[i] - step for i in open_], end_ids, pad)
            for i, ids in zip(open_, rest, strict=True):
                if ids is None:
                    return None
                answers[i].extend(ids)
            positions += len(open_) * (max(len(answers[i]) for i in open_) - step - 1)
            break
        for i, token in zip(open_, logits.argmax(-1).tolist(), strict=True):
            answers[i].append(token)
        open_ = [i for i in open_ if answers[i][-1] not in end_ids and len(answers[i]) < limits[i]]
        if not open_:
            break
        owners = torch.cat([owners, owners.new_tensor(open_)])
        with nullcontext() if watch is None or step else watch(open_):
            output: Any = family.forward(
                owners.new_tensor([[answers[i][-1] for i in open_]]),
                None,
                attention_mask=block_mask(owners, len(open_), family.model.dtype),
                position_ids=owners.new_tensor([[pack.next_positions[i] + step for i in open_]]),
                past_key_values=pack.cache,
                use_cache=True,
            )
        logits = output.logits[0].float()
        positions += len(open_)
        step += 1
    return Decoded(first, answers, positions)


def unpack(cache: DynamicCache, owners: torch.Tensor, questions: Sequence[int], logits: torch.Tensor) -> Prefilled:
    """Packed questions as rows of a batch: each with the shared keys and its own, padded on the right.

    Args:
        cache: of the pack; becomes the batch's.
        owners: of its keys.
        questions: those that go on.
        logits: (questions, vocabulary) of each one's last token.
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
    return Prefilled(list(logits[:, None]), cache, mask, lengths)
