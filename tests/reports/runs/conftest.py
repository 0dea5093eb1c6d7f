"""Run folders made by the real commands on stubs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from agevlm.vlm.choice import ModelChoice
from tests.benchmarks.cvbench.stub import CvStub, make_cv_data
from tests.benchmarks.runs.launch import OPTIONS, command_here
from tests.benchmarks.runs.stub import StubVlm, make_data

Copy = Callable[[str], Path]


def ask(benchmark: str, stub: StubVlm, data, out: Path, *options: str) -> int:
    with (
        patch.object(ModelChoice, "fingerprint", lambda self: stub.fingerprint),
        patch.object(ModelChoice, "folder", lambda self: Path("nowhere")),
        patch.object(ModelChoice, "load", lambda self: stub),
    ):
        done = command_here(benchmark, "--ckpt", "stub", *data.options, "--out", str(out), *OPTIONS, *options)
    assert done.returncode in (0, 3), done.stderr
    return done.returncode


def of_some_pictures(picture: str | None, prompt: str) -> None:
    """Trouble with about a third of the pictures, each in words of its own."""
    if picture is not None and int(picture, 16) % 3 == 0:
        raise RuntimeError(f"no luck \x1b[31m[bold]here {picture}")


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """pope, cvbench and broken (some answers are errors)."""
    folder = tmp_path_factory.mktemp("made")
    data = make_data(folder / "pope-data", 12)
    assert ask("pope", StubVlm(), data, folder / "pope", "--control", "blind") == 0
    assert ask("pope", StubVlm(trouble=of_some_pictures), data, folder / "broken") == 3
    assert ask("cvbench", CvStub(), make_cv_data(folder / "cv-data", 12), folder / "cvbench", "--control", "blind") == 0
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Copy:
    """Copies one of them into a folder of this test's own, to be changed."""

    def copied(name: str) -> Path:
        return Path(shutil.copytree(made / name, tmp_path / "runs" / name))

    return copied
