"""What an endpoint sent, read with suspicion. Pure functions."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agevlm.errors import EndpointError

QUOTED = 300
"""Most characters of a server's own words in a message."""
ABOVE_ZERO = 1e-3
"""A log-probability may exceed 0 by so much, from rounding in narrow floats."""
LEAST = -1e300
"""Below it, a log-probability is minus infinity (JSON knows integers that no float can hold)."""
VERSION = r"-(\d{3,4}|\d{6}|\d{8}|\d{4}-\d{2}-\d{2})|@[\w./-]+"
"""What endpoints add to the name of a model that has versions: a date or number, or a revision."""


class NoAnswer(EndpointError):
    """A reply that holds no answer. It says nothing of what the server makes of other requests."""


@dataclass(frozen=True)
class Usage:
    """Tokens as the server counted them; 0 where it did not say."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    """Prompt tokens that came out of the server's prefix cache."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt + other.prompt, self.completion + other.completion, self.cached + other.cached)


@dataclass(frozen=True)
class Token:
    """A token and its natural-log probability."""

    text: str
    logprob: float
    data: bytes
    """Its bytes; those of `text` where the server gave none."""


@dataclass(frozen=True)
class Position:
    """A token of the answer and the most probable ones in its place."""

    token: Token
    top: tuple[Token, ...]


@dataclass(frozen=True)
class Completion:
    """One reply."""

    text: str
    finish: str
    """Why it ended, as the server says it: stop, length, content_filter, ..."""
    model: str | None
    """The model's name as answered."""
    usage: Usage
    logprobs: tuple[Position, ...]
    """One per token; empty where not asked for, not offered or unusable."""
    logprobs_problem: str | None
    """Why log-probabilities that came could not be used."""
    latency: float = 0.0
    """Seconds from the last sending to the whole reply."""
    tries: int = 1


def read_completion(body: Any) -> Completion:
    """Read the JSON body of /chat/completions.

    Raises:
        NoAnswer: no choices, no text, no finish reason; or the limit was reached before any text.
    """
    choices = body.get("choices") if isinstance(body, Mapping) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, Mapping):
        said = f": {brief(server_words(body))}" if isinstance(body, Mapping) and body.get("error") else ""
        raise NoAnswer(f"the reply holds no choices, so no answer{said}", "no choices")
    finish = choice.get("finish_reason")
    if not isinstance(finish, str) or not finish:
        raise NoAnswer(f"the reply does not say why it ended (finish_reason is {finish!r})", "no finish reason")
    text = _text(choice.get("message"))
    refusal = _refusal(choice.get("message"))
    # At the limit, an empty text is none yet: models that reason first have it empty until they answer.
    if text is None or (text == "" and (refusal or finish == "length")):
        reasons = {
            "content_filter": "the server's content filter withheld it",
            "length": "a model that reasons first may have used up its tokens: allow more (--max-new-tokens)",
        }
        hint = f"the model refuses: {brief(refusal)}" if refusal else reasons.get(finish, "the server sent null for it")
        raise NoAnswer(f"the reply holds no text (finish reason {finish}): {hint}", f"no text {finish}")
    name = body.get("model")
    positions: tuple[Position, ...] = ()
    problem = None
    try:
        positions = _positions(choice.get("logprobs"))
    except ValueError as error:
        problem = str(error)
    return Completion(text, finish, name if isinstance(name, str) else None, _usage(body), positions, problem)


def server_words(body: Any) -> str:
    """What a server's JSON says of its trouble."""
    error = body.get("error", body) if isinstance(body, Mapping) else body
    if isinstance(error, Mapping):
        error = error.get("message") or error.get("detail") or error
    return error if isinstance(error, str) else json.dumps(error)


def brief(text: str) -> str:
    """A server's words in one short line."""
    text = " ".join(text.split())
    return text if len(text) <= QUOTED else text[:QUOTED] + "..."


def _refusal(message: Any) -> str:
    """A model's own words for not answering, apart from its text (OpenAI's models)."""
    refusal = message.get("refusal") if isinstance(message, Mapping) else None
    return refusal if isinstance(refusal, str) else ""


def _text(message: Any) -> str | None:
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        return "".join(texts) if texts and len(texts) == len(parts) else None
    return content if isinstance(content, str) else None


def _usage(body: Mapping[str, Any]) -> Usage:
    usage = body.get("usage")
    if not isinstance(usage, Mapping):
        return Usage()
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else 0
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"), cached)
    return Usage(*(n if isinstance(n, int) and n > 0 else 0 for n in counts))


def _positions(logprobs: Any) -> tuple[Position, ...]:
    """The log-probabilities of a choice; empty if there are none. Raises ValueError if they make no sense."""
    if logprobs is None:
        return ()
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else ()
    if content is None:
        return ()
    if not isinstance(content, list):
        raise ValueError("they are no list of tokens")
    return tuple(_position(entry) for entry in content)


def _position(entry: Any) -> Position:
    token = _token(entry)
    top = entry.get("top_logprobs") or []
    if not isinstance(top, list):
        raise ValueError("the alternatives of a token are no list")
    tokens = tuple(_token(one) for one in top)
    total = sum(math.exp(one.logprob) for one in tokens)
    if total > 1 + 10 * ABOVE_ZERO:
        raise ValueError(f"the probabilities of one token's alternatives add up to {total:.4g}")
    return Position(token, tokens)


def _token(entry: Any) -> Token:
    text = entry.get("token") if isinstance(entry, Mapping) else None
    if not isinstance(text, str):
        raise ValueError("a token is missing")
    value = entry.get("logprob")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no log-probability")
    # Servers write minus infinity as itself or as a large negative number.
    if not -math.inf <= value <= ABOVE_ZERO:
        raise ValueError(f"{value!r} is no log-probability: those are at most 0")
    data = entry.get("bytes")
    whole = isinstance(data, list) and all(isinstance(b, int) and 0 <= b < 256 for b in data)
    own = bytes(data) if whole and data else text.encode("utf-8", "surrogatepass")
    return Token(text, min(float(value), 0.0) if value > LEAST else -math.inf, own)


def same_model(asked: str, answered: str) -> bool:
    """Whether an answered name can be the asked model's: the same, a dated version of it, or with its path or not."""
    if re.fullmatch(f"{re.escape(asked)}({VERSION})", answered):
        return True
    return answered == asked or answered.endswith(f"/{asked}") or asked.endswith(f"/{answered}")
