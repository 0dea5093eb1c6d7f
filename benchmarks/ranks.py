"""Several processes on one run, as `accelerate launch` or torchrun start them; a single process imports nothing."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = timedelta(hours=24)
"""How long a rank waits for the others: as long as the slowest may take."""


class Ranks:
    """This process's place among the processes of one launch."""

    def __init__(self) -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self._state: Any = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def start(self, device: str) -> None:
        """Join the other processes: gloo on CPU, NCCL on CUDA."""
        if self.world > 1 and self._state is None:
            from accelerate import PartialState

            self._state = PartialState(cpu=device == "cpu", timeout=PATIENCE)

    def device(self, wanted: str) -> str:
        """The device for this rank: each local rank its own GPU."""
        if self.world > 1 and wanted in ("auto", "cuda"):
            import torch

            if torch.cuda.is_available():
                return f"cuda:{self.local_rank % torch.cuda.device_count()}"
            return "cpu"
        return wanted

    def broadcast(self, value: T) -> T:
        """The first rank's value on every rank; also a barrier."""
        if self._state is None:
            return value
        from accelerate.utils import broadcast_object_list

        box = [value]
        broadcast_object_list(box, from_process=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in rank order, on every rank; also a barrier."""
        if self._state is None:
            return [value]
        from accelerate.utils import gather_object

        gathered: list[T] = gather_object([value])
        return gathered

    def close(self) -> None:
        """Leave the group of processes in good order."""
        if self._state is not None:
            self._state.destroy_process_group()
            self._state = None
