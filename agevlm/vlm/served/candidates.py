"""Log-probabilities of candidate answers from the few tokens that a server reports."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agevlm.vlm.forms import SPACES, forms
from agevlm.vlm.served.reply import Position


def first_token_problem(position: Position, text: str) -> str | None:
    """Why the first reported token is not the first of the answer (it is of a reasoning that was cut off, say)."""
    start = position.token.data.strip()
    # Where a server gives no bytes, a leading space may be written as the tokenizer writes it.
    starts = [start, *(start.removeprefix(mark.encode()) for mark in SPACES if mark.strip())]
    # An empty answer's only token is the end token.
    if not text or text.encode("utf-8", "surrogatepass").lstrip().startswith(tuple(starts)):
        return None
    return f"they begin with {position.token.text!r}, the answer does not"


def candidate_logprobs(position: Position, candidates: Sequence[str]) -> dict[str, float]:
    """Log-probability of the first answer token being a form of each candidate.

    Summed over the case and leading-space variants among the reported tokens, which are the most probable ones: each
    value is a lower bound, exact unless a variant is so improbable that the server left it out. A candidate none of
    whose variants is reported gets no value: all that is known of it is that it is improbable.
    """
    tokens = position.top or (position.token,)
    found = {}
    for candidate in candidates:
        wanted = {space + form for form in forms(candidate) for space in SPACES}
        total = sum(math.exp(token.logprob) for token in tokens if token.text in wanted)
        if total > 0:
            found[candidate] = min(0.0, math.log(total))
    return found
