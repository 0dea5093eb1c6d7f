"""Looking inside while the model runs: what to record, and what comes back."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ProbeRequest:
    """Which query rows to look at, and what to record of them.

    Recording needs no eager attention: the model runs on with SDPA or flash attention, and the wanted rows alone are
    computed a second time, in float32. What comes back carries gradients.
    """

    rows: torch.Tensor
    """(P,) long: batch row of each query."""
    positions: torch.Tensor
    """(P,) long: its position in this forward pass's input, padding included (cached tokens do not count)."""
    layers: Sequence[int] | None = None
    """Cross-attention layers, as indices of the fused stack; None for all."""
    attention: bool = True
    """Record cross-attention."""
    heads: bool = False
    """Record it head by head; else its mean over heads."""
    queries_keys: bool = False
    """Record projected (and normalised) queries and keys."""
    hidden_states: Sequence[int] = ()
    """Hidden states to record: 0 the embeddings, i what layer i - 1 gave, the last one after the final norm; negative
    from the end."""


@dataclass(frozen=True)
class ProbeResult:
    """What was recorded; entries in the order of the layers (or hidden states) asked for, ascending where none were."""

    layers: tuple[int, ...] = ()
    attention: tuple[torch.Tensor, ...] = ()
    """Per layer (P, visual tokens) float32: softmax over visual tokens, mean over heads; each row sums to 1. With
    `heads` (P, heads, visual tokens)."""
    queries: tuple[torch.Tensor, ...] = ()
    """Per layer (P, heads, head size)."""
    keys: tuple[torch.Tensor, ...] = ()
    """Per layer (batch, key/value heads, visual tokens, head size)."""
    hidden_states: tuple[torch.Tensor, ...] = ()
    """Per hidden state (P, hidden size)."""


def attention_rows(
    queries: torch.Tensor,
    keys: torch.Tensor,
    rows: torch.Tensor,
    scaling: float,
    visible: torch.Tensor | None = None,
    heads: bool = False,
) -> torch.Tensor:
    """Attention of chosen queries over all keys.

    softmax(q k^T * scaling), mean over heads, in float32.

    Args:
        queries: (P, heads, head size).
        keys: (batch, key/value heads, keys, head size); query head h reads key head h // (heads / key/value heads).
        rows: (P,) batch row of each query.
        scaling: factor of the scores, 1 / sqrt(head size) in LLaMA.
        visible: (P, keys) bool: what each query may see; None for all.
        heads: keep the heads apart.

    Returns:
        (P, keys), or (P, heads, keys), float32; each row sums to 1, or is 0 where the query sees nothing.
    """
    # Autocast would take the products to half precision, whatever the dtype of what is multiplied.
    with torch.autocast(queries.device.type, enabled=False):
        count, groups = queries.shape[1], keys.shape[1]
        grouped = queries.float().unflatten(1, (groups, count // groups))
        parts = [grouped.new_zeros(0, *([count] * heads), keys.shape[2])]
        order = [rows.new_zeros(0)]
        # One batch row at a time: a copy of the keys for every query would need many times the memory.
        for row in rows.unique().tolist():
            members = (rows == row).nonzero().squeeze(1)
            scores = torch.einsum("pghd,gnd->pghn", grouped[members], keys[row].float()) * scaling
            if visible is not None:
                scores = scores.masked_fill(~visible[members, None, None], torch.finfo(scores.dtype).min)
            weights = scores.softmax(-1).flatten(1, 2)
            if visible is not None:
                weights = weights * visible[members].any(-1)[:, None, None]
            parts.append(weights if heads else weights.mean(1))
            order.append(members)
        return torch.cat(parts)[torch.cat(order).argsort()]
