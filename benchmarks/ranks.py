"""Several processes on one run, as `accelerate launch` or torchrun start them; a single process imports nothing."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, TypeVar

from agevlm.errors import AgeVlmError

T = TypeVar("T")

PATIENCE = timedelta(hours=24)
"""How long a rank waits for the others: as long as the slowest may take."""


class RankLost(AgeVlmError):
    """Another process of the launch has ended before its work was done."""

    exit_code = 4

    def __init__(self) -> None:
        super().__init__(
            "another process of this launch has ended; see its message. All answers are kept, and the same command "
            "goes on from there"
        )


class Ranks:
    """This process's place among the processes of one launch."""

    def __init__(self) -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self._joined = False

    @property
    def first(self) -> bool:
        return self.rank == 0

    def start(self) -> None:
        """Join the other processes.

        By gloo on any device: only small Python objects are exchanged, and a GPU must not spin while it waits.
        """
        if self.world > 1:
            import torch.distributed

            torch.distributed.init_process_group("gloo", timeout=PATIENCE)
            self._joined = True

    def device(self, wanted: str) -> str:
        """The device for this rank: each local rank its own GPU."""
        if self.world > 1 and wanted in ("auto", "cuda"):
            import torch

            if torch.cuda.is_available():
                return f"cuda:{self.local_rank % torch.cuda.device_count()}"
            return "cpu"
        return wanted

    def broadcast(self, value: T) -> T:
        """The first rank's value on every rank; also a barrier. Raises RankLost."""
        return self.gather(value)[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in rank order, on every rank; also a barrier.

        Raises:
            RankLost: another process has ended.
        """
        if not self._joined:
            return [value]
        import torch.distributed

        gathered: list[Any] = [None] * self.world
        try:
            torch.distributed.all_gather_object(gathered, value)
        except RuntimeError as error:
            raise RankLost from error
        return gathered

    def close(self) -> None:
        """Leave the group of processes in good order."""
        if self._joined:
            import torch.distributed

            torch.distributed.destroy_process_group()
            self._joined = False
