"""Answer records: what one model said to one prompt about one image, kept so that nothing is ever lost.

Records are appended to `answers-*.jsonl`, one writer each, in commits: all records of one image group are written with
one call, flushed and fsynced. A line carries its place in its commit (`"commit": [i, n]`), so that a reader takes a
commit whole or not at all, wherever a kill cut the file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agevlm.errors import RunFolderError

REPEATED = ("image", "shown", "prompt", "text", "stop")
"""Fields that many records share: kept once in memory, or a large file's records would be mostly copies."""


def answer_key(image: str | None, prompt: str, decoding: Mapping[str, Any], fingerprint: str) -> str:
    """Identity of an answer by content: what was shown, what was asked, how it was decoded, by which model.

    Args:
        image: content identity of the image as shown (SHA-256 of its file, or a control's recipe); None for blind.
        prompt: the user's text.
        decoding: settings that can change the answer.
        fingerprint: the model's digest.
    """
    content = json.dumps([image, prompt, dict(decoding), fingerprint], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """One answer, or the error that stands in its place."""

    key: str
    image: str | None
    """Name of the image file that was shown (before a control's change); None for blind."""
    shown: str | None
    """Content identity of what was shown."""
    prompt: str
    text: str | None
    """The raw answer; None exactly if `error` is set."""
    stop: str
    logprobs: Mapping[str, float] = field(default_factory=dict)
    tokens: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What scoring needs of a record; `text` is None where the model failed (an error record)."""

    text: str | None
    logprobs: Mapping[str, float] = field(default_factory=dict)


def to_lines(records: Sequence[AnswerRecord]) -> str:
    """One commit as JSON lines. Plain ASCII, so that no answer can break a line."""
    total = len(records)
    return "".join(json.dumps({**asdict(r), "commit": [i, total]}) + "\n" for i, r in enumerate(records))


def read_commits(path: Path) -> Iterator[tuple[list[AnswerRecord], int]]:
    """The whole commits of an answers file, each with its length in bytes.

    A torn commit at the end (a killed writer) is left out.

    Raises:
        RunFolderError: damage anywhere else, with file and line, and which lines to remove.
    """
    with path.open("rb") as file:
        pending: list[AnswerRecord] = []
        size, begin, number = 0, 1, 0
        damage: tuple[int, str] | None = None
        for number, line in enumerate(file, start=1):
            try:
                record, place, total = _parse(line)
                if damage is None and place != len(pending):
                    damage = number, f"record {place} of its commit where {len(pending)} was expected"
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                damage = damage or (number, str(error))
                continue
            if damage is not None:
                if place == 0:
                    raise _damaged(path, damage, begin, number - 1)
                continue
            pending.append(record)
            size += len(line)
            if len(pending) == total:
                yield pending, size
                pending, size, begin = [], 0, number + 1
        if damage is not None and damage[0] < number:
            raise _damaged(path, damage, begin, number)


def _parse(line: bytes) -> tuple[AnswerRecord, int, int]:
    """A line's record, its place in its commit, and the commit's length."""
    if not line.endswith(b"\n"):
        raise ValueError("no end of line")
    row = json.loads(line)
    place, total = row.pop("commit")
    for name in REPEATED:
        if isinstance(row[name], str):
            row[name] = sys.intern(row[name])
    return AnswerRecord(**row), place, total


def _damaged(path: Path, damage: tuple[int, str], first: int, last: int) -> RunFolderError:
    return RunFolderError(
        f"{path}:{damage[0]}: not a whole answer record ({damage[1]}); more follows it, so this is no interrupted "
        f"write. Remove lines {first} to {last} (their questions are asked again), or start over with --fresh"
    )


class AnswersInUse(RunFolderError):
    """Another process is writing the answers file."""


class AnswerWriter:
    """The one writer of an answers file.

    Opening takes an exclusive lock on the file and cuts off a torn commit at its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be written: {error.strerror}; give another --out") from None
        try:
            if not lock(self._fd):
                raise AnswersInUse(f"{path}: another process is writing it; wait for it or give another --out")
            self._size = sum(size for _, size in read_commits(path))
            os.ftruncate(self._fd, self._size)
        except BaseException:
            os.close(self._fd)
            raise

    def commit(self, records: Sequence[AnswerRecord]) -> None:
        """Append records so that either all of them or none survive.

        Raises:
            RunFolderError: the disk is full or failing; what was committed before is intact.
        """
        data = to_lines(records).encode("ascii")
        try:
            # What an earlier commit left when even cutting it off had failed.
            os.ftruncate(self._fd, self._size)
            written = 0
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], self._size + written)
            os.fsync(self._fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise RunFolderError(
                f"{self.path}: {'the disk is full' if full else error.strerror}; all earlier answers are safe. "
                "Make room and give the same command again"
            ) from error
        self._size += len(data)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._fd)


def lock(fd: int) -> bool:
    """Take an exclusive advisory lock without waiting; False if another process holds it.

    Raises:
        RunFolderError: the file system has no locks.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN):
            return False
        raise RunFolderError(
            f"files here cannot be locked against a second command: {error.strerror}; give another --out"
        ) from error
    return True


def load_answers(paths: Iterable[Path]) -> dict[str, AnswerRecord]:
    """All committed answers by key. An answer outweighs an error; of two answers the later in file order stands."""
    answers: dict[str, AnswerRecord] = {}
    for path in sorted(paths):
        for records, _ in read_commits(path):
            for record in records:
                if record.error is None or answers.get(record.key, record).error is not None:
                    answers[record.key] = record
    return answers
