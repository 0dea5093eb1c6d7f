"""Where answers to be scored lie: a run folder, or JSON lines that somebody else's program wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agevlm.errors import DataError
from benchmarks.run_folder import RunFolder


def given_answers(paths: Sequence[Path], questions: Sequence[str]) -> RunFolder | None:
    """The run folder that is to be scored again, or None where the answers are files that need their questions.

    Raises:
        DataError: no such file or folder; a run folder beside others or with questions; files without questions.
    """
    if missing := [str(p) for p in paths if not p.exists()]:
        raise DataError(f"answers {', '.join(missing)}: no such file or folder")
    if any(_is_run_folder(p) for p in paths):
        if len(paths) > 1 or questions:
            raise DataError("a run folder is scored by itself, and knows its questions: give it alone")
        return RunFolder(paths[0])
    if not questions:
        raise DataError("these answers carry no labels; give the questions they answer with --questions FILE|DIR")
    return None


def _is_run_folder(path: Path) -> bool:
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
