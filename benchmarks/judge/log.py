"""judge.jsonl: every call to a judge with its prompt, reply, usage, latency and verdict, synced one by one.

Verdicts are found by content, so that no call is made twice, and scores can be made again without judge or network.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from agevlm.errors import RunFolderError
from benchmarks.judge.cases import Message
from benchmarks.records import lock

FILE = "judge.jsonl"


@dataclass(frozen=True)
class Call:
    """One call to a judge, or the error in its place."""

    key: str
    """Of the case, the judge and the prompt's version: see `Case.key`."""
    judge: str
    """As the user named it."""
    fingerprint: str
    prompt_version: str
    attempt: int
    """1; 2 where the first reply was no verdict."""
    messages: Sequence[Message]
    reply: str | None
    """None exactly if `error` is set."""
    verdict: str | None
    """A letter, "none", or None where the reply is no verdict."""
    finish: str = ""
    usage: Mapping[str, int] = field(default_factory=dict)
    """Tokens: prompt, completion, cached."""
    latency: float = 0.0
    """Seconds; for a judge that runs here, of its whole batch."""
    error: str | None = None


def read_calls(path: Path) -> Iterator[tuple[Call, int]]:
    """The whole lines of a log, each with its length in bytes; a torn last line (a killed writer) is left out.

    Raises:
        RunFolderError: a line that is no call, with file and line.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield Call(**json.loads(line)), len(line)
                except (ValueError, TypeError) as error:
                    raise RunFolderError(
                        f"{path}:{number}: not a judge's call ({error}); remove the line, its answer is judged again"
                    ) from None
    except FileNotFoundError:
        return


class JudgeLog:
    """The one writer of a log, and what is in it. The file is locked while this is open.

    Raises:
        RunFolderError: it cannot be written, is damaged, or another command is writing it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be written: {error.strerror}; give another --judge-log") from None
        try:
            if not lock(self._fd):
                raise RunFolderError(f"{path}: another command is judging; wait for it")
            self.calls: dict[str, list[Call]] = {}
            """Key -> calls that brought a reply, in their order."""
            self.count: dict[str, int] = {}
            """Judge's fingerprint -> calls that brought a reply."""
            self.named: dict[str, str] = {}
            """Judge as the user named it -> the fingerprint it had last."""
            self._size = 0
            for call, size in read_calls(path):
                self._size += size
                self._note(call)
            os.ftruncate(self._fd, self._size)
        except BaseException:
            os.close(self._fd)
            raise

    def append(self, call: Call) -> None:
        """Write a call so that it survives a kill. Raises RunFolderError: the disk is full or failing."""
        data = (json.dumps(asdict(call)) + "\n").encode("ascii")
        try:
            os.ftruncate(self._fd, self._size)  # what a failed write left
            written = 0
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], self._size + written)
            os.fsync(self._fd)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise RunFolderError(
                f"{self.path}: {'the disk is full' if full else error.strerror}; all earlier verdicts are safe. Make "
                "room and give the same command again"
            ) from error
        self._size += len(data)
        self._note(call)

    def _note(self, call: Call) -> None:
        self.named[call.judge] = call.fingerprint
        if call.error is None:
            self.calls.setdefault(call.key, []).append(call)
            self.count[call.fingerprint] = self.count.get(call.fingerprint, 0) + 1

    def close(self) -> None:
        """Release the lock."""
        os.close(self._fd)

    def __enter__(self) -> JudgeLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
