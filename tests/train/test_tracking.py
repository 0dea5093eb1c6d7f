"""Rows that are kept, cut and shown."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agevlm.errors import RunFolderError, TrainError
from train.config import load_stage
from train.logs import cut_log
from train.tracking import LOG, StageTracker

METRICS = {"loss/text": 2.0, "loss/guidance": 0.5, "attention/iou": 0.25, "attention/iou/1": 0.9}
GATES = {"gate/attn/1": -0.2, "gate/attn/4": 0.4}


@pytest.fixture
def spec(tmp_path):
    return load_stage("scenes/age-vlm/3-guide", [f"out={tmp_path / 'run'}", "steps=40"])


@pytest.fixture
def notes():
    return Console(file=io.StringIO(), force_terminal=False, width=200)


def rows(folder):
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def without_times(folder):
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows(folder)]


def follow(spec, folder, notes, first, last, painter=None):
    tracker = StageTracker(spec, folder, notes, painter)
    tracker.begin(first)
    for step in range(first + 1, last + 1):
        if step % 10 == 0:
            tracker.log(step, {**METRICS, **GATES, "loss": 1 / step, "time/step": step * 0.1})
    tracker.close()
    tracker.close()


def test_an_interrupted_log_ends_like_one_that_was_not(spec, notes, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    follow(spec, whole, notes, 0, 40)
    follow(spec, broken, notes, 0, 30)
    with (broken / LOG).open("a") as log:
        log.write('{"step": 35, "loss"')  # a kill in the middle of a row
    follow(spec, broken, notes, 20, 40)
    assert [row["step"] for row in rows(whole)] == [10, 20, 30, 40]
    assert without_times(broken) == without_times(whole)


def test_tensorboard_shows_every_step_once(spec, notes, tmp_path):
    follow(spec, tmp_path, notes, 0, 30)
    follow(spec, tmp_path, notes, 20, 40)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == [10, 20, 30, 40]
    assert board.Scalars("gate/attn/4")[0].value == pytest.approx(0.4)


def test_the_stage_lies_in_its_folder(spec, notes, tmp_path):
    follow(spec, tmp_path, notes, 0, 10)
    assert load_stage(tmp_path / "stage.yaml") == spec


def test_a_line_a_row_where_there_is_no_terminal(spec, notes, tmp_path):
    follow(spec, tmp_path, notes, 0, 20)
    first, second = notes.file.getvalue().splitlines()
    assert first.startswith("step 10 of 40 · loss 2.000 · guidance 0.500 · IoU 0.250 · gates 0.300 · ")
    assert first.endswith(" left")
    assert second.startswith("step 20 of 40")


def test_a_bar_on_a_terminal(spec, tmp_path):
    notes = Console(file=io.StringIO(), force_terminal=True, width=150)
    tracker = StageTracker(spec, tmp_path, notes)
    tracker.begin(0)
    tracker.advance(7, 40)
    tracker.log(10, METRICS)
    tracker.close()
    shown = notes.file.getvalue()
    assert "10/40" in shown
    assert "IoU 0.250" in shown


def test_numbers_that_are_none_are_null(spec, notes, tmp_path):
    tracker = StageTracker(spec, tmp_path, notes)
    tracker.begin(0)
    tracker.log(10, {"loss": math.nan, "grad_norm": math.inf})
    tracker.close()
    assert (rows(tmp_path)[0]["loss"], rows(tmp_path)[0]["grad_norm"]) == (None, None)


def test_overlays_go_to_tensorboard(spec, notes, tmp_path):
    class Painter:
        def draw(self, step, model, processor):
            if step == 20:
                return None
            out = tmp_path / f"{step}.png"
            Image.fromarray(np.full((8, 6, 3), step, np.uint8)).save(out)
            return out

    tracker = StageTracker(spec, tmp_path, notes, Painter())
    tracker.begin(0)
    for step in (10, 20, 30):
        tracker.look(step, None, None)
    tracker.close()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(i.step, i.height, i.width) for i in board.Images("overlay")] == [(10, 8, 6), (30, 8, 6)]


def test_wandb_that_is_missing_says_how_to_get_it(spec, notes, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    StageTracker(spec, tmp_path, notes)
    with pytest.raises(TrainError, match=r"pip install 'agevlm\[wandb\]'"):
        StageTracker(replace(spec, wandb=True), tmp_path, notes)


def test_wandb_gets_all_of_it(spec, notes, tmp_path, monkeypatch):
    calls = []

    class Run:
        def log(self, values, step):
            calls.append((step, values))

        def finish(self):
            calls.append("finish")

    class Wandb:
        Error = RuntimeError

        @staticmethod
        def init(**options):
            calls.append(options)
            return Run()

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setitem(__import__("sys").modules, "wandb", Wandb)
    follow(replace(spec, wandb=True), tmp_path, notes, 0, 10)
    follow(replace(spec, wandb=True), tmp_path, notes, 10, 20)
    first, (step, values), end, again, *_ = calls
    assert first["id"] == again["id"]
    assert first["resume"] == "allow"
    assert first["config"]["arm"] == "age-vlm"
    assert (step, values["loss/text"], end) == (10, 2.0, "finish")

    def refuse(**_):
        raise RuntimeError("no\nkey")

    monkeypatch.setattr(Wandb, "init", staticmethod(refuse))
    with pytest.raises(TrainError, match=r"wandb: no key .*WANDB_MODE=offline"):
        follow(replace(spec, wandb=True), tmp_path, notes, 0, 10)


def test_a_log_that_cannot_be_read(tmp_path):
    (tmp_path / LOG).mkdir()
    with pytest.raises(RunFolderError, match=r"log\.jsonl"):
        cut_log(tmp_path / LOG, 3)
