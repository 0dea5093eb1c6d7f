"""The run folder: manifest, questions, answers and scores of one benchmark run, owned by one command at a time.

run.json            manifest: what was run on what, and every launch
questions.jsonl     each question with the keys of its answers, so that scores need nothing from outside
answers-*.jsonl     answer records, one writer each (see benchmarks.records)
scores.json         the scores, a pure function of the two files above
readings.jsonl      what each reading made of each answer, likewise (CV-Bench)
judge.json          the judge that reads the answers, if one does (see benchmarks.judge.options)
judge.jsonl         every call to a judge (see benchmarks.judge.log)
lock                held while a command owns the folder
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from agevlm.errors import RunFolderError
from benchmarks.append_only import lock
from benchmarks.records import AnswerRecord, AnswerWriter, load_answers

SCHEMA = 1
RESULTS = ("scores.json", "readings.jsonl", "verify.json", "judge.json", "judge.jsonl", "judge-audit.json")
OWN_FILES = ("run.json", "questions.jsonl", "answers-*.jsonl", "probes", *RESULTS)
PACKAGES = ("agevlm", "torch", "transformers", "tokenizers", "accelerate", "numpy", "pillow", "timm")


class RunFolder:
    """A run's files. Reading needs no ownership; writing does (`own`)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_fd: int | None = None

    @property
    def answer_files(self) -> list[Path]:
        return sorted(self.path.glob("answers-*.jsonl"))

    def own(self) -> None:
        """Take the folder for this command.

        Raises:
            RunFolderError: another command owns it, a process of an earlier launch still writes, it cannot be made,
                or it holds other things and no run.
        """
        self._refuse_foreign()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunFolderError(
                f"run folder {self.path}: cannot be used: {error.strerror}; give another --out"
            ) from None
        self._lock_fd = fd
        try:
            if not lock(fd):
                owner = os.pread(fd, 1000, 0).decode("utf-8", "replace").strip() or "another command"
                raise RunFolderError(f"run folder {self.path} is in use by {owner}; wait for it or give another --out")
            with contextlib.suppress(OSError):  # a courtesy to the next command; on a full disk it goes without
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()} since {now()}\n".encode(), 0)
            for path in self.answer_files:
                # A rank that outlived its launch holds its own file's lock; opening the file says so.
                AnswerWriter(path).close()
        except BaseException:
            self.release()
            raise

    def _refuse_foreign(self) -> None:
        """Raise RunFolderError if the folder holds something, but nothing of a run."""
        if not self.path.is_dir() or (self.path / "lock").exists() or any(any(self.path.glob(n)) for n in OWN_FILES):
            return
        if found := next(self.path.iterdir(), None):
            raise RunFolderError(
                f"run folder {self.path}: holds {found.name} and no run of ours; give a new or empty folder with --out"
            )

    def release(self) -> None:
        """Give the folder back."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def writer(self, rank: int) -> AnswerWriter:
        """The answers file of one rank, for appending."""
        return AnswerWriter(self.path / f"answers-{rank:05d}.jsonl")

    def answers(self) -> dict[str, AnswerRecord]:
        """All committed answers of all writers by key."""
        return load_answers(self.answer_files)

    def set_aside(self) -> Path | None:
        """Move an earlier run's files into a sub-folder, for a fresh start; where to, or None if there were none."""
        old = [p for name in OWN_FILES for p in sorted(self.path.glob(name))]
        if not old:
            return None
        number = 1
        while (target := self.path / f"earlier-{number}").exists():
            number += 1
        target.mkdir()
        for path in old:
            path.rename(target / path.name)
        return target

    def manifest(self) -> dict[str, Any]:
        """The manifest; empty if there is none yet."""
        path = self.path / "run.json"
        try:
            loaded = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise RunFolderError(f"{path}: damaged ({error}); remove it to go on, or start over with --fresh") from None
        if not isinstance(loaded, dict):
            raise RunFolderError(f"{path}: not a manifest; remove it to go on, or start over with --fresh")
        return loaded

    def scoring_settings(self) -> dict[str, int]:
        """Seed and draws that the run was scored with; empty if its manifest does not say."""
        found = self.manifest().get("scoring", {})
        return {k: v for k, v in found.items() if k in ("seed", "draws") and isinstance(v, int)}

    def last_scored(self, name: str) -> tuple[str, ...]:
        """What scores.json says of the `readings` or `protocols` it was made with; empty where it says nothing."""
        try:
            scores = json.loads((self.path / "scores.json").read_text(encoding="ascii"))
            return tuple(map(str, scores["settings"][name]))
        except (OSError, ValueError, KeyError, TypeError):
            return ()

    def questions(self) -> Iterator[dict[str, Any]]:
        """The rows of questions.jsonl, one at a time. Raises RunFolderError if this is no run folder."""
        path = self.path / "questions.jsonl"
        try:
            with path.open(encoding="utf-8") as file:
                for line in file:
                    yield json.loads(line)
        except FileNotFoundError:
            raise RunFolderError(f"{self.path}: not a run folder (it has no questions.jsonl)") from None
        except ValueError as error:
            raise RunFolderError(
                f"{path}: damaged ({error}); give the benchmark's command again to rewrite it"
            ) from None

    def write_json(self, name: str, content: Any) -> Path:
        """Write a JSON file so that a reader sees the old or the new content, never a part.

        Raises:
            RunFolderError: the disk is full or failing.
        """
        return self._write(name, [json.dumps(content, indent=1), "\n"])

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Write a JSON-lines file, likewise. Raises RunFolderError."""
        return self._write(name, (json.dumps(r) + "\n" for r in rows))

    def _write(self, name: str, texts: Iterable[str]) -> Path:
        """Write plain ASCII (JSON's escapes carry the rest, file names that are no UTF-8 and lone surrogates too)."""
        path = self.path / name
        # One name for all launches, so that what a killed one left is written over.
        temporary = path.with_name(f".{name}.part")
        try:
            with temporary.open("w", encoding="ascii") as file:
                file.writelines(texts)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise RunFolderError(f"{path}: {error.strerror}; the answers are safe, make room and try again") from error
        return path


def now() -> str:
    """The time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def command_line() -> str:
    """What the user gave, as a shell takes it."""
    return shlex.join(["agevlm-eval", *sys.argv[1:]])


def environment() -> dict[str, Any]:
    """Versions, hardware and the command line, for the manifest."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "command": command_line(),
        "packages": versions,
        "python": platform.python_version(),
        "hardware": {"machine": platform.machine(), "system": platform.platform(), "cpus": os.cpu_count()},
    }


def default_folder(parts: Sequence[str]) -> Path:
    """`runs/<parts joined>`, in characters that every file system takes."""
    name = "-".join(parts)
    return Path("runs") / "".join(c if c.isalnum() or c in "-_.@" else "_" for c in name).strip("._")
