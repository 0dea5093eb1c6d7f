"""Run folders of training stages, read for tables: settings, how far they got, what they logged. Needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agevlm.errors import RunFolderError
from reports.runs.files import json_lines
from train.lineage import read_record

RUN, MODEL, LOG, LANGUAGE = "run.json", "model", "log.jsonl", "language.json"
"""As `train.folder` and those who write beside it name them; it needs torch."""


@dataclass(frozen=True)
class Training:
    """One run of a stage."""

    folder: Path
    spec: Mapping[str, Any]
    """The stage's settings, as its run.json has them."""
    identity: Mapping[str, Any]
    """All of run.json."""
    done: int
    """Optimiser steps whose model or log is there."""
    finished: bool
    """Its model is there, of as many steps as the stage has."""
    log: Mapping[int, Mapping[str, float]]
    """Logged rows by step; NaN where a number was not finite."""
    before: tuple[Mapping[str, Any], ...] | None
    """Records of the stages before (their arm, stage, steps), oldest first; None where nothing says which they were."""
    earlier: Mapping[int, Mapping[str, Any]] | None
    """Settings of the stages before by their number; None where the run folder of one is not there any more."""
    architecture: Mapping[str, Any] | None
    """config.json of the model, or of that which it starts from; None where neither is there."""
    language: Mapping[str, Any] | None
    """What the language check after the stage found."""
    remarks: tuple[str, ...] = ()
    """What is wrong with it."""

    @property
    def steps(self) -> int:
        """Optimiser steps that the stage has."""
        return int(self.spec["steps"])

    @property
    def seed(self) -> tuple[int, int]:
        """Of the run and of its data."""
        return int(self.spec["seed"]), int(self.spec["data_seed"])

    @property
    def model(self) -> Path:
        """Where its trained model is."""
        return self.folder / MODEL


def is_training(folder: Path) -> bool:
    """Whether a run folder is one of a training stage."""
    return "spec" in _json(folder / RUN)


def open_training(folder: Path) -> Training:
    """Read the run folder of a training stage.

    A damaged line of its log is named in the remarks, and the others are used.

    Raises:
        RunFolderError: it is none, or its run.json is damaged or of another version.
        TrainError: its model's training.json is damaged.
    """
    identity = _json(folder / RUN)
    remarks: list[str] = []
    try:
        spec = identity["spec"]
        steps, _ = int(spec["steps"]), (int(spec["seed"]), int(spec["data_seed"]))
        record = read_record(folder / MODEL)
        log = _log(folder, remarks)
        trained = 0 if record is None else int(record["steps"])
        base = Path(str(spec["init_from"])).expanduser()
        before = _before(record, base)
        return Training(
            folder,
            spec,
            identity,
            max([trained, *log, *_checkpoints(folder)]),
            trained == steps,
            log,
            before,
            None if before is None else _earlier(base, before),
            _optional(folder / MODEL / "config.json") or _optional(base / "config.json"),
            _optional(folder / LANGUAGE),
            tuple(remarks),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{folder}: run.json or training.json is damaged or of another version ({error!r})"
        ) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(held, dict):
            raise ValueError("no JSON object")
        return held
    except FileNotFoundError:
        raise RunFolderError(f"{path.parent}: not a run folder (it has no {path.name})") from None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read ({error})") from None


def _optional(path: Path) -> dict[str, Any] | None:
    try:
        return _json(path)
    except RunFolderError:
        return None


def _log(folder: Path, remarks: list[str]) -> dict[int, dict[str, float]]:
    path = folder / LOG
    if not path.exists():
        remarks.append(f"{folder}: no {LOG}: none of its losses is in the table")
        return {}
    rows: dict[int, dict[str, float]] = {}
    for number, row in json_lines(path, remarks):
        try:
            # null is what a number that is none was written as.
            numbers = {str(name): math.nan if value is None else float(value) for name, value in row.items()}
            rows[int(row["step"])] = numbers
        except (KeyError, TypeError, ValueError) as error:
            remarks.append(f"{path}:{number}: not a row of a log ({error!r}); left out")
    return rows


def _checkpoints(folder: Path) -> list[int]:
    """Steps of the training checkpoints."""
    names = [path.name.removeprefix("step-") for path in folder.glob("checkpoints/step-*")]
    return [int(name) for name in names if name.isdecimal()]


def _before(record: Mapping[str, Any] | None, base: Path) -> tuple[Mapping[str, Any], ...] | None:
    """Of the model's own record, or where there is no model yet of the one it starts from."""
    if record is not None:
        return tuple(record.get("lineage", ()))
    if not base.is_dir():
        return None
    started = read_record(base)
    return () if started is None else (*started.get("lineage", ()), started)


def _earlier(base: Path, before: tuple[Mapping[str, Any], ...]) -> dict[int, Mapping[str, Any]] | None:
    """The settings of each stage before, from its run folder, which is told by the hash of its settings."""
    found: dict[int, Mapping[str, Any]] = {}
    for record in reversed(before):
        held = _optional(base.parent / RUN)
        if held is None or held.get("spec_hash") != record.get("spec_hash") or "spec" not in held:
            return None
        found[int(record["stage"])] = held["spec"]
        base = Path(str(held["spec"]["init_from"])).expanduser()
    return dict(sorted(found.items()))
