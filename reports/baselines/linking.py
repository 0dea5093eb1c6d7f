"""Which training run made the model that was evaluated: told by the bytes of its weights, never by a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agevlm.errors import AgeVlmError
from agevlm.vlm.fingerprint import fingerprint_folder
from reports.baselines.training import RUN, Training, open_training
from train.lineage import RECORD, read_record


@dataclass(frozen=True)
class Point:
    """A training run after so many steps."""

    run: Training
    steps: int


class NoRun(Exception):
    """No training run is known to have made a model; the message says why."""


def weights_of(folder: Path) -> str:
    """Hash of a checkpoint folder's weights, as evaluations record it."""
    return fingerprint_folder(folder, {}).parts.get("weights", "")


@dataclass
class Makers:
    """Training runs, and how their models are known again."""

    runs: list[Training]
    known: dict[str, list[Point]] | None = None
    """By the hash of the weights; None until the first model is asked for, as reading them takes time."""
    added: list[Training] = field(default_factory=list)
    """Runs that were not given: a checkpoint that was evaluated lies in their folder."""

    @property
    def _by_weights(self) -> dict[str, list[Point]]:
        if self.known is None:
            self.known = {}
            for run in self.runs:
                self._know(run, self.known)
        return self.known

    def _know(self, run: Training, known: dict[str, list[Point]]) -> None:
        if (record := read_record(run.model)) is not None:
            known.setdefault(weights_of(run.model), []).append(Point(run, int(record["steps"])))

    def points(self, ckpt: str, parts: Mapping[str, Any]) -> list[Point]:
        """The training runs that made an evaluated model; several only where they left the same bytes.

        The weights of a run's own model, else a folder at the path that was evaluated, if its weights are still the
        ones that were, and its record is of a run's settings, data and beginning.

        Args:
            ckpt: as the evaluation names the model.
            parts: of the model's fingerprint.

        Raises:
            NoRun: none did.
        """
        weights = str(parts.get("weights", ""))
        if not weights:
            raise NoRun("the evaluation does not record the model's weights")
        known = self._by_weights
        if weights not in known:
            known[weights] = self._by_path(ckpt, weights)
        return known[weights]

    def _by_path(self, ckpt: str, weights: str) -> list[Point]:
        folder = Path(ckpt).expanduser()
        asked = f"its weights ({weights[:8]}) are of no training run that was given"
        if not (folder / RECORD).is_file():
            raise NoRun(f"{asked}, and no trained checkpoint is at {ckpt}; give the folder of the run that made it")
        if weights_of(folder) != weights:
            raise NoRun(f"{asked}, and the checkpoint at {ckpt} is another by now; evaluate it again")
        record = read_record(folder) or {}
        found = [run for run in self.runs if _made_by(record, run)]
        if not found and (folder.resolve().parent / RUN).is_file():
            try:
                beside = open_training(folder.resolve().parent)
            except AgeVlmError as error:
                raise NoRun(f"{asked}, and that beside {ckpt} cannot be read: {error}") from None
            if _made_by(record, beside):
                found = [beside]
                self.runs.append(beside)
                self.added.append(beside)
                self._know(beside, self._by_weights)
        if not found:
            raise NoRun(f"{asked}; give the folder of the run that made it")
        if len(found) > 1:
            # Runs of the same settings and beginning need not end alike on every machine.
            found = [run for run in found if folder.resolve().is_relative_to(run.folder)]
        if not found:
            raise NoRun(f"{asked} by their weights, and several of them may have made {ckpt}; give one of them")
        return [Point(run, int(record["steps"])) for run in found]


def _made_by(record: Mapping[str, Any], run: Training) -> bool:
    return all(record.get(name) == run.identity.get(name) for name in ("spec_hash", "base", "data"))


def evaluated(manifest: Mapping[str, Any]) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """The models of an evaluation, each with the parts of its fingerprint."""
    many = manifest.get("models")
    if isinstance(many, dict) and many:
        return [(str(name), held.get("parts", {})) for name, held in many.items()]
    model = manifest.get("model", {})
    return [(str(model.get("ckpt", "")), model.get("parts", {}))]
