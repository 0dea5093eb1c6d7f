"""So many tasks at a time, the first in order first."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

T = TypeVar("T")
Task = tuple[float, int, Future[Any] | None, Callable[[], Any]]
"""Order, number, where the result goes (None: end the thread), what to do."""


class Workers:
    """Threads that take tasks in their order, not in that of their coming (a ThreadPoolExecutor's).

    So the tasks of what was begun are done before more is begun. The threads end with the program: a reply that is
    waited for keeps no interrupted program alive.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._queue: queue.PriorityQueue[Task] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._open: set[Future[Any]] = set()
        self._closed: Exception | None = None

    def submit(self, order: float, task: Callable[[], T]) -> Future[T]:
        """Have a task done; tasks of equal order are done as they came."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed is not None:
                raise self._closed
            self._open.add(future)
            self._queue.put((order, next(self._numbers), future, task))
            if len(self._threads) < self.count:
                thread = threading.Thread(target=self._work, name="served", daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def _work(self) -> None:
        while True:
            _, _, future, task = self._queue.get()
            if future is None:
                return
            with self._lock:
                if future.done() or not future.set_running_or_notify_cancel():
                    self._open.discard(future)
                    continue
            # A future that close() settles meanwhile takes no result.
            try:
                result = task()
            except BaseException as error:
                with contextlib.suppress(InvalidStateError):
                    future.set_exception(error)
            else:
                with contextlib.suppress(InvalidStateError):
                    future.set_result(result)
            with self._lock:
                self._open.discard(future)

    def close(self, reason: Exception) -> None:
        """Take no more tasks, and let whoever waits for one get the reason."""
        with self._lock:
            self._closed = reason
            for future in self._open:
                with contextlib.suppress(InvalidStateError):
                    future.set_exception(reason)
            for _ in self._threads:
                self._queue.put((float("-inf"), next(self._numbers), None, lambda: None))
