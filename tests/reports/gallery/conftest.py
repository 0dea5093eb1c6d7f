"""Run folders made by the real commands: on stubs, and on a shipped checkpoint that looks at rendered scenes."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports.document import Gallery
from reports.gallery.making import Wanted, gallery_of
from reports.opened import open_runs
from tests.benchmarks.runs.launch import command_here
from tests.reports.runs.conftest import ask, copy, made

__all__ = ["ask", "copy", "made"]

CKPT = "scenes/age-vlm"


@pytest.fixture(scope="session")
def inside(tmp_path_factory) -> Path:
    """pope, grounding and linkage on the same few scenes."""
    folder = tmp_path_factory.mktemp("inside")
    # Pictures of the run's own are another test's subject, and cost more than all else.
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr("analysis.grounding.run._draw", lambda *_: [])
    monkeypatch.setattr("analysis.linkage.figures.draw", lambda *_: [])
    for command, *options in (
        ("pope", "--questions", "scenes:6"),
        ("grounding", "--regions", "scenes:6"),
        ("linkage", "--questions", "scenes:6", "--causal-images", "0"),
    ):
        done = command_here(command, "--ckpt", CKPT, *options, "--draws", "100", "--out", str(folder / command))
        assert done.returncode == 0, done.stderr
    monkeypatch.undo()
    return folder


def gallery(*folders: Path, **wanted) -> Gallery:
    runs, _ = open_runs(folders)
    found = gallery_of(runs, Wanted(**wanted))
    assert found is not None
    return found
