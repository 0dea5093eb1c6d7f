"""The face of the house: instant help, errors in one line, rooms that are ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from agevlm.cli import EVAL_COMMANDS, TRAIN_COMMANDS, eval_group, train_group

LIGHT = """
import sys
from click.testing import CliRunner
from agevlm.cli import eval_group, train_group
for group, arguments in ((eval_group, ["--help"]), (train_group, ["--help"])):
    result = CliRunner().invoke(group, arguments)
    assert result.exit_code == 0, result.output
heavy = sorted({"torch", "pandas", "transformers", "numpy", "rich", "benchmarks", "train"} & set(sys.modules))
assert not heavy, heavy
for name in ("assemble", "describe"):
    result = CliRunner().invoke(train_group, [name, "--help"])
    assert result.exit_code == 0, result.output
heavy = sorted({"torch", "pandas", "transformers", "numpy", "rich", "timm", "benchmarks"} & set(sys.modules))
assert not heavy, heavy
for name in ("look", "pope", "cvbench", "lmms", "judge-audit", "score"):
    result = CliRunner().invoke(eval_group, [name, "--help"])
    assert result.exit_code == 0, result.output
heavy = sorted({"torch", "pandas", "transformers", "numpy", "rich", "lmms_eval", "agevlm.vlm"} & set(sys.modules))
assert not heavy, heavy
"""


def python(code: str, **kwargs) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **kwargs)


def test_help_imports_nothing_heavy():
    done = python(LIGHT)
    assert done.returncode == 0, done.stderr


def test_scoring_answers_needs_no_torch_and_no_pandas(tmp_path):
    code = """
import sys
from agevlm.cli import eval_group
try:
    eval_group.main(["score", "pope", "--answers", "reports/demo_data/answers.jsonl", "--questions",
                     "reports/demo_data/demo_pope_random.json", "--draws", "100", "--json", "-"], standalone_mode=False)
except SystemExit as stop:
    assert not stop.code
assert not {"torch", "pandas", "transformers"} & set(sys.modules)
"""
    done = python(code, cwd=Path(__file__).resolve().parents[1])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["benchmark"] == "pope"


def test_every_named_command_exists_and_has_help():
    for group, table in ((eval_group, EVAL_COMMANDS), (train_group, TRAIN_COMMANDS)):
        listed = " ".join(CliRunner().invoke(group, ["--help"]).output.split())
        for name, (_, help_line) in table.items():
            assert f"{name} {help_line}" in listed
            result = CliRunner().invoke(group, [name, "--help"])
            assert result.exit_code == 0, result.output
            assert len(result.output.splitlines()) > 5
    assert "train it in four stages" in listed


def test_a_wrong_flag_a_wrong_command_and_a_missing_option_exit_2():
    for arguments in (
        ["look"],
        ["pope", "--ckpt", "x", "--nonsense"],
        ["nonsense"],
        ["pope", "--ckpt", "x", "--limit", "0"],
    ):
        result = CliRunner().invoke(eval_group, arguments)
        assert result.exit_code == 2


def test_our_errors_are_one_line_and_their_exit_code(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from agevlm.cli import eval_main; eval_main()",
            "score",
            "pope",
            "--answers",
            "none.jsonl",
            "--questions",
            "none.json",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_foreign_package_of_the_same_name_is_told_apart(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", "from agevlm.cli import eval_main; eval_main()", "build-pope", "--help"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "is not AGE-VLM's" in done.stderr
    assert str(tmp_path) in done.stderr


@pytest.mark.parametrize("name", ["agevlm", "benchmarks", "analysis", "train", "reports"])
def test_the_top_level_packages_import_without_torch(name):
    done = python(f"import sys, {name}; assert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr
