"""The plain way: one full `generate` per question, nothing shared. What the session's answers are checked against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL.Image import Image

from agevlm.vlm.contract import Ask, Reply
from agevlm.vlm.hf.plain import generate, greedy_arguments
from agevlm.vlm.hf.session import HfVlm

__all__ = ["Flip", "find_flips", "greedy_arguments", "plain_generate"]


@dataclass(frozen=True)
class Flip:
    """A question that the session and plain `generate` answer differently."""

    prompt: str
    ours: str
    plain: str
    margin: float
    """Difference of the two largest plain logits where the answers part: near zero means a coin toss."""


def plain_generate(vlm: HfVlm, image: Image | None, ask: Ask) -> tuple[tuple[int, ...], list[float]]:
    """Greedy answer of the checkpoint's own processor and `generate` to one question.

    Returns:
        Generated token ids (end token included), and at each step the margin between the two largest logits.
    """
    ids, steps = generate(vlm, image, ask.prompt, ask.max_new_tokens)
    margins = []
    for logits in steps:
        top = logits[0].float().topk(2).values
        margins.append(float(top[0] - top[1]))
    return tuple(ids), margins


def find_flips(vlm: HfVlm, image: Image | None, asks: Sequence[Ask], replies: Sequence[Reply]) -> list[Flip]:
    """Questions whose tokens differ from plain `generate`, with the margin at the first difference."""
    flips = []
    for ask, reply in zip(asks, replies, strict=True):
        if reply.text is None:
            continue
        ids, margins = plain_generate(vlm, image, ask)
        if ids == reply.token_ids:
            continue
        step = next(
            (i for i, (a, b) in enumerate(zip(ids, reply.token_ids, strict=False)) if a != b),
            min(len(ids), len(reply.token_ids)) - 1,
        )
        plain = vlm.tokenizer.decode(ids, skip_special_tokens=True)
        flips.append(Flip(ask.prompt, reply.text, plain, margins[step]))
    return flips
