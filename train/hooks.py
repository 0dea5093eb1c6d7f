"""What a training run tells the outside while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Tracker(Protocol):
    """Someone who wants to know how a stage goes on. Called on the first process alone, in the order of steps."""

    def begin(self, step: int) -> None:
        """The stage starts, or is resumed, with `step` steps done: rows of later steps will come again."""
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Means since the last call, after `step` steps; names are listed in `train.metrics`."""
        ...

    def look(self, step: int, model: Any, processor: Any) -> None:
        """Every `overlay_every` steps: look at the model, in eval mode and without gradients."""
        ...

    def close(self) -> None:
        """The stage is over, or has failed."""
        ...
