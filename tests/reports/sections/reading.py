"""Tables of sections read back as text, and numbers printed without the code that is tested."""

from __future__ import annotations

import json
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

from reports.document import Figure, Section, Table


def scores_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "scores.json").read_text())


def table(section: Section | None, id: str) -> Table:
    assert section is not None
    (found,) = [item for item in section.items if isinstance(item, Table) and item.id == id]
    return found


def ids(section: Section | None) -> list[str]:
    assert section is not None
    return [item.id for item in section.items if isinstance(item, (Table, Figure))]


def rows(of: Table) -> list[dict[str, str]]:
    """By column: a cell's text with its limits."""
    names = [column.name for column in of.columns]
    assert len(set(names)) == len(names)
    return [{name: str(cell) for name, cell in zip(names, row, strict=True)} for row in of.rows]


def digits(value: float | None, places: int = 1, *, scale: int = 100, sign: bool = False) -> str:
    """A number by exact decimal arithmetic of the double, rounded half to even."""
    if value is None:
        return "–"
    exact = Decimal(scale * value).quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN)
    if not exact:
        exact = abs(exact)
    return f"{exact:+}" if sign else f"{exact}"


def told(row: dict[str, Any], name: str, **how: Any) -> str:
    """A score of scores.json with its limits."""
    value, low, high = (digits(row[name + ending], **how) for ending in ("", "_low", "_high"))
    return value if row[f"{name}_low"] is None or row[name] is None else f"{value} [{low}, {high}]"
