"""Judges: a model behind an OpenAI-compatible endpoint, or a causal language model that runs here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from agevlm.errors import DataError, EndpointError
from agevlm.vlm.contract import Fingerprint
from agevlm.vlm.fingerprint import fingerprint_parts
from agevlm.vlm.served.address import KEYS, PREFIX, parse_address
from benchmarks.judge.cases import MAX_TOKENS, Message

JUDGE_KEYS = ("AGEVLM_JUDGE_API_KEY", *KEYS)
"""Environment variables that may hold a served judge's key; its own first, since the model may be served elsewhere."""
RULES = "rules"
"""The judge's name that means none."""
Chat = Sequence[Message]


@dataclass(frozen=True)
class Said:
    """A judge's reply to a chat, or the error in its place."""

    text: str | None
    finish: str = ""
    usage: Mapping[str, int] = field(default_factory=dict)
    latency: float = 0.0
    model: str = ""
    """The name under which a served judge answered."""
    error: str | None = None
    kind: str = ""
    """What sort of error it is; the same for errors whose messages differ in a number alone."""


class Judge(Protocol):
    """A loaded judge."""

    def ask(self, chats: Sequence[Chat]) -> Iterator[tuple[int, Said]]:
        """Replies with their chats' places, each as soon as it is there, in any order; greedy."""

    def remark(self) -> str:
        """What should be known of how it was asked; empty where there is nothing."""

    def close(self) -> None:
        """Give up what is under way."""


@dataclass(frozen=True)
class JudgeChoice:
    """A judge as the user named it. Nothing is loaded or reached until `load`."""

    name: str
    dtype: str = "float32"
    device: str = "auto"
    batch_size: int | None = None
    concurrency: int = 32
    timeout: float = 120.0
    """Seconds for a request to a served judge."""

    def __post_init__(self) -> None:
        if self.served and parse_address(self.name).model is None:
            raise DataError("--judge openai:URL: name the judge (openai:URL#NAME); its verdicts are kept by its name")

    @property
    def served(self) -> bool:
        """Whether it is behind an endpoint."""
        return self.name.startswith(PREFIX)

    def fingerprint(self) -> Fingerprint:
        """Of a served judge its name and the request's settings, which needs no network; else the folder's content.

        Raises:
            CheckpointError: no such folder, or no safetensors weights in it.
        """
        if self.served:
            request = {"max_tokens": MAX_TOKENS, "temperature": 0, "seed": 0}
            parts = {"adapter": "openai", "model": str(parse_address(self.name).model)}
            return fingerprint_parts({**parts, "request": json.dumps(request, sort_keys=True)})
        from benchmarks.judge.local import fingerprint

        return fingerprint(self.name, self.dtype)

    def load(self) -> Judge:
        """The judge, ready to be asked.

        Raises:
            EndpointError: the endpoint is down or refuses the key; known within about a second.
            CheckpointError: a folder that cannot be loaded.
        """
        if self.served:
            return ServedJudge(self)
        from benchmarks.judge.local import LocalJudge

        return LocalJudge.load(self.name, dtype=self.dtype, device=self.device, batch_size=self.batch_size)


class ServedJudge:
    """A judge behind an endpoint; requests are repeated with backoff as the client does."""

    def __init__(self, choice: JudgeChoice) -> None:
        from agevlm.vlm.served.client import Client

        address = parse_address(choice.name)
        self._client = Client(
            address.url, address.model, concurrency=choice.concurrency, timeout=choice.timeout, keys=JUDGE_KEYS
        )
        try:
            self._client.models()
        except BaseException:
            self._client.close()
            raise

    def ask(self, chats: Sequence[Chat]) -> Iterator[tuple[int, Said]]:
        """See `Judge.ask`. So many chats as can be under way are begun and not yet taken: a kill loses no more."""
        from agevlm.vlm.served.client import Request

        request, waiting = Request(max_tokens=MAX_TOKENS), enumerate(chats)
        under_way: dict[Future[Any], int] = {}
        while True:
            while len(under_way) < self._client.concurrency and (item := next(waiting, None)) is not None:
                under_way[self._client.submit(item[1], request)] = item[0]
            if not under_way:
                return
            done = next(iter(wait(under_way, return_when=FIRST_COMPLETED).done))
            yield under_way.pop(done), _said(done)

    def remark(self) -> str:
        """See `Judge.remark`."""
        changes = ", ".join(self._client.changes)
        return f"the endpoint takes requests only in another form: {changes}" if changes else ""

    def close(self) -> None:
        """See `Judge.close`."""
        self._client.close()


def _said(future: Future[Any]) -> Said:
    try:
        got = future.result()
    except EndpointError as error:
        return Said(None, error=str(error), kind=error.kind)
    return Said(got.text, got.finish, asdict(got.usage), round(got.latency, 6), got.model or "")
