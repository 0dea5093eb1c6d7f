"""Files of answers that somebody else's program wrote: JSON lines, one object each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agevlm.errors import DataError


def is_run_folder(path: Path) -> bool:
    """Whether a path is one of our run folders, damaged ones included."""
    return path.is_dir() and any((path / name).exists() for name in ("run.json", "answers-00000.jsonl"))


def answer_files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files, and those in the folders, in order. Raises DataError where there is none."""
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix in (".jsonl", ".json") and p.is_file())
            if not inside:
                raise DataError(f"answers {path}: no .jsonl files in this folder")
            yield from inside
        elif path.is_file():
            yield path
        else:
            raise DataError(f"answers {path}: no such file")


def answer_rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects of a file, each with file and line. Raises DataError for what is no object or no UTF-8 text."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise DataError(
                        f"{where}: not valid JSON ({error}); answer files hold one JSON object a line"
                    ) from None
                if not isinstance(row, dict):
                    raise DataError(f"{where}: not a JSON object")
                yield row, where
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
