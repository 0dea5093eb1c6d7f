"""Answer records: what one model said to one prompt about one image, kept so that nothing is ever lost.

Records are appended to `answers-*.jsonl`, one writer each, in commits: all records of one image group are written with
one call, flushed and fsynced. A line carries its place in its commit (`"commit": [i, n]`), so that a reader takes a
commit whole or not at all, wherever a kill cut the file.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agevlm.errors import RunFolderError
from benchmarks.append_only import AppendOnly

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


class AnswerWriter:
    """The one writer of an answers file: see `AppendOnly`. Raises RunFolderError, InUse."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = AppendOnly(path, _committed, holds="answers", option="--out")

    def commit(self, records: Sequence[AnswerRecord]) -> None:
        """Append records so that either all of them or none survive.

        Raises:
            RunFolderError: the disk is full or failing; what was committed before is intact.
        """
        self._file.append(to_lines(records).encode("ascii"))

    def close(self) -> None:
        """Release the lock."""
        self._file.close()


def _committed(path: Path) -> int:
    """Length in bytes of a file's whole commits."""
    return sum(size for _, size in read_commits(path))


def load_answers(paths: Iterable[Path]) -> dict[str, AnswerRecord]:
    """All committed answers by key. An answer outweighs an error; of two answers the later in file order stands."""
    answers: dict[str, AnswerRecord] = {}
    for path in sorted(paths):
        for records, _ in read_commits(path):
            for record in records:
                if record.error is None or answers.get(record.key, record).error is not None:
                    answers[record.key] = record
    return answers
