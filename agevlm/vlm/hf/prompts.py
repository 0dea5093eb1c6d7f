"""From a user's text to token ids, exactly as the checkpoint's own processor makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def render(processor: Any, prompt: str, *, with_image: bool) -> str:
    """The chat-formatted prompt with one image placeholder (or none), ready for the assistant's turn.

    The image stands before the text, as in every published POPE set-up.
    """
    content: list[dict[str, str]] = [{"type": "text", "text": prompt}]
    if with_image:
        content.insert(0, {"type": "image"})
    conversation = [{"role": "user", "content": content}]
    return str(processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False))


def add_special_tokens(tokenizer: Any, text: str) -> bool:
    """Whether tokenising still has to add the BOS token (many chat templates already write it)."""
    return not (tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token))


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a rendered prompt, with BOS exactly once."""
    return list(tokenizer(text, add_special_tokens=add_special_tokens(tokenizer, text))["input_ids"])


def continuation_ids(tokenizer: Any, text: str, ids: list[int], option: str) -> list[int]:
    """Token ids of an option as the continuation of a prompt.

    Tokenised together with the prompt where that leaves the prompt's own tokens untouched, else by itself.
    """
    joined = token_ids(tokenizer, text + option)
    if joined[: len(ids)] == ids and len(joined) > len(ids):
        return joined[len(ids) :]
    return list(tokenizer(option, add_special_tokens=False)["input_ids"])


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Length of the longest common prefix that leaves every row at least one token."""
    if not rows:
        return 0
    limit = min(len(r) for r in rows) - 1
    first = rows[0]
    for i in range(limit):
        if any(r[i] != first[i] for r in rows):
            return i
    return max(limit, 0)
