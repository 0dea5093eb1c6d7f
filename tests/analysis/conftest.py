"""Tiny checkpoints, an AGE-VLM that looks at what is bright, and the command inside this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from agevlm.checkpoints.tiny import AgeVlmShape, TinyLlava, build_age_vlm, build_tiny_llava


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_hash_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Callable[[str], Path]:
    """checkpoint(kind): age_vlm, llava or llava_next; the same call gives the same folder."""
    known: dict[str, Path] = {}

    def build(kind: str) -> Path:
        if kind not in known:
            folder = tmp_path_factory.mktemp("checkpoints") / kind
            if kind == "age_vlm":
                known[kind] = build_age_vlm(folder, shape=AgeVlmShape())
            else:
                known[kind] = build_tiny_llava(folder, sizes=TinyLlava(model_type=kind))
        return known[kind]

    return build


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def here(capsys) -> Callable[..., Result]:
    """The command inside this process: torch is loaded once for all tests."""
    from agevlm.cli import eval_group, run

    def invoke(*arguments: object) -> Result:
        old, sys.argv = sys.argv, ["agevlm-eval", *map(str, arguments)]
        capsys.readouterr()
        try:
            run(eval_group)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            sys.argv = old
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return invoke
