"""Options ranked beside the answers, on the same encoded image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from agevlm.errors import DataError
from agevlm.vlm.contract import Ask, EncodedImages, Reply, Vlm

NOT_NUMBERS = "the options' log-probabilities are not numbers; the model's dtype may be too narrow for it"


def with_ranks(
    vlm: Vlm, encoded: EncodedImages, asks: Sequence[Ask], options: Sequence[Sequence[str]], replies: Sequence[Reply]
) -> list[Reply]:
    """Replies in which an ask with options has their log-probabilities in the place of its candidates'.

    Such a reply's `logprobs` map each option to its summed natural-log probability as the continuation of the prompt;
    empty where the model cannot rank. One whose log-probabilities are not numbers becomes an error. Replies that are
    errors, and asks without options, stay as they are.

    Raises:
        DataError: ranking failed, with what the model says.
    """
    wanted = [i for i, texts in enumerate(options) if texts and replies[i].error is None]
    found = list(replies)
    if not wanted:
        return found
    scores: Sequence[Sequence[float]] = [()] * len(wanted)
    if "rank" in vlm.capabilities:
        try:
            scores = vlm.rank(encoded, [asks[i] for i in wanted], [options[i] for i in wanted])
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise DataError(f"the options cannot be ranked ({what}); cvbench --no-rank asks without") from error
    for i, values in zip(wanted, scores, strict=True):
        if any(map(math.isnan, values)):
            found[i] = Reply.failed(NOT_NUMBERS)
            continue
        # Nothing of a model that cannot rank: its candidates might be taken for options of the same text.
        found[i] = replace(found[i], logprobs=dict(zip(options[i], values, strict=True)) if values else {})
    return found
