"""An OpenAI-compatible server on loopback that answers by a rule, and misbehaves when told to.

The rule depends on the pixels it is sent and on the question, so that a wrong image or a mixed-up reply is a wrong
answer.
"""

import base64
import contextlib
import hashlib
import io
import json
import math
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from agevlm.vlm.contract import Reply
from tests.benchmarks.runs.stub import StubVlm, digest

MODEL = "tiny/vlm"
FORMS = ("Yes", "No", "Yes, there is", "No.", "yes it is", "I cannot tell", "")


def rule(picture: str | None, prompt: str) -> tuple[str, dict[str, float]]:
    """The answer, and the probabilities of first tokens: several ways to write yes and no among them."""
    draw = random.Random(f"{picture} {prompt}")
    text = draw.choice(FORMS)
    parts = [draw.random() for _ in range(5)]
    tokens = dict(zip(("Yes", " yes", "No", "NO", "▁no"), (p / sum(parts) * 0.9 for p in parts), strict=True))
    first = text.partition(" ")[0] if text else "</s>"
    tokens[first] = tokens.get(first, 0.0) + 0.05
    return text, tokens


def first_token(text: str) -> str:
    return text.partition(" ")[0] if text else "</s>"


class RuleVlm(StubVlm):
    """The rule on this machine, with the log-probabilities summed longhand."""

    def _reply(self, picture, prompt):
        self.trouble(picture, prompt)
        text, tokens = rule(picture, prompt)
        yes = tokens["Yes"] + tokens[" yes"] + tokens.get("yes", 0.0)
        no = tokens["No"] + tokens["NO"] + tokens["▁no"]
        return Reply(text, "eos", {"yes": math.log(yes), "no": math.log(no)})


@dataclass(frozen=True)
class Received:
    """A request to /chat/completions."""

    number: int
    body: dict[str, Any]
    headers: dict[str, str]
    prompt: str
    image: bytes | None
    media_type: str | None
    identity: tuple[str | None, str]
    """SHA-256 of the image, and the prompt."""
    times: int
    """How often the same came before."""


Trouble = Callable[[Received, "Handler"], bool | None]
"""Does something wrong with a request; True if it has been replied to."""


@dataclass
class State:
    """What the server saw, and how it is to behave."""

    trouble: Trouble = lambda *_: None
    edit: Callable[[Received, dict[str, Any]], Any] = lambda _, body: body
    delay: float = 0.0
    models: list[dict[str, Any]] | None = field(
        default_factory=lambda: [{"id": MODEL, "object": "model", "root": "/weights/tiny", "max_model_len": 4096}]
    )
    refuse_models: int | None = None
    """The HTTP status that /models is answered with."""
    received: list[Received] = field(default_factory=list)
    times: Counter[tuple[str | None, str]] = field(default_factory=Counter)
    in_flight: int = 0
    most_in_flight: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are written apart; without this each reply waits 40 ms for an acknowledgement.
    disable_nagle_algorithm = True
    state: State

    def log_message(self, *_: Any) -> None:
        pass

    def say(self, status: int, body: Any, headers: dict[str, str] | None = None, *, kind="application/json") -> bool:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        return True

    def reset(self) -> bool:
        """Cut the connection without a word."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
        return True

    def do_GET(self) -> None:
        if self.state.refuse_models is not None:
            self.say(self.state.refuse_models, {"error": {"message": "not for this key"}})
            return
        if self.path != "/v1/models" or self.state.models is None:
            self.say(404, {"error": {"message": "Not Found"}})
            return
        # As vLLM does: a new time at each request.
        listed = [{**m, "created": time.time_ns()} for m in self.state.models]
        self.say(200, {"object": "list", "data": listed})

    def do_POST(self) -> None:
        state = self.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            state.in_flight += 1
            state.most_in_flight = max(state.most_in_flight, state.in_flight)
            request = self._received(body)
            state.received.append(request)
        reply = 404, {"error": {"message": "Not Found"}}
        try:
            time.sleep(state.delay)
            if self.path == "/v1/chat/completions":
                if state.trouble(request, self):
                    return
                reply = 200, state.edit(request, completion(request))
        finally:
            # Before the reply is sent: the client may send its next request at once.
            with state.lock:
                state.in_flight -= 1
        with contextlib.suppress(ConnectionError):
            self.say(*reply)

    def _received(self, body: dict[str, Any]) -> Received:
        content = body["messages"][-1]["content"]
        prompt, image, media = content, None, None
        if isinstance(content, list):
            (prompt,) = (part["text"] for part in content if part["type"] == "text")
            (url,) = (part["image_url"]["url"] for part in content if part["type"] == "image_url")
            head, _, encoded = url.partition(",")
            assert head.startswith("data:")
            assert head.endswith(";base64")
            media, image = head[5:-7], base64.b64decode(encoded, validate=True)
        sha = hashlib.sha256(image).hexdigest() if image else None
        identity = (sha, prompt)
        self.state.times[identity] += 1
        number, times = len(self.state.received), self.state.times[identity] - 1
        return Received(number, body, dict(self.headers), prompt, image, media, identity, times)


def completion(request: Received) -> dict[str, Any]:
    """The body of a proper reply."""
    picture = digest(Image.open(io.BytesIO(request.image)).convert("RGB")) if request.image else None
    text, tokens = rule(picture, request.prompt)
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
        "logprobs": None,
    }
    if request.body.get("logprobs"):
        entries = [{"token": t, "logprob": math.log(p), "bytes": list(t.encode())} for t, p in tokens.items()]
        first = next(e for e in entries if e["token"] == first_token(text))
        choice["logprobs"] = {"content": [{**first, "top_logprobs": entries}]}
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}
    return {"model": request.body["model"], "object": "chat.completion", "choices": [choice], "usage": usage}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serving(port: int = 0, **settings: Any) -> Iterator[State]:
    """A server, until the block ends."""
    state = State(**settings)
    server = _Server(("127.0.0.1", port), type("OurHandler", (Handler,), {"state": state}))
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
