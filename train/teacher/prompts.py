"""Grounding DINO's prompts: which phrases stand in which text, and which tokens are theirs. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_DELIMITERS = re.compile(r"[.?]")
"""Grounding DINO's text encoder lets no word look beyond them."""


@dataclass(frozen=True)
class Span:
    """Where one phrase stands in a prompt."""

    phrase: int
    """Which of the phrases, from 0."""
    start: int
    """First character in the prompt, and `end` behind the last; the period is not the phrase's."""
    end: int


@dataclass(frozen=True)
class Prompt:
    """A text as the model wants it: lower case, every phrase with a period behind it ("a cat. two dogs.")."""

    text: str
    spans: tuple[Span, ...]


def plain(phrase: str) -> str:
    """The phrase in lower case, its periods and question marks as blanks, runs of blanks as one."""
    return " ".join(_DELIMITERS.sub(" ", phrase.lower()).split())


def make_prompts(phrases: Sequence[str], length: Callable[[str], int], room: int | None) -> list[Prompt]:
    """Put phrases into prompts, in their order.

    Args:
        phrases: as `plain` gives them.
        length: tokens of a text, without the tokens that the tokenizer puts around it.
        room: tokens that a prompt may have, without those; None gives each phrase a prompt of its own.

    Returns:
        Prompts of one phrase, or of as many as there is room for. A phrase that is longer than the room stands alone.
    """
    prompts: list[Prompt] = []
    used = 0
    for index, phrase in enumerate(phrases):
        needed = length(f"{phrase}.")
        if room is None or not prompts or used + needed > room:
            prompts.append(Prompt(f"{phrase}.", (Span(index, 0, len(phrase)),)))
            used = needed
        else:
            last = prompts[-1]
            start = len(last.text) + 1
            span = Span(index, start, start + len(phrase))
            prompts[-1] = Prompt(f"{last.text} {phrase}.", (*last.spans, span))
            used += needed
    return prompts


def tokens_of(span: Span, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Which tokens hold characters of a span.

    Args:
        span: of a prompt.
        offsets: first character of each token and the one behind its last; equal for tokens that are not of the text.
    """
    return [i for i, (start, end) in enumerate(offsets) if start < end and start < span.end and end > span.start]
