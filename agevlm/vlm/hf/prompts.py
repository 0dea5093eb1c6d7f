"""From a user's text to token ids, exactly as the checkpoint's own processor makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agevlm.errors import CheckpointError


def render(processor: Any, prompt: str, *, with_image: bool) -> str:
    """The chat-formatted prompt with one image placeholder (or none), ready for the assistant's turn.

    The image stands before the text, as in every published POPE set-up.
    """
    content: list[dict[str, str]] = [{"type": "text", "text": prompt}]
    if with_image:
        content.insert(0, {"type": "image"})
    conversation = [{"role": "user", "content": content}]
    return str(processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False))


def check_template(processor: Any) -> None:
    """Render one question with and one without an image, and see that both come out whole.

    Raises:
        CheckpointError: the chat template fails, loses the question, takes plain strings (it would print the list of
            parts as Python text), or does not put exactly one image placeholder where there is an image.
    """
    question = "Is there a zebra?"
    for with_image in (True, False):
        case = f"a question with{'' if with_image else 'out'} an image"
        try:
            text = render(processor, question, with_image=with_image)
        except Exception as error:
            raise CheckpointError(f"the chat template fails on {case}: {type(error).__name__}: {error}") from error
        if text.count(question) != 1 or "'type'" in text:
            raise CheckpointError(
                f"the chat template does not take a list of image and text parts (it makes {text[:120]!r} of {case}); "
                "give one that does with --chat-template FILE"
            )
        found = text.count(processor.image_token)
        if found != with_image:
            raise CheckpointError(
                f"the chat template puts {found} image placeholders {processor.image_token!r} into {case}; "
                "give another with --chat-template FILE"
            )


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


def common_prefix(rows: Sequence[Sequence[int]], *, leave: int = 1) -> int:
    """Length of the longest common prefix that leaves every row at least `leave` tokens."""
    if not rows:
        return 0
    limit = min(len(r) for r in rows) - leave
    first = rows[0]
    for i in range(limit):
        if any(r[i] != first[i] for r in rows):
            return i
    return max(limit, 0)
