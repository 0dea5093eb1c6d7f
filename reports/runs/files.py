"""The files of a run folder, read so that one bad line takes nothing else away. Nothing here writes."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agevlm.errors import RunFolderError
from benchmarks.records import AnswerRecord
from benchmarks.run_folder import SCHEMA, RunFolder

TYPES: dict[str, tuple[type | tuple[type, ...], type]] = {
    "model": (dict, object),
    "models": (dict, dict),
    "data": (list, dict),
    "launches": (list, dict),
    "conditions": (list, str),
    "prompt": ((dict, str), object),
    "decoding": (dict, object),
    "scoring": (dict, object),
    "choices": (dict, object),
}
"""Fields of manifests -> what they are, and what is in them."""
PROMPT_IS_TEXT = ("similarity", "grounding")
"""Kinds of runs whose manifests may have the prompt as a text."""


def manifest_of(folder: Path) -> dict[str, Any]:
    """A run's manifest.

    Raises:
        RunFolderError: there is none, it is damaged, or a newer version of this program wrote it.
    """
    try:
        found = RunFolder(folder).manifest()
    except OSError as error:
        raise RunFolderError(f"{folder / 'run.json'}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise RunFolderError(f"{folder / 'run.json'}: damaged (nested too deeply)") from None
    if not found:
        raise RunFolderError(f"{folder}: not a run folder (it has no run.json)")
    if is_newer(found):
        raise RunFolderError(
            f"{folder}: written by a newer version of agevlm (schema {printable(str(found['schema']))}; this one reads "
            f"up to {SCHEMA}): update agevlm"
        )
    if "benchmark" in found and (wrong := _of_another_type(found)):
        raise RunFolderError(f"{folder / 'run.json'}: damaged ({', '.join(wrong)} of another type than a run writes)")
    return found


def _of_another_type(manifest: dict[str, Any]) -> list[str]:
    """The fields whose type is not what every kind of run writes."""

    def right(value: object, of: type | tuple[type, ...], parts: type) -> bool:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return isinstance(value, of) and all(isinstance(one, parts) for one in inner)

    kinds = TYPES if manifest["benchmark"] in PROMPT_IS_TEXT else {**TYPES, "prompt": (dict, str)}
    return [name for name, held in kinds.items() if name in manifest and not right(manifest[name], *held)]


def is_newer(manifest: dict[str, Any]) -> bool:
    """Whether a later version wrote it, whose files may mean something else."""
    schema = manifest.get("schema", SCHEMA)
    return not isinstance(schema, int) or schema > SCHEMA


def json_lines(path: Path, remarks: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The whole lines of a file with their numbers; a bad one is named in `remarks` and left out.

    A last line without its end is a write that was interrupted, or goes on: it is left out without a word.

    Raises:
        RunFolderError: the file cannot be read.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("no JSON object")
            except (ValueError, RecursionError) as error:
                remarks.append(f"{path}:{number}: damaged ({error}); left out")
                continue
            yield number, row


def answers_of(folder: Path, remarks: list[str]) -> dict[str, AnswerRecord]:
    """All answers by key, as scoring takes them: see `benchmarks.records.load_answers`. Damage goes to `remarks`."""
    answers: dict[str, AnswerRecord] = {}
    for path in RunFolder(folder).answer_files:
        for record in _records(path, remarks):
            if record.error is None or answers.get(record.key, record).error is not None:
                answers[record.key] = record
    return answers


def _records(path: Path, remarks: list[str]) -> list[AnswerRecord]:
    """The records of a file but those of a torn last commit, whose questions are asked again."""
    found: list[AnswerRecord] = []
    pending: list[AnswerRecord] = []
    for number, row in json_lines(path, remarks):
        try:
            place, total = row.pop("commit")
            record = AnswerRecord(**row)
            if not isinstance(record.key, str) or not isinstance(record.text if record.error is None else "", str):
                raise TypeError("key or text is no text")
            if not all(isinstance(number, (int, float)) for number in record.logprobs.values()):
                raise TypeError("a log-probability is no number")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            remarks.append(f"{path}:{number}: not an answer record ({error}); left out")
            continue
        if place == 0:
            found += pending  # a commit that lost a line to damage: the others are whole
            pending = []
        pending.append(record)
        if place == total - 1:
            found += pending
            pending = []
    return found


def in_use(folder: Path) -> bool:
    """Whether a command owns the folder."""
    try:
        fd = os.open(folder / "lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        # Shared, so that two lists do not see each other; held for no longer than the question takes.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # no locks here: then no command could have taken it
    finally:
        os.close(fd)
    return False


def printable(text: str) -> str:
    """A text that does nothing to a terminal: control, format and other unprintable characters as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)
