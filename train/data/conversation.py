"""Conversations as the text that the model reads, with the places of the assistant's words and of phrases in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agevlm.errors import DataError
from train.data.samples import ROLES, Sample

MARK = "\ufdd0"
"""Put at the borders of phrases to find them again behind the template. No character at all, so no text has it."""
GENERATION = "generation"


@dataclass(frozen=True)
class Rendered:
    """One conversation behind the chat template."""

    text: str
    answers: tuple[tuple[int, int], ...]
    """(first, behind the last) character of what each message of the assistant says, its end token included."""
    answer_of: dict[int, int]
    """Place in `answers` of the assistant's messages, by their place in the conversation."""
    phrases: tuple[tuple[int, int], ...]
    """(first, behind the last) character of each phrase of the sample, without surrounding blanks."""


def render(processor: Any, samples: Sequence[Sample], guided: Sequence[bool]) -> list[Rendered]:
    """Put conversations through the processor's chat template, all in one call.

    Templates may trim messages, as ours do, but must not change them otherwise. Phrases of samples that are not
    guided are not looked for.

    Raises:
        BadSample: an unknown role, an image without a user, an image token or `MARK` in a text, or phrases that are
            not in their message.
        DataError: a template that does not mark what the assistant says as `{% generation %}`, or changes messages.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    marked = [_marked(s, processor.image_token, wanted) for s, wanted in zip(samples, guided, strict=True)]
    texts, generations = render_jinja_template(
        conversations=[conversation for conversation, _ in marked],
        chat_template=processor.chat_template,
        return_assistant_tokens_mask=True,
        **processor.tokenizer.special_tokens_map,
    )
    return [
        _unmarked(sample, text, spans, borders)
        for sample, text, spans, (_, borders) in zip(samples, texts, generations, marked, strict=True)
    ]


def _marked(sample: Sample, image_token: str, guided: bool) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
    """The conversation with marks at phrases, and each mark's (message, character)."""
    cuts: dict[int, set[int]] = {}
    for phrase in sample.phrases if guided else ():
        for cut in _borders(sample, phrase.message, phrase.start, phrase.end):
            cuts.setdefault(phrase.message, set()).add(cut)
    shown = sample.image is None
    conversation: list[dict[str, Any]] = []
    for number, message in enumerate(sample.messages):
        if message.role not in ROLES:
            raise sample.bad(f"message {number} is of role {message.role!r}, not {', '.join(ROLES)}")
        if image_token in message.text or MARK in message.text:
            raise sample.bad(
                f"message {number} holds {image_token} or U+FDD0: take it out of the text; the image's place is before "
                "the first user message",
            )
        if not message.text.isascii() and any("\ud800" <= character <= "\udfff" for character in message.text):
            raise sample.bad(f"message {number} has half of a character (a lone surrogate, U+D800 to U+DFFF)")
        parts: list[dict[str, str]] = []
        if not shown and message.role == "user":
            parts.append({"type": "image"})
            shown = True
        text, last = "", 0
        for cut in sorted(cuts.get(number, ())):
            text, last = text + message.text[last:cut] + MARK, cut
        parts.append({"type": "text", "text": text + message.text[last:]})
        conversation.append({"role": message.role, "content": parts})
    if not shown:
        raise sample.bad("an image, but no user message that could show it")
    return conversation, [(number, cut) for number in sorted(cuts) for cut in sorted(cuts[number])]


def _borders(sample: Sample, message: int, start: int, end: int) -> tuple[int, int]:
    """A phrase's characters without blanks around them, which the template may take away."""
    if not 0 <= message < len(sample.messages) or not 0 <= start < end <= len(sample.messages[message].text):
        says = f"a phrase at characters {start} to {end} of message {message}, which is not there"
        raise sample.bad(says, "region")
    words = sample.messages[message].text[start:end]
    if not words.strip():
        raise sample.bad(f"the phrase at characters {start} to {end} of message {message} is blank", "region")
    return start + len(words) - len(words.lstrip()), end - len(words) + len(words.rstrip())


def _unmarked(sample: Sample, text: str, spans: Any, borders: list[tuple[int, int]]) -> Rendered:
    pieces = text.split(MARK)
    if len(pieces) != len(borders) + 1:
        raise DataError(f"sample {sample.id}: the chat template repeats or drops what messages say; use one that keeps")
    # Where each mark stood: in the marked text, and in the text without marks.
    places, marks, reached = [], [], 0
    for number, piece in enumerate(pieces[:-1]):
        reached += len(piece)
        places.append(reached)
        marks.append(reached + number)
    at = dict(zip(borders, places, strict=True))
    assistant = [number for number, message in enumerate(sample.messages) if message.role == "assistant"]
    if len(spans) != len(assistant):
        raise DataError(
            f"sample {sample.id}: the chat template marks {len(spans)} texts as {{% {GENERATION} %}}, but the "
            f"assistant says {len(assistant)}; use a template that marks each (AGE-VLM's own does)"
        )

    def plain(position: int) -> int:
        return position - sum(mark < position for mark in marks)

    return Rendered(
        text="".join(pieces),
        answers=tuple((plain(int(start)), plain(int(end))) for start, end in spans),
        answer_of={message: i for i, message in enumerate(assistant)},
        phrases=tuple(_place(sample, at, phrase) for phrase in sample.phrases) if at else (),
    )


def _place(sample: Sample, at: dict[tuple[int, int], int], phrase: Any) -> tuple[int, int]:
    start, end = _borders(sample, phrase.message, phrase.start, phrase.end)
    return at[phrase.message, start], at[phrase.message, end]
