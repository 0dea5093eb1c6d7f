"""The default run folders' names: those of runs that are there, and one for each trial."""

from dataclasses import fields
from pathlib import Path

import pytest

from agevlm.vlm.choice import ModelChoice
from analysis.launch import AnalysisSettings
from benchmarks.lmms.command import LmmsSettings
from benchmarks.prompts import DEFAULT
from benchmarks.settings import RunSettings


def pope(model, limit, out):
    unset = dict.fromkeys(f.name for f in fields(RunSettings))
    settings = RunSettings(**{**unset, "model": model, "prompt": DEFAULT, "limit": limit, "out": out})
    return settings.folder("pope", "coco", ("random", "popular"))


def lmms(model, limit, out):
    unset = dict.fromkeys(f.name for f in fields(LmmsSettings))
    settings = LmmsSettings(**{**unset, "model": model, "tasks": ("mmvp", "blink"), "limit": limit, "out": out})
    return settings.folder()


def similarity(model, limit, out):
    unset = dict.fromkeys(f.name for f in fields(AnalysisSettings))
    settings = AnalysisSettings(**{**unset, "models": (model,), "limit": limit, "out": out})
    return settings.folder("similarity", "coco")


NAMES = [
    (similarity, "similarity-scenes_age-vlm-coco"),
    (pope, "pope-scenes_age-vlm-coco-default-random-popular"),
    (lmms, "lmms-scenes_age-vlm-mmvp-blink"),
]


@pytest.mark.parametrize(("folder", "name"), NAMES)
def test_a_run_has_the_folder_that_was_named_or_one_of_its_own(folder, name):
    model, half = ModelChoice("scenes/age-vlm"), ModelChoice("scenes/age-vlm", dtype="bfloat16")
    runs = Path("runs")
    assert folder(model, None, None).path == runs / name
    assert folder(model, 3, None).path == runs / f"{name}-limit3"
    assert folder(half, None, None).path == runs / f"{name}-bfloat16"
    assert folder(half, 3, None).path == runs / f"{name}-bfloat16-limit3"
    assert folder(half, 3, Path("here")).path == Path("here")
