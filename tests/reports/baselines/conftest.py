"""Measured runs whose questions pass for published ones: real runs of the real command on stubs, renamed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agevlm.cli import eval_main
from tests.calling import caller
from tests.reports.runs.conftest import copy, made

__all__ = ["copy", "made"]

Renamed = Callable[..., Path]


@pytest.fixture
def renamed(copy) -> Renamed:
    """A run folder whose data version is another; `change` may change a row of its scores."""

    def make(name: str, version: str, change: Callable[[dict[str, Any]], None] = lambda row: None) -> Path:
        folder: Path = copy(name)
        for file in ("run.json", "scores.json"):
            held = json.loads((folder / file).read_text())
            for row in held.get("rows", ()):
                row["data_version"] = version
                change(row)
            for one in held.get("data", ()):
                one["data_version"] = version
            (folder / file).write_text(json.dumps(held))
        return folder

    return make


@pytest.fixture
def call(monkeypatch, capsys):
    """Run `agevlm-eval` with these arguments: exit code, stdout, stderr."""
    return caller(eval_main, "agevlm-eval", monkeypatch, capsys)
