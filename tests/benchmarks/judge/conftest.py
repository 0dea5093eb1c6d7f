"""A judge on loopback that follows a rule, and misbehaves when told to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agevlm.vlm.served.retry import Patience
from tests.vlm.served.server import MODEL, Received, State, serving

NAMED = re.compile(r"(?:option|answer) \(?([A-Z])\)?", re.IGNORECASE)


def asked_of(request: Received) -> tuple[list[str], str]:
    """The letters listed, and the answer, as a request shows them."""
    text = request.body["messages"][1]["content"]
    listed, _, rest = text.partition("\n\nOptions:\n")[2].partition("\n\nAnswer, as a JSON string: ")
    return [line[1] for line in listed.splitlines()], json.loads(rest.partition("\n\nWhich option")[0])


def rule(request: Received) -> str:
    """The judge's own reading: the last "option X" or "answer X" that is offered, the option of "second", else none."""
    letters, answer = asked_of(request)
    named = [one.upper() for one in NAMED.findall(answer) if one.upper() in letters]
    if named:
        return named[-1]
    return "B" if "second" in answer else "none"


def verdict(option: str) -> str:
    return json.dumps({"option": option})


def replying(said: Callable[[Received], str]) -> Callable[[Received, dict[str, Any]], dict[str, Any]]:
    """A server's `edit` that replies with this text."""

    def edit(request: Received, body: dict[str, Any]) -> dict[str, Any]:
        (choice,) = body["choices"]
        return {**body, "choices": [{**choice, "message": {"role": "assistant", "content": said(request)}}]}

    return edit


def judge_by_rule(request: Received) -> str:
    return verdict(rule(request))


def name_of(server: State) -> str:
    return f"openai:{server.url}#{MODEL}"


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for key in ("AGEVLM_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr("agevlm.vlm.served.client.Patience", lambda: Patience(tries=3, base=0.001))


@pytest.fixture
def server() -> Iterator[State]:
    with serving(edit=replying(judge_by_rule)) as state:
        yield state
