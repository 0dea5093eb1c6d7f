"""The questions of a POPE or CV-Bench run, each checked before anything is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cvbench.questions import Question as CvQuestion
from benchmarks.pope.types import Question as PopeQuestion
from reports.runs.files import json_lines


def questions_of(folder: Path, manifest: Mapping[str, Any], remarks: list[str]) -> list[tuple[int, dict[str, Any]]]:
    """The rows of questions.jsonl that can be joined with answers and scored, with their numbers.

    What cannot is named in `remarks` and left out.

    Raises:
        RunFolderError: the file cannot be read.
    """
    path = folder / "questions.jsonl"
    return [(n, row) for n, row in json_lines(path, remarks) if _fits(row, manifest, f"{path}:{n}", remarks)]


def _fits(row: Mapping[str, Any], manifest: Mapping[str, Any], where: str, remarks: list[str]) -> bool:
    try:
        fields = row["question"]
        if manifest["benchmark"] == "pope":
            PopeQuestion(**fields, where="")
            right = isinstance(fields["label"], bool)
            if not (isinstance(row["set"], int) and 0 <= row["set"] < len(manifest["data"])):
                raise IndexError(f"set {row['set']!r}")
        else:
            CvQuestion(**fields, where="")
            options = fields["options"]
            right = isinstance(fields["gold"], int) and 0 <= fields["gold"] < len(options) and all(map(_text, options))
        if not right or not all(_text(fields[name]) for name in fields if name not in ("label", "gold", "options")):
            raise TypeError("a field is of another type")
        if unknown := set(row["keys"]) - set(manifest["conditions"]):
            raise KeyError(*sorted(unknown))
        if not all(map(_text, row["keys"].values())):
            raise TypeError("a key is no text")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        remarks.append(f"{where}: not a question of {manifest['benchmark']} ({error!r}); left out")
        return False
    return True


def _text(value: object) -> bool:
    return isinstance(value, str)
