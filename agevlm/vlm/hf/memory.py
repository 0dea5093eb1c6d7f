"""When memory runs out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar

import torch

R = TypeVar("R")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that device or host memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # CPU allocator, the CUDA driver, cuBLAS: plain RuntimeErrors all.
    signs = ("allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def release_memory() -> None:
    """Give cached device memory back, as far as the device still answers."""
    if torch.cuda.is_available():
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


def with_room(work: Callable[[], R], spare: Callable[[], bool] = lambda: True) -> R:
    """What `work` returns; where memory runs out, once more with what was only kept for later given back.

    Args:
        work: to do.
        spare: lets go of more; says whether a second try is worth it.
    """
    try:
        return work()
    except Exception as error:
        if not (is_out_of_memory(error) and spare()):
            raise
    # Outside the except block: the traceback would keep the first try's tensors alive.
    release_memory()
    return work()
