"""JSON over HTTP to an endpoint that may be slow, busy or broken. The key goes into the header and nowhere else."""

from __future__ import annotations

import itertools
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import httpx

from agevlm.errors import EndpointError
from agevlm.vlm.served.address import KEYS
from agevlm.vlm.served.deadline import Deadline, limit
from agevlm.vlm.served.reply import brief, server_words
from agevlm.vlm.served.retry import AT_ONCE, Patience, passes, retry_after

CONNECT = 10.0
"""Most seconds until a connection stands."""
LARGEST = 64 * 2**20
"""Most bytes of a reply."""
SECRET = 8
"""A shorter key is a placeholder (EMPTY, none): its letters may stand in any answer."""
LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy")
ADVICE = {
    401: f"set the right key in the environment ({' or '.join(KEYS)})",
    403: "the key may not use this model",
    404: "there is no such model or no such path; is the URL right? It mostly ends in /v1",
    413: "the request is too large for the server: show it smaller images",
    429: "the account's quota is used up",
}


class Rejected(EndpointError):
    """The server will not answer this request, however often it is sent."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, f"HTTP {status}")
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return Rejected, (str(self), self.status)


class Closed(EndpointError):
    """The transport was closed while a reply was waited for."""

    def __init__(self) -> None:
        super().__init__("the client was closed before the reply came")

    def __reduce__(self) -> tuple[Any, ...]:
        return Closed, ()


@dataclass(frozen=True)
class Clock:
    """Time, so that tests need not wait for it."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] | None = None
    """None: sleep, but wake when the transport is closed."""


@dataclass(frozen=True)
class Exchange:
    """A reply's JSON body, and how it was come by."""

    body: Any
    tries: int
    latency: float
    """Seconds from the last sending to the reply's end."""


class _Passing(Exception):
    """A trouble that may pass."""

    def __init__(self, error: EndpointError, retry_after: float | None = None) -> None:
        super().__init__(str(error))
        self.error, self.retry_after = error, retry_after


class Transport:
    """One endpoint's connections; safe to use from many threads.

    Args:
        url: base URL, without credentials.
        key: sent as a bearer token, and taken out of whatever comes back; None to send none.
        timeout: seconds for a request, from sending to the last byte of its reply.
        connections: most at a time.
        clock: of pauses and deadlines.

    Raises:
        EndpointError: the URL is none.
    """

    def __init__(self, url: str, key: str | None, *, timeout: float, connections: int, clock: Clock) -> None:
        self.url, self.timeout, self._clock = url.rstrip("/"), timeout, clock
        self._hidden = {key, json.dumps(key)[1:-1], quote(key, safe="")} if key else set()
        self._secret = key is not None and len(key) >= SECRET
        try:
            httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise EndpointError(f"the endpoint's URL cannot be used: {error}") from None
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout, connect=min(CONNECT, timeout), pool=None),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )
        self._deadline = Deadline(self._clock.monotonic)
        limit(self._http, self._deadline)
        for name in LOGGERS:
            logging.getLogger(name).addFilter(self._unlogged)
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._random = random.Random()
        self._given_up = False
        self.requests = 0
        """Sent so far, repeated ones included."""
        self.retries = 0

    def exchange(self, method: str, path: str, fields: Mapping[str, Any] | None, patience: Patience) -> Exchange:
        """Send a request, again and again where its trouble may pass, and read the JSON that comes back.

        Once patience has ended for one request, others get little of it, until one succeeds again: an endpoint that is
        down need not be waited for by each.

        Raises:
            Rejected: the server refuses it.
            EndpointError: patience is at its end; or the reply is a web page, or too long.
        """
        # Plain ASCII, so that no prompt can break it.
        content = None if fields is None else json.dumps(fields).encode("ascii")
        started = self._clock.monotonic()
        for tries in itertools.count(1):
            with self._lock:
                self.requests += 1
                self.retries += tries > 1
            sent = self._clock.monotonic()
            try:
                body = self._once(method, path, content)
                self._given_up = False
                return Exchange(body, tries, self._clock.monotonic() - sent)
            except _Passing as trouble:
                if self._given_up:
                    patience = replace(patience, tries=min(patience.tries, AT_ONCE.tries))
                pause = patience.pause(tries, trouble.retry_after, self._random.random())
                spent = self._clock.monotonic() - started
                if tries >= patience.tries or spent + pause > patience.seconds:
                    self._given_up = True
                    raise trouble.error from None
            self._sleep(pause)
        raise AssertionError

    def close(self) -> None:
        """Close all connections and end all pauses; what is under way raises `Closed`."""
        self._closed.set()
        self._http.close()
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(self._unlogged)

    def hide(self, text: str) -> str:
        """The text without the key."""
        for secret in self._hidden:
            text = text.replace(secret, "[key]")
        return text

    def _unlogged(self, record: logging.LogRecord) -> bool:
        """A server may send the key back in a header, which the libraries below log when told to debug."""
        record.msg, record.args = self.hide(record.getMessage()), ()
        return True

    def _once(self, method: str, path: str, content: bytes | None) -> Any:
        headers = {"Content-Type": "application/json"} if content is not None else {}
        try:
            with (
                self._deadline.within(self.timeout),
                self._http.stream(method, self.url + path, content=content, headers=headers) as response,
            ):
                data = self._read(response)
        except httpx.ConnectTimeout:
            raise _Passing(self._late("take a connection", min(CONNECT, self.timeout))) from None
        except httpx.TimeoutException:
            raise _Passing(self._late("answer", self.timeout)) from None
        except (httpx.RequestError, OSError, RuntimeError) as error:
            if self._closed.is_set():
                raise Closed from None
            if isinstance(error, RuntimeError):
                raise
            words = self._quote(str(error)) or type(error).__name__
            trouble = f"{self.url} cannot be reached: {words}; is the server running?"
            raise _Passing(EndpointError(trouble, "no connection")) from None
        if not response.is_success:
            raise self._refusal(response, data)
        return self._parse(data, self.url + path)

    def _read(self, response: httpx.Response) -> bytes:
        data = bytearray()
        for chunk in response.iter_bytes():
            data += chunk
            if len(data) > LARGEST:
                raise EndpointError(f"{self.url}: the reply is longer than {LARGEST // 2**20} MiB", "too long")
        return bytes(data)

    def _late(self, what: str, seconds: float) -> EndpointError:
        return EndpointError(
            f"{self.url} did not {what} within {seconds:g} s; raise --timeout or lower --concurrency", f"late to {what}"
        )

    def _parse(self, data: bytes, where: str) -> Any:
        try:
            return self._without_key(json.loads(data))
        except (ValueError, RecursionError):
            pass
        if _is_page(data):
            raise EndpointError(
                f"{where} answers with a web page, not with JSON; is the URL right? It mostly ends in /v1", "a web page"
            )
        raise _Passing(EndpointError(f"{where}: the reply ({len(data)} bytes) is no whole JSON", "no JSON"))

    def _refusal(self, response: httpx.Response, data: bytes) -> Exception:
        """What an HTTP status other than success means."""
        status = response.status_code
        said = f"HTTP {status}: {self._words(data) or self._quote(response.reason_phrase)}"
        if passes(status) and b"insufficient_quota" not in data:
            asked = retry_after(response.headers.get("retry-after"), self._clock.wall())
            return _Passing(EndpointError(f"{self.url} is in trouble: {said}", f"HTTP {status}"), asked)
        redirects = 300 <= status < 400
        advice = self._leads_to(response.headers.get("location", "")) if redirects else ADVICE.get(status)
        return Rejected(f"{self.url} refuses: {said}" + (f"; {advice}" if advice else ""), status)

    def _words(self, data: bytes) -> str:
        """What the server says of its trouble, in one short line."""
        text = data.decode("utf-8", "replace")
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            return "" if _is_page(data) else self._quote(text)
        return self._quote(server_words(body))

    def _quote(self, text: str) -> str:
        return brief(self.hide(text))

    def _leads_to(self, location: str) -> str:
        """What to do about a redirect; without what may be a secret in its target."""
        try:
            parts = urlsplit(location)
            target = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
        except ValueError:
            target = ""
        return f"it leads to {self._quote(target)}; give that URL" if target else "give the URL that it leads to"

    def _without_key(self, value: Any) -> Any:
        """Parsed JSON without the key, wherever a server has put it."""
        if not self._secret:
            return value
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, list):
            return [self._without_key(v) for v in value]
        if isinstance(value, dict):
            return {self.hide(k): self._without_key(v) for k, v in value.items()}
        return value

    def _sleep(self, seconds: float) -> None:
        if self._clock.sleep is not None:
            self._clock.sleep(seconds)
        elif self._closed.wait(seconds):
            raise Closed


def _is_page(data: bytes) -> bool:
    return data.lstrip().startswith(b"<")
