"""Batches that shrink when memory runs out. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


OUT_OF_MEMORY = "out of memory"
"""How the error of a reply begins that memory was lacking for."""


def memory_message(error: BaseException) -> str:
    """One line that says that and where memory ran out."""
    return f"{OUT_OF_MEMORY}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


AUTOMATIC = {"cuda": 128, "cpu": 32}
"""Where batches begin by themselves, by device. A GPU says when its memory is full; a host may end the process instead,
and larger batches bring nothing there."""


class Batcher:
    """Runs items in batches; on out-of-memory halves the batch and remembers the size that fitted.

    Args:
        size: the largest batch to try.
        out_of_memory: tells whether an exception means that memory ran out (others pass through).
        release: called after each such exception, before the smaller try (empty a cache, say).
    """

    def __init__(
        self, size: int, out_of_memory: Callable[[BaseException], bool], release: Callable[[], None] = lambda: None
    ) -> None:
        if size < 1:
            raise ValueError(f"batch size must be at least 1, not {size}")
        self.size = size
        self._out_of_memory = out_of_memory
        self._release = release

    def map(self, items: Sequence[T], run: Callable[[Sequence[T]], list[R]], failed: Callable[[T, str], R]) -> list[R]:
        """`run` over all items, in order; an item that does not fit by itself becomes `failed(item, message)`."""
        results: list[R] = []
        start = 0
        while start < len(items):
            batch = items[start : start + self.size]
            message = None
            try:
                done = run(batch)
            except Exception as error:
                if not self._out_of_memory(error):
                    raise
                message = memory_message(error)
            if message is None:
                results.extend(done)
                start += len(batch)
                continue
            # Outside the except block: the traceback would keep the failed batch's tensors alive.
            self._release()
            if len(batch) == 1:
                results.append(failed(batch[0], message))
                start += 1
            else:
                self.size = max(1, len(batch) // 2)
        return results
