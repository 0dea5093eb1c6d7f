"""Files of an evaluation: rows of JSON, written whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from agevlm.appearing import file_appears

ANSWERS, LOOKS, CAUSAL, SCORES = "answers.jsonl", "looks.jsonl", "causal.jsonl", "scores.json"

Row = TypeVar("Row")


def write_whole(path: Path, text: str) -> None:
    """A file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_appears(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Dataclasses, one JSON object a line."""
    write_whole(path, "".join(json.dumps(plain(row)) + "\n" for row in rows))


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """What `write_rows` wrote."""
    return [kind(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def write_json(path: Path, value: Any) -> None:
    """Any of what `plain` takes."""
    write_whole(path, json.dumps(plain(value), indent=1) + "\n")


def plain(value: Any) -> Any:
    """For JSON: dataclasses as objects, floats rounded to what they say, null for what is no number."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
