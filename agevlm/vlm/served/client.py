"""A client for any OpenAI-compatible endpoint: vLLM, SGLang, hosted models. It knows messages and nothing of images."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from agevlm.errors import EndpointError
from agevlm.vlm.served.address import KEYS, find_key
from agevlm.vlm.served.reply import Completion, Usage, read_completion, same_model
from agevlm.vlm.served.retry import AT_ONCE, Patience
from agevlm.vlm.served.transport import Clock, Closed, Rejected, Transport
from agevlm.vlm.served.workers import Workers

Message = Mapping[str, Any]
"""One of a chat's messages, as the API takes it: role and content."""


@dataclass(frozen=True)
class Request:
    """What is asked for beside the messages. Greedy, as far as the server is."""

    max_tokens: int
    temperature: float = 0.0
    seed: int | None = 0
    top_logprobs: int = 0
    """Report the log-probabilities of so many alternatives per token, if the server does that; 0: of none."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """More fields of the request's body (response_format, say)."""


@dataclass(frozen=True)
class Tally:
    """What a client has done so far."""

    requests: int
    """Sent, repeated ones included."""
    retries: int
    replies: int
    usage: Usage
    """Of all replies."""


NOT_TAKEN = re.compile(
    r"unsupported|unrecogni[sz]ed|unknown|unexpected|extra inputs|(not|n't) (be )?(support|permitted|allowed)", re.I
)
"""How servers say that they do not know a parameter."""


@dataclass(frozen=True)
class _Dialect:
    """What this server has been found to understand."""

    tokens: str = "max_tokens"
    logprobs: bool = True
    left_out: frozenset[str] = frozenset()
    """Parameters that it does not take: the model's own values hold."""

    def other(self, refusal: Rejected, request: Request) -> _Dialect | None:
        """Another way to put a refused request; None if there is none."""
        if refusal.status not in (400, 422):
            return None
        said = str(refusal)
        # Not for a limit that is merely too large: a server may overlook the other name, and so any limit.
        unknown = _names("max_tokens", said) and NOT_TAKEN.search(said)
        if self.tokens == "max_tokens" and ("max_completion_tokens" in said or unknown):
            return replace(self, tokens="max_completion_tokens")
        for name in ("temperature", "seed"):
            if _names(name, said) and name not in self.left_out and (name != "seed" or request.seed is not None):
                return replace(self, left_out=self.left_out | {name})
        return replace(self, logprobs=False) if self.logprobs and request.top_logprobs else None

    @property
    def changes(self) -> tuple[str, ...]:
        """How requests differ from what was wanted, log-probabilities aside."""
        renamed = () if self.tokens == "max_tokens" else (f"{self.tokens} for max_tokens",)
        return (*renamed, *(f"no {name}" for name in sorted(self.left_out)))


def _names(parameter: str, text: str) -> bool:
    return re.search(rf"\b{parameter}\b", text) is not None


class Client:
    """Sends chats to one model. Safe to use from many threads; never more than `concurrency` requests are under way.

    A request that waits to be repeated keeps its place: a server in trouble gets fewer requests, not more.

    Args:
        url: base URL, without credentials; requests go to URL/chat/completions.
        model: the model's name there; None for `models` alone.
        concurrency: most requests under way.
        timeout: seconds for a request, from sending to the last byte of its reply.
        patience: how often and how long a request is repeated.
        keys: environment variables that may hold the key; the first that is set counts.
        clock: of pauses and deadlines.

    Raises:
        EndpointError: the URL or the key in the environment cannot be used.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        concurrency: int = 32,
        timeout: float = 120.0,
        patience: Patience | None = None,
        keys: Sequence[str] = KEYS,
        clock: Clock | None = None,
    ) -> None:
        self.model, self.concurrency = model, concurrency
        self._patience = patience or Patience()
        self._transport = Transport(
            url, find_key(keys), timeout=timeout, connections=concurrency, clock=clock or Clock()
        )
        self._workers = Workers(concurrency)
        self._lock = threading.Lock()
        self._replies, self._usage = 0, Usage()
        self._dialect = _Dialect()
        self.answered_as: str | None = None
        """The name under which the model answers; None before the first reply that says one."""

    @property
    def url(self) -> str:
        """The endpoint's base URL."""
        return self._transport.url

    @property
    def tally(self) -> Tally:
        """What has been done so far."""
        return Tally(self._transport.requests, self._transport.retries, self._replies, self._usage)

    @property
    def logprobs_refused(self) -> bool:
        """Whether the server was found to take requests only without log-probabilities."""
        return not self._dialect.logprobs

    @property
    def changes(self) -> tuple[str, ...]:
        """How requests are put differently because the server refused them as they were: "no temperature", say."""
        return self._dialect.changes

    def models(self) -> list[Mapping[str, Any]] | None:
        """What the endpoint says it serves (GET /models), each with its `id`; None where it does not say.

        Raises:
            EndpointError: it is down, or refuses the key. Known within about a second, or three timeouts.
        """
        try:
            body = self._transport.exchange("GET", "/models", None, AT_ONCE).body
        except Rejected as refusal:
            if refusal.status in (404, 405, 501):
                return None
            raise
        listed = body.get("data") if isinstance(body, Mapping) else None
        if not isinstance(listed, list):
            return None
        return [m for m in listed if isinstance(m, Mapping) and isinstance(m.get("id"), str)]

    def chat(self, messages: Sequence[Message], request: Request) -> Completion:
        """One reply. Raises EndpointError, see `submit`."""
        return self.submit(messages, request).result()

    def submit(self, messages: Sequence[Message], request: Request, order: float = 0) -> Future[Completion]:
        """One reply, later.

        Args:
            messages: the chat.
            request: settings.
            order: requests that wait are sent in this order.

        Returns:
            A future whose `result()` may raise EndpointError: the server refuses (`Rejected`, not repeated), stays
            unreachable or in trouble for as long as `patience` goes, sends no answer, or another model's.
        """
        return self._workers.submit(order, lambda: self._chat(messages, request))

    def close(self) -> None:
        """Give up what is under way, and close all connections."""
        self._workers.close(Closed())
        self._transport.close()

    def _chat(self, messages: Sequence[Message], request: Request) -> Completion:
        dialect = known = self._dialect
        while True:
            try:
                completion = self._complete(messages, request, dialect)
            except Rejected as refusal:
                other = dialect.other(refusal, request)
                if other is None:
                    raise
                dialect = other
            else:
                # Remembered only if it helped: the refusal may have had another reason.
                if dialect != known:
                    self._dialect = dialect
                return completion

    def _complete(self, messages: Sequence[Message], request: Request, dialect: _Dialect) -> Completion:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(messages),
            dialect.tokens: request.max_tokens,
            **request.extra,
        }
        for name, value in (("temperature", request.temperature), ("seed", request.seed)):
            if value is not None and name not in dialect.left_out:
                body[name] = value
        if request.top_logprobs and dialect.logprobs:
            body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        got = self._transport.exchange("POST", "/chat/completions", body, self._patience)
        completion = replace(read_completion(got.body), latency=got.latency, tries=got.tries)
        self._check_model(completion.model)
        with self._lock:
            self._replies += 1
            self._usage += completion.usage
        return completion

    def _check_model(self, answered: str | None) -> None:
        """Refuse another model's answer; nor may a dated version of the wanted one change while we ask."""
        if answered is None or self.model is None:
            return
        with self._lock:
            expected = self.answered_as or answered
            if expected == answered and same_model(self.model, answered):
                self.answered_as = answered
                return
        before = f" (before: {expected!r})" if expected != answered else ""
        raise EndpointError(
            f"{self.url}: {self.model!r} was asked, but {answered!r} answered{before}; ask for the model that is meant "
            "by its own name",
            "another model",
        )
