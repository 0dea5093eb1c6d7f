"""What the analyses' commands share: models looked into one after another, image group by image group, never lost."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from agevlm.errors import AgeVlmError, DataError, NotSupported, RunFolderError
from agevlm.terminal import stoppable
from agevlm.vlm.batching import OUT_OF_MEMORY
from agevlm.vlm.choice import ModelChoice
from agevlm.vlm.contract import Fingerprint, Reply, Vlm
from analysis.parts import Parts
from benchmarks.run import GIVE_UP, PREFETCH, RunStopped, prefetch
from benchmarks.run_folder import SCHEMA, RunFolder, environment, now
from benchmarks.settings import chosen_folder

if TYPE_CHECKING:
    import pyarrow as pa

Item = TypeVar("Item")
Made = TypeVar("Made")
Row = Mapping[str, Any]
FLUSH_SECONDS = 2.0
"""Groups that are done are on disk at the latest with the next one after so long."""


@dataclass(frozen=True)
class AnalysisSettings:
    """The options that every analysis has."""

    models: tuple[ModelChoice, ...]
    out: Path | None
    fresh: bool
    limit: int | None
    seed: int
    draws: int
    json_out: str | None

    def folder(self, analysis: str, data: str) -> RunFolder:
        """The run's folder."""
        names = [analysis, *(model.slug for model in self.models), data]
        return chosen_folder(self.out, names, self.models[0].dtype, self.limit)


@dataclass(frozen=True)
class Work(Generic[Item, Made]):
    """What an analysis does with each image group."""

    items: Sequence[Item]
    key: Callable[[Item], str]
    """Says which group it is, by content, and how it is asked: a group whose key is there is not asked again."""
    load: Callable[[Item], Made]
    """Opens the image and what belongs to it, in a thread of its own; raises DataError where it cannot be used."""
    look: Callable[[Vlm, Item, Made], Sequence[Row]]
    """Asks, probes, and gives the group's rows, without their column `group`."""
    schema: pa.Schema
    """Of the rows, with the column `group`."""
    what: str = "images"
    """What groups are called when progress is told."""
    name: str = ""
    """Tells the records of one kind of work on a model from another's in the same folder."""
    again: Callable[[Parts], set[str]] = lambda _: set()
    """Of the groups that are recorded, those to look at again since something of them failed. A group may so have rows
    of several launches; `rows` gives them all, in order."""


@dataclass
class Done:
    """What one model gave."""

    model: ModelChoice
    fingerprint: Fingerprint
    parts: Parts
    keys: frozenset[str]
    """The keys of this command's groups: the folder may hold others."""
    described: Mapping[str, object]
    errors: list[str]
    """Groups that could not be looked at, each with its reason; asked again by the next launch."""

    @property
    def title(self) -> str:
        return self.model.name

    def rows(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of this command's groups."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = None if columns is None else list(dict.fromkeys([*columns, "group"]))
        table = self.parts.read(wanted)
        return table.filter(pc.is_in(table["group"], value_set=pa.array(sorted(self.keys), pa.string())))


class Analysis:
    """One launch of an analysis in its run folder. Use as a context: the folder is owned within it."""

    def __init__(self, name: str, settings: AnalysisSettings, folder: RunFolder, notes: Console) -> None:
        self.name, self.settings, self.folder, self.notes = name, settings, folder, notes
        self._left_out: dict[str, list[str]] = {}

    @contextlib.contextmanager
    def open(self, data: Sequence[Mapping[str, Any]], extra: Mapping[str, Any]) -> Iterator[None]:
        """Own the folder and write its manifest.

        Args:
            data: what the manifest says of each set of images or questions.
            extra: what the analysis has to say besides: every choice that a reader must know.

        Raises:
            NotSupported: a model that cannot be looked into, before anything is done.
            CheckpointError: a model that is not there or not whole, likewise.
            RunFolderError: see `RunFolder.own`; or the folder holds another analysis.
        """
        refuse_closed(self.settings.models)
        for model in self.settings.models:
            # A name with a slip in it ends the command here, not after the models before it were looked into.
            model.fingerprint()
        folder = self.folder
        folder.own()
        try:
            if self.settings.fresh and (aside := folder.set_aside()):
                self.notes.print(f"earlier run moved to {aside}")
            old = folder.manifest()
            if old and old.get("benchmark") != self.name:
                raise RunFolderError(
                    f"run folder {folder.path}: holds {old.get('benchmark')!r}, not {self.name!r}; give another --out"
                )
            manifest = {
                "schema": SCHEMA,
                "benchmark": self.name,
                "created": old.get("created", now()),
                "data": list(data),
                "limit": self.settings.limit,
                "seed": self.settings.seed,
                "scoring": {"seed": self.settings.seed, "draws": self.settings.draws},
                **extra,
                "models": old.get("models", {}),
                **environment(),
                "launches": [*old.get("launches", []), {"started": now()}],
            }
            folder.write_json("run.json", manifest)
            with stoppable(), self._told():
                yield
            manifest = folder.manifest()
            manifest["launches"][-1]["ended"] = now()
            folder.write_json("run.json", manifest)
        finally:
            folder.release()

    def ask(self, model: ModelChoice, work: Work[Any, Any]) -> Done:
        """Look into one model; groups that are recorded are not looked at again, and where none is left it is not
        even loaded.

        Raises:
            RunStopped: it failed with the same error on several groups in a row.
        """
        fingerprint = model.fingerprint()
        name = "-".join(filter(None, (re.sub(r"[^\w.@]+", "_", model.slug), fingerprint.digest[:12], work.name)))
        parts = Parts(self.folder.path, name, work.schema)
        keys = {work.key(item): item for item in work.items}
        known = parts.done() - work.again(parts)
        left = [item for key, item in keys.items() if key not in known]
        self.notes.print(
            f"{model.name}: {len(keys)} {work.what}; {len(keys) - len(left)} looked at before, {len(left)} to go "
            f"→ {self.folder.path}"
        )
        errors: list[str] = []
        described = self._described(model)
        if left:
            described, errors = self._look(model, fingerprint, work, left, parts)
        self._note(model, fingerprint, described, errors)
        return Done(model, fingerprint, parts, frozenset(keys), described, errors)

    def _look(
        self, model: ModelChoice, fingerprint: Fingerprint, work: Work[Any, Any], left: Sequence[Any], parts: Parts
    ) -> tuple[Mapping[str, object], list[str]]:
        errors: list[str] = []
        row_of_failures: list[str] = []
        with contextlib.ExitStack() as stack:
            with self.notes.status(f"loading {model.name}"):
                vlm = model.load()
            stack.callback(vlm.close)
            require_open(vlm, model)
            if vlm.fingerprint.digest != fingerprint.digest:
                changed = ", ".join(vlm.fingerprint.changed(fingerprint.parts))
                raise RunFolderError(f"the model's {changed} changed while it was loaded; give the command again")
            waiting: dict[str, Sequence[Row]] = {}
            written = time.monotonic()
            stream = stack.enter_context(contextlib.closing(prefetch(left, work.load, PREFETCH)))
            try:
                for item, made in self._shown(stream, len(left), work.what):
                    try:
                        if isinstance(made, Exception):
                            raise made
                        waiting[work.key(item)] = work.look(vlm, item, made)
                        row_of_failures.clear()
                    except NotSupported:
                        raise
                    except Exception as error:
                        if not isinstance(error, AgeVlmError) and not _of_the_model(error):
                            raise
                        errors.append(_line(error))
                        row_of_failures.append(_line(error))
                        if not isinstance(made, Exception) and row_of_failures[-GIVE_UP:] == [_line(error)] * GIVE_UP:
                            raise RunStopped(
                                f"{model.name} failed on {GIVE_UP} images in a row: {_line(error)}. What was recorded "
                                "is kept, and the same command goes on from there"
                            ) from error
                    if time.monotonic() - written > FLUSH_SECONDS and waiting:
                        parts.append(waiting)
                        waiting, written = {}, time.monotonic()
            finally:
                if waiting:
                    parts.append(waiting)
            return dict(vlm.describe()), errors

    def _shown(self, stream: Iterator[Any], total: int, what: str) -> Iterator[Any]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.notes) as bar:
            yield from bar.track(stream, total=total, description=what)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            self.notes.print(
                f"interrupted: what was looked at is safe in {self.folder.path}; the same command goes on from there"
            )
            raise

    def _described(self, model: ModelChoice) -> Mapping[str, object]:
        described: Mapping[str, object] = self.folder.manifest()["models"].get(model.name, {}).get("session", {})
        return described

    def _note(
        self, model: ModelChoice, fingerprint: Fingerprint, described: Mapping[str, object], errors: Sequence[str]
    ) -> None:
        for line in errors[:3]:
            self.notes.print(f"left out: {line}", style="red")
        if len(errors) > 3:
            self.notes.print(f"left out: {len(errors)} images in all; run.json holds each one's reason", style="red")
        # An analysis may ask a model for several things, one after another; what one left out may be left out again.
        known = self._left_out.setdefault(model.name, [])
        known += [line for line in errors if line not in known]
        manifest = self.folder.manifest()
        manifest["models"][model.name] = {
            "fingerprint": fingerprint.digest,
            "parts": dict(fingerprint.parts),
            "session": dict(described),
            "errors": list(known),
        }
        self.folder.write_json("run.json", manifest)


def refuse_closed(models: Sequence[ModelChoice]) -> None:
    """Refuse models that run elsewhere, before anything is fetched or opened, and models named twice.

    Raises:
        NotSupported: one is served, or runs in a wrapper.
        DataError: one is named twice.
    """
    for model in models:
        if model.adapter is not None:
            raise NotSupported(
                f"--ckpt {model.name}: models behind {model.adapter!r} give answers (some with log-probabilities), but "
                "neither attention nor hidden states; `pope` and `cvbench` can ask them, to look inside give a "
                "checkpoint that runs here: a folder, a hub id, or scenes/NAME"
            )
    names = [model.name for model in models]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"--ckpt {twice[0]} is given twice; name each model once")


def require_open(vlm: Vlm, model: ModelChoice) -> None:
    """Raise NotSupported unless the model can be looked into."""
    if "probe" not in vlm.capabilities:
        able = ", ".join(sorted(vlm.capabilities))
        raise NotSupported(
            f"--ckpt {model.name}: where the visual tokens of this type of model lie in the image is not known, so "
            f"that it cannot be looked into (it offers {able}); docs/models.md lists the types that can"
        )


def require_room(replies: Iterable[Reply]) -> None:
    """Raise MemoryError where a question was not answered for want of memory: the next launch asks its group again.

    What a model cannot answer at all (logits that are no numbers) is recorded: it would be the same again.
    """
    for reply in replies:
        if reply.error is not None and reply.error.startswith(OUT_OF_MEMORY):
            raise MemoryError(reply.error)


def _of_the_model(error: Exception) -> bool:
    """Whether an exception is one image's bad luck (memory, a kernel), and not a mistake of the program."""
    return isinstance(error, (MemoryError, RuntimeError))


def _line(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return text if isinstance(error, AgeVlmError) else f"{type(error).__name__}: {text}"
