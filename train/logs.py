"""Logs of a run folder: a JSON object a line, each with the step that it is of."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agevlm.appearing import file_appears
from agevlm.errors import RunFolderError


def cut_log(path: Path, step: int) -> None:
    """Keep a log's rows up to a step; a row that a crash left unfinished goes too.

    Raises:
        RunFolderError: the log cannot be read or written.
    """
    if not path.exists():
        return
    kept = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                if line.endswith("\n") and json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                continue
        with file_appears(path) as unfinished:
            unfinished.write_text("".join(kept), encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path}: cannot go on with this log: {error}") from None


def append_log(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Put rows at a log's end and on the disk. Raises OSError that names it."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    try:
        with path.open("a", encoding="utf-8") as log:
            log.write(text)
            log.flush()
            os.fsync(log.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
