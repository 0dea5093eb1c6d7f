"""Following a stage: log.jsonl and TensorBoard always, Weights & Biases where wanted, a bar or lines at a terminal."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from agevlm.errors import TrainError
from train.config import STAGE_FILE, spec_as_dict, stage_yaml
from train.logs import cut_log
from train.spec import StageSpec

LOG = "log.jsonl"
TENSORBOARD = "tensorboard"
ELAPSED = "time/elapsed"
"""Seconds since the run was started or resumed. Two runs of a stage differ in entries under `time/` alone."""
SHOWN = {"loss": "loss/text", "guidance": "loss/guidance", "IoU": "attention/iou", "gates": "gate/attn"}
"""What the terminal shows: its word there -> the metric, or what the sizes below it are averaged of."""


class Painter(Protocol):
    """Someone who draws overlays."""

    def draw(self, step: int, model: Any, processor: Any) -> Path | None:
        """Write the picture of a step and say where."""
        ...


class StageTracker:
    """Writes what a stage tells, into its run folder, and shows it. See `train.hooks.Tracker`.

    Args:
        spec: of the stage.
        folder: of the run; `spec.out`.
        notes: where progress is shown: a bar on a terminal, else a line at every call of `log`.
        painter: draws overlays; None for none.

    Raises:
        TrainError: Weights & Biases is wanted, and its package is not installed.
    """

    def __init__(self, spec: StageSpec, folder: Path, notes: Console, painter: Painter | None = None) -> None:
        if spec.wandb and importlib.util.find_spec("wandb") is None:
            raise TrainError("wandb: true, but the package is missing: pip install 'agevlm[wandb]', or wandb: false")
        self.spec, self.folder, self.notes, self.painter = spec, folder, notes, painter
        self._log: Any = None
        self._board: Any = None
        self._wandb: Any = None
        self._bar: Progress | None = None
        self._began, self._last = 0.0, (0, 0.0)

    def begin(self, step: int) -> None:
        """Write stage.yaml and open everything; rows of steps after `step` are cut, because they will come again.

        Raises:
            RunFolderError: the log cannot be read or written.
        """
        from torch.utils.tensorboard import SummaryWriter

        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / STAGE_FILE).write_text(stage_yaml(self.spec), encoding="utf-8")
        cut_log(self.folder / LOG, step)
        self._log = (self.folder / LOG).open("a", encoding="utf-8")
        purge = {"purge_step": step + 1} if step else {}
        self._board = SummaryWriter(str(self.folder / TENSORBOARD), **purge)
        if self.spec.wandb:
            self._wandb = self._open_wandb()
        if self.notes.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.notes)
            self._bar.add_task(f"stage {self.spec.stage}, {self.spec.name}", total=self.spec.steps, completed=step)
            self._bar.start()
        self._began = time.monotonic()
        self._last = (step, self._began)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row of the log, one point of each curve, one line at the terminal."""
        now = time.monotonic()
        speed = (step - self._last[0]) / max(now - self._last[1], 1e-9)
        self._last = (step, now)
        row = {"step": step, **metrics, ELAPSED: round(now - self._began, 3)}
        # JSON has no NaN; null says that there was a number, and none that could be written.
        finite = {k: v if math.isfinite(v) else None for k, v in row.items()}
        self._log.write(json.dumps(finite) + "\n")
        self._log.flush()
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(metrics), step=step)
        self._show(step, metrics, speed)

    def look(self, step: int, model: Any, processor: Any) -> None:
        """Draw the overlay of a step."""
        if self.painter is None:
            return
        picture = self.painter.draw(step, model, processor)
        if picture is not None:
            import numpy as np
            from PIL import Image

            with Image.open(picture) as image:
                self._board.add_image("overlay", np.asarray(image.convert("RGB")), step, dataformats="HWC")
            if self._wandb is not None:
                wandb = importlib.import_module("wandb")
                self._wandb.log({"overlay": wandb.Image(str(picture))}, step=step)

    def advance(self, done: int, _: int) -> None:
        """Move the bar, if there is one."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)

    def close(self) -> None:
        """Close everything; can be called twice."""
        if self._bar is not None:
            self._bar.stop()
        if self._log is not None:
            self._log.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()
        self._bar = self._log = self._board = self._wandb = None

    def _show(self, step: int, metrics: Mapping[str, float], speed: float) -> None:
        values = {word: value for word, name in SHOWN.items() if (value := _mean(metrics, name)) is not None}
        told = " · ".join(f"{word} {value:.3f}" for word, value in values.items())
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, description=f"{told} · {speed:.2f} steps/s")
            return
        left = (self.spec.steps - step) / speed if speed else math.inf
        ends = f"{left / 3600:.1f} h" if left >= 5400 else f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"
        self.notes.print(f"step {step} of {self.spec.steps} · {told} · {speed:.2f} steps/s · {ends} left")

    def _open_wandb(self) -> Any:
        wandb = importlib.import_module("wandb")
        import hashlib

        # The same run when it is resumed. WANDB_MODE=offline is heeded by the package itself.
        name = f"{self.spec.arm}-{self.spec.stage}-{self.spec.name}"
        key = hashlib.sha256(os.fsencode(self.folder.resolve())).hexdigest()[:16]
        config = spec_as_dict(self.spec)
        try:
            return wandb.init(project="age-vlm", name=name, id=key, resume="allow", dir=str(self.folder), config=config)
        except wandb.Error as error:
            said = " ".join(str(error).split())
            raise TrainError(f"wandb: {said} (or set WANDB_MODE=offline, or wandb: false)") from None


def _mean(metrics: Mapping[str, float], name: str) -> float | None:
    """A metric, or the mean size of those below it (`gate/attn` for `gate/attn/2`, `gate/attn/7`)."""
    if name in metrics:
        return metrics[name]
    found = [abs(value) for key, value in metrics.items() if key.startswith(f"{name}/")]
    return sum(found) / len(found) if found else None
