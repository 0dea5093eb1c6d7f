"""From a user's text to token ids, exactly as the checkpoint's own processor makes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from agevlm.errors import CheckpointError, NotSupported
from agevlm.vlm.contract import ProbedToken


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


def probed_tokens(
    tokenizer: Any, text: str, ids: list[int], prompt: str, answer: Sequence[int], placeholder: int
) -> tuple[ProbedToken, ...]:
    """The text tokens of a rendered prompt and its answer, with the characters each stands for.

    Args:
        tokenizer: a fast one (it knows where its tokens begin and end).
        text: the rendered prompt.
        ids: its token ids.
        prompt: the user's text in it.
        answer: token ids that follow.
        placeholder: the token that stands for the image; left out.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise NotSupported("which words a token stands for is known for fast tokenizers alone (tokenizer.json)")
    encoded = tokenizer(text, add_special_tokens=add_special_tokens(tokenizer, text), return_offsets_mapping=True)
    begins = _place(tokenizer, text, prompt.strip())
    ends = begins + len(prompt.strip())
    shift = begins - (len(prompt) - len(prompt.lstrip()))
    tokens = []
    for token, (start, end) in zip(ids, encoded["offset_mapping"], strict=True):
        if token == placeholder:
            continue
        if begins < end and start < ends and start < end:
            # A token may begin with the space before the prompt.
            span = max(0, start - shift), min(len(prompt), end - shift)
            tokens.append(ProbedToken(text[start:end], "prompt", *span))
        else:
            tokens.append(ProbedToken(text[start:end] or tokenizer.decode([token]), "template", start, end))
    return (*tokens, *answer_tokens(tokenizer, answer))


def _place(tokenizer: Any, text: str, prompt: str) -> int:
    """Where the prompt stands in the rendered text; its end if it does not.

    The template may hold the same words. Whole words are looked for first, and what no further word follows is taken
    for the header of the assistant's turn.
    """
    if not prompt:
        return len(text)
    before, after = (r"(?<!\w)" if prompt[0].isalnum() else ""), (r"(?!\w)" if prompt[-1].isalnum() else "")
    every = [match.start() for match in re.finditer(f"(?={re.escape(prompt)})", text)]
    whole = [match.start() for match in re.finditer(f"(?={before}{re.escape(prompt)}{after})", text)]

    def followed(start: int) -> bool:
        rest = text[start + len(prompt) :]
        for mark in tokenizer.all_special_tokens:
            rest = rest.replace(mark, " ")
        return re.search(r"\w", rest) is not None

    for places in ([p for p in whole if followed(p)], whole, every):
        if places:
            return places[-1]
    return len(text)


def answer_tokens(tokenizer: Any, answer: Sequence[int]) -> list[ProbedToken]:
    """Tokens of a character in several parts all stand for it; special tokens stand for no character."""
    said = tokenizer.decode(answer, skip_special_tokens=True)
    known = [0]
    for count in range(1, len(answer) + 1):
        sofar = tokenizer.decode(answer[:count], skip_special_tokens=True)
        shared = takewhile(lambda pair: pair[0] == pair[1], zip(sofar, said, strict=False))
        known.append(max(known[-1], sum(1 for _ in shared)))
    special = set(tokenizer.all_special_ids)
    tokens = []
    for token, start, end in zip(answer, known[:-1], known[1:], strict=True):
        if start == end and token not in special:
            end = min(end + 1, len(said))
        tokens.append(ProbedToken(said[start:end], "answer", start, end))
    return tokens
