"""judge.jsonl: every call to a judge with its prompt, reply, usage, latency and verdict, synced one by one.

Verdicts are found by content, so that no call is made twice, and scores can be made again without judge or network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from agevlm.errors import RunFolderError
from benchmarks.append_only import AppendOnly
from benchmarks.judge.cases import Message

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
    model: str = ""
    """The name under which a served judge answered; a dated version, say."""
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

    The order of its lines means nothing: replies come as they come.

    Raises:
        RunFolderError: it cannot be written, is damaged, or another command is writing it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._calls: dict[str, dict[int, Call]] = {}
        """Key -> attempt -> the call that brought a reply."""
        self.count: dict[str, int] = {}
        """Judge's fingerprint -> calls that brought a reply."""
        self.failed: set[str] = set()
        """Keys of calls that ended in an error, whatever came of later ones."""
        self._judges: dict[tuple[str, str], None] = {}
        """Judges that replied, as users named them, with their fingerprints; the latest last."""
        self._file = AppendOnly(path, self._read, holds="verdicts", option="--judge-log")

    def _read(self, path: Path) -> int:
        size = 0
        for call, length in read_calls(path):
            size += length
            self._note(call)
        return size

    def replies(self, key: str) -> Sequence[Call]:
        """Calls about a case that brought a reply, by attempt."""
        calls = self._calls.get(key, {})
        return [calls[attempt] for attempt in sorted(calls)]

    def fingerprint_of(self, name: str) -> str | None:
        """The fingerprint that a judge of this name had last; None if the log has no call of it."""
        return next((one for known, one in reversed(self._judges) if known == name), None)

    def other_names(self, name: str, fingerprint: str) -> list[str]:
        """What else a judge of this fingerprint was called: the same name at other addresses."""
        return sorted(known for known, one in self._judges if one == fingerprint and known != name)

    def append(self, call: Call) -> None:
        """Write a call so that it survives a kill. Raises RunFolderError: the disk is full or failing."""
        self._file.append((json.dumps(asdict(call)) + "\n").encode("ascii"))
        self._note(call)

    def _note(self, call: Call) -> None:
        if call.error is not None:
            self.failed.add(call.key)
            return
        self.count[call.fingerprint] = self.count.get(call.fingerprint, 0) + 1
        self._calls.setdefault(call.key, {}).setdefault(call.attempt, call)
        judge = call.judge, call.fingerprint
        self._judges.pop(judge, None)
        self._judges[judge] = None

    def close(self) -> None:
        """Release the lock."""
        self._file.close()

    def __enter__(self) -> JudgeLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
