"""Launching the real command with the stub as a process of its own."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest.mock import patch

import pytest

from agevlm.cli import eval_main
from agevlm.vlm.choice import ModelChoice
from benchmarks.records import AnswerRecord
from benchmarks.run_folder import RunFolder
from tests.benchmarks.runs.stub import StubVlm

ROOT = Path(__file__).resolve().parents[3]
OPTIONS = ["--draws", "100"]


def environment(**settings: object) -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in settings.items()}}


def start(data, out: Path, log: Path, *options: str, **settings: object) -> subprocess.Popen[str]:
    """`agevlm-eval pope` with the stub, running."""
    command = [sys.executable, "-m", "tests.benchmarks.runs.child", "pope", "--ckpt", "stub", *data.options]
    return subprocess.Popen(
        [*command, "--out", str(out), *OPTIONS, *options],
        env=environment(STUB_LOG=log, **settings),
        cwd=out.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, " ".join(err.split()))


def pope(data, out: Path, log: Path, *options: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """The same, to its end; white space in its messages is squeezed."""
    return finish(start(data, out, log, *options, **settings))


def pope_here(data, out: Path, log: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The same in this process, which is much faster."""
    with (
        patch.object(ModelChoice, "fingerprint", lambda self: StubVlm.fingerprint),
        patch.object(ModelChoice, "folder", lambda self: Path("nowhere")),
        patch.object(ModelChoice, "load", lambda self: StubVlm(log)),
    ):
        return command_here("pope", "--ckpt", "stub", *data.options, "--out", str(out), *OPTIONS, *options)


def command_here(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`agevlm-eval` in this process."""
    said, remarks, code = io.StringIO(), io.StringIO(), 0
    with (
        patch.object(sys, "argv", ["agevlm-eval", *arguments]),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(remarks),
    ):
        try:
            eval_main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return subprocess.CompletedProcess(arguments, code, said.getvalue(), " ".join(remarks.getvalue().split()))


def asked(log: Path) -> list[tuple[int, str | None, str]]:
    """(process, picture, prompt) of every ask, in order."""
    return [tuple(json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []


def answers(out: Path) -> dict[str, AnswerRecord]:
    return RunFolder(out).answers()


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of so many bytes mounted on the folder; the test is skipped where that cannot be done."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
