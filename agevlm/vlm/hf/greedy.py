"""The bookkeeping of greedy decoding: what each question has said so far, and which are still open."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Greedy:
    """What several questions have been answered so far, token by token.

    Args:
        limits: most tokens of each answer.
        end_ids: tokens that end an answer.
    """

    def __init__(self, limits: Sequence[int], end_ids: frozenset[int]) -> None:
        self._limits, self._end_ids = limits, end_ids
        self._said: list[list[int]] = [[] for _ in limits]
        self._broken: set[int] = set()
        self._open = {i for i, limit in enumerate(limits) if limit > 0}

    @property
    def open(self) -> list[int]:
        """Questions that wait for a further token, in order."""
        return sorted(self._open)

    def take(self, logits: torch.Tensor, questions: Sequence[int]) -> None:
        """Append the largest logit's token to those of the questions that are open.

        Args:
            logits: (questions, vocabulary).
            questions: whose each row is.
        """
        undefined = logits.isnan().any(-1).tolist()
        for i, token, bad in zip(questions, logits.argmax(-1).tolist(), undefined, strict=True):
            if i not in self._open:
                continue
            if bad:
                self._broken.add(i)
            else:
                self._said[i].append(token)
            if bad or token in self._end_ids or len(self._said[i]) == self._limits[i]:
                self._open.remove(i)

    def last(self, question: int) -> int:
        """The token a question said last."""
        return self._said[question][-1]

    @property
    def answers(self) -> list[list[int] | None]:
        """Generated ids of each question, end token included.

        None where logits were not numbers (float16 overflows so): their argmax would look like an answer.
        """
        return [None if i in self._broken else ids for i, ids in enumerate(self._said)]
