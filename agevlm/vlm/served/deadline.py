"""A time limit for whole requests. httpx knows one for each read alone, which a server that trickles never reaches."""

from __future__ import annotations

import contextlib
import math
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpcore
import httpx

PIECE = 2**16
"""Bytes sent under one look at the clock."""


class Deadline(threading.local):
    """When the request of this thread must be over."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic, self._end = monotonic, math.inf

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """All that the block does over the network takes at most so long."""
        self._end = self._monotonic() + seconds
        try:
            yield
        finally:
            self._end = math.inf

    def left(self, timeout: float | None, late: type[Exception]) -> float | None:
        """Seconds for one step that may take `timeout`; raises `late` if none are left."""
        left = self._end - self._monotonic()
        if left <= 0:
            raise late(f"{-left:.3g} s too late")
        # Sockets take no infinite limit.
        return timeout if math.isinf(left) else min(left, math.inf if timeout is None else timeout)


def limit(client: httpx.Client, deadline: Deadline) -> None:
    """Hold a client's requests to the deadline of the thread that sends them.

    httpx offers no way to hand on httpcore's `network_backend`, so it is set in the pools, those to proxies included.
    """
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.HTTPTransport):
            transport._pool._network_backend = _Backend(deadline)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, deadline: Deadline) -> None:
        self._deadline, self._inner = deadline, httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.connect_tcp(host, port, left, local_address, socket_options), self._deadline)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner, self._deadline = inner, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), PIECE):
            left = self._deadline.left(timeout, httpcore.WriteTimeout)
            self._inner.write(buffer[start : start + PIECE], left)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
