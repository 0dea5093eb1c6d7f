"""Which run folders there are, what they are of, and how far they got."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from agevlm.errors import DataError, RunFolderError
from benchmarks.run_folder import RunFolder
from reports.runs.files import answers_of, in_use, is_newer
from reports.runs.headline import FIELD, Headline, headlines, lead
from reports.runs.questions import questions_of

INNER = ("probes", "checkpoints", "lmms-eval")
"""Folders within run folders in which no run is."""


class State(StrEnum):
    """How far a run got."""

    COMPLETE = "complete"
    RESUMABLE = "resumable"
    """Some answers or image groups are missing: the same command goes on."""
    IN_USE = "in use"
    """A command owns it now."""
    FAILED = "failed"
    """Errors stand in the place of some answers or image groups: the same command tries them again."""
    UNSCORED = "not scored yet"
    """All is answered; the same command scores it."""
    DAMAGED = "damaged"
    NEWER = "newer version"
    """A later version of this program wrote it: nothing more is read."""


@dataclass(frozen=True)
class Listed:
    """A run folder."""

    path: Path
    benchmark: str
    """pope, cvbench, similarity, ...; empty where the manifest cannot be read."""
    models: tuple[str, ...]
    data: tuple[str, ...]
    state: State
    detail: str
    """What the state is about: how many are missing, what is damaged."""
    headlines: tuple[Headline, ...]
    """Of the last scores, which may be of fewer answers than are there where the run is not complete."""
    launched: datetime | None
    """When the last launch began; in UTC."""

    def age(self, now: datetime) -> float | None:
        """Seconds since the last launch began."""
        return None if self.launched is None else (now - self.launched).total_seconds()

    def to_json(self, now: datetime) -> dict[str, Any]:
        """Plain values."""
        return {
            "path": str(self.path),
            "benchmark": self.benchmark,
            "models": list(self.models),
            "data": list(self.data),
            "state": self.state.value,
            "detail": self.detail,
            "headline": [one.to_json() for one in self.headlines],
            "last_launch": None if self.launched is None else self.launched.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "age_seconds": self.age(now),
        }


@dataclass
class Left:
    """What is not there of what was asked for."""

    total: int = 0
    missing: int = 0
    """Never answered."""
    errors: int = 0
    what: str = "answers"
    damage: list[str] = field(default_factory=list)


def list_runs(root: Path) -> list[Listed]:
    """The run folders below a folder and the folder itself, the latest launch first.

    Folders of training runs are left out: they hold other things under the same names.

    Raises:
        DataError: there is no such folder.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the one that holds your runs: agevlm-eval runs DIR")
    found = [run for path in _candidates(root) if (run := look_at(path)) is not None]
    return sorted(found, key=lambda run: (run.launched is None, -run.launched.timestamp() if run.launched else 0.0))


def _candidates(root: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in INNER)
        if "run.json" in files or "lock" in files or any(f.startswith("answers-") for f in files):
            yield Path(place)


def look_at(path: Path) -> Listed | None:
    """One folder; None if it is no run of `agevlm-eval`."""
    used = in_use(path)
    has_answers = (path / "questions.jsonl").exists() or bool(RunFolder(path).answer_files)
    manifest: dict[str, Any] = {}
    state, detail = State.DAMAGED, ""
    try:
        manifest = RunFolder(path).manifest()
        if is_newer(manifest):
            state, detail = State.NEWER, f"schema {manifest['schema']}"
        elif manifest:
            if "benchmark" not in manifest and not has_answers:
                return None
            return _known(path, manifest, used)
        elif used:
            state = State.IN_USE
        elif has_answers:
            detail = "no run.json; give the command again, its answers are kept"
        else:
            return None
    except (OSError, RunFolderError, KeyError, TypeError, AttributeError, ValueError) as error:
        detail = _said(error)
    return Listed(path, _text(manifest.get("benchmark")), (), (), state, detail, (), _launched(manifest))


def _known(path: Path, manifest: Mapping[str, Any], used: bool) -> Listed:
    """A run whose manifest can be read. Raises KeyError and the like where the manifest is not what it should be."""
    benchmark = _text(manifest["benchmark"])
    scores, told, damage = None, [], ""
    try:
        scores = scores_in(path)
        told = [] if scores is None else headlines(benchmark, scores)
    except (OSError, RunFolderError) as error:
        damage = _said(error)
    left = _left(path, manifest, scores, settled=not damage and not used)
    if used:
        done = left.total - left.missing - left.errors
        state, detail = State.IN_USE, f"{done} of {left.total} answers" if left.total else ""
    elif damage or left.damage:
        more = f" (and {len(left.damage) - 1} more)" if len(left.damage) > 1 else ""
        state, detail = State.DAMAGED, (damage or left.damage[0] + more).replace(f"{path}{os.sep}", "")
    elif left.missing:
        of = f" of {left.total}" if left.total else ""
        state, detail = State.RESUMABLE, f"{left.missing}{of} {left.what} missing"
    elif left.what == "interrupted":
        state, detail = State.RESUMABLE, "interrupted"
    elif left.errors:
        state, detail = State.FAILED, f"{left.errors} errors"
    elif scores is None:
        state, detail = State.UNSCORED, ""
    else:
        state, detail = State.COMPLETE, ""
    models = _models(manifest, scores)
    return Listed(path, benchmark, models, _data(manifest), state, detail, tuple(told), _launched(manifest))


def scores_in(path: Path) -> dict[str, Any] | None:
    """scores.json; None if there is none. Raises RunFolderError: it is damaged."""
    try:
        scores = json.loads((path / "scores.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"scores.json is damaged ({error}); give the run's command again to score it") from None
    if not isinstance(scores, dict):
        raise RunFolderError("scores.json is damaged (no JSON object); give the run's command again to score it")
    return scores


def _left(path: Path, manifest: Mapping[str, Any], scores: Mapping[str, Any] | None, settled: bool) -> Left:
    """What is missing. Where a launch ended and its scores are of what is there they say so, and nothing is counted."""
    launch = (manifest.get("launches") or [{}])[-1]
    ended = "ended" in launch
    if manifest["benchmark"] in FIELD:
        if settled and ended and scores is not None and scored_last(path):
            return left_told(manifest["benchmark"], scores)
        return _counted(path, manifest)
    if not ended:
        return Left(what="interrupted")
    if manifest["benchmark"] == "lmms":
        missing = launch.get("missing", 0)
        return Left(missing=missing if isinstance(missing, int) else len(missing))
    errors = sum(len(model.get("errors", ())) for model in manifest.get("models", {}).values())
    if scores is not None and manifest["benchmark"] == "linkage":
        errors += sum(model["counts"]["errors"] for model in scores["models"].values())
    return Left(errors=errors)


def scored_last(path: Path) -> bool:
    """Whether the scores are younger than all that they are of."""
    written = [p.stat().st_mtime_ns for p in (path / "questions.jsonl", *RunFolder(path).answer_files) if p.exists()]
    return (path / "scores.json").stat().st_mtime_ns >= max(written, default=0)


def left_told(benchmark: str, scores: Mapping[str, Any]) -> Left:
    """What the scores say of missing answers; an error stands in the place of some."""
    if benchmark == "cvbench":
        errors = sum(scores["errors"].values())
        return Left(missing=sum(scores["missing"].values()) - errors, errors=errors)
    protocol = lead(scores, "protocol")
    rows = [
        r
        for r in scores["rows"]
        if r["protocol"] == protocol
        and r["split"] not in ("pooled", "mean")
        and not r["condition"].startswith("floor:")
    ]
    errors = sum(r["errors"] for r in rows)
    return Left(missing=sum(r["missing"] for r in rows) - errors, errors=errors)


def _counted(path: Path, manifest: Mapping[str, Any]) -> Left:
    """The answers that the questions wait for, counted."""
    left = Left()
    wanted = {key for _, row in questions_of(path, manifest, left.damage) for key in row["keys"].values()}
    answers = answers_of(path, left.damage)
    left.total = len(wanted)
    left.missing = sum(key not in answers for key in wanted)
    left.errors = sum(key in answers and answers[key].error is not None for key in wanted)
    return left


def _models(manifest: Mapping[str, Any], scores: Mapping[str, Any] | None) -> tuple[str, ...]:
    if "model" in manifest:
        return (_text(manifest["model"]["ckpt"]),)
    named = [_text(name) for name in manifest.get("models", {})]
    if not named and scores is not None and manifest["benchmark"] == "failure-signs":
        named = [_text(row["model"]) for row in scores["readings"]]
    return tuple(dict.fromkeys(named))


def _data(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Each set of questions or images: its version, else its name; a harness's tasks."""
    sets: Sequence[Mapping[str, Any]] = manifest.get("data", ())
    found = [_text(one.get("data_version") or one.get("name")) for one in sets]
    limit = [f"limit {manifest['limit']}"] if manifest.get("limit") is not None else []
    if any("limit" in one for one in found):
        limit = []
    return (*filter(None, found), *map(_text, manifest.get("tasks", ())), *limit)


def _launched(manifest: Mapping[str, Any]) -> datetime | None:
    try:
        return datetime.strptime(manifest["launches"][-1]["started"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _said(error: Exception) -> str:
    if isinstance(error, (OSError, RunFolderError)):
        return str(error)
    return f"run.json or scores.json is damaged or of another version ({error!r})"
