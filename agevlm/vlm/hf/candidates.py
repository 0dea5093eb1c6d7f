"""Which vocabulary entries are a form of a candidate answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from agevlm.vlm.forms import SPACES, forms


def candidate_token_ids(tokenizer: Any, candidates: Sequence[str]) -> dict[str, list[int]]:
    """Token ids that stand for each candidate as a whole, over case and leading-space variants.

    A candidate with no single-token form is represented by the first tokens of its forms (bare spaces aside) that no
    other candidate shares; where all are shared, a first token cannot tell them apart, and the list is empty.

    Returns:
        Candidate -> sorted token ids; empty where the tokenizer offers no way to tell.
    """
    vocabulary = tokenizer.get_vocab()
    whole = {
        c: {vocabulary[space + form] for form in forms(c) for space in SPACES if space + form in vocabulary}
        for c in candidates
    }
    spaces = {vocabulary[s] for s in SPACES if s in vocabulary}
    first: dict[str, set[int]] = {}
    for c in candidates:
        encoded = (tokenizer.encode(s + form, add_special_tokens=False) for form in forms(c) for s in ("", " "))
        first[c] = {ids[0] for ids in encoded if ids and ids[0] not in spaces}
    result = {}
    for c in candidates:
        ids = whole[c]
        if not ids:
            others = set().union(*(whole[o] or first[o] for o in candidates if o != c))
            ids = first[c] - others
        result[c] = sorted(ids)
    return result


def candidate_logprobs(logits: torch.Tensor, ids: dict[str, list[int]]) -> list[dict[str, float]]:
    """Log-probability of each candidate under next-token logits.

    Args:
        logits: (rows, vocabulary), any float dtype; computed in float32.
        ids: candidate -> token ids; candidates without ids are left out.

    Returns:
        For each row: candidate -> log of the summed probability of its tokens.
    """
    known = {c: torch.tensor(i, device=logits.device) for c, i in ids.items() if i}
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    columns = {c: logprobs.index_select(-1, i).logsumexp(-1).tolist() for c, i in known.items()}
    return [{c: values[row] for c, values in columns.items()} for row in range(logits.shape[0])]
