"""The same promises with a real model: the whole command, a tiny LLaVA on the CPU in float32."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from tests.benchmarks.runs.launch import OPTIONS, answers, command_here, environment
from tests.benchmarks.runs.stub import make_data, picture

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

EVAL = Path(sys.executable).with_name("agevlm-eval")


def arguments(checkpoint, data, out):
    return ["pope", "--ckpt", str(checkpoint), *data.options, "--device", "cpu", "--out", str(out), *OPTIONS]


def test_a_real_run_killed_twice_ends_in_the_same_bytes(tiny_checkpoint, tmp_path):
    data = make_data(tmp_path / "data", 150, size=(60, 44))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    uninterrupted = command_here(*arguments(tiny_checkpoint, data, whole), "--json", "-")
    assert uninterrupted.returncode == 0, uninterrupted.stderr
    file = cut / "answers-00000.jsonl"
    for growth in (1, 20_000):
        before = file.stat().st_size if file.exists() else 0
        process = subprocess.Popen(
            [EVAL, *arguments(tiny_checkpoint, data, cut)],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and (file.stat().st_size if file.exists() else 0) < before + growth:
            time.sleep(0.003)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "the kill came too late"
        assert not (cut / "scores.json").exists()
    last = command_here(*arguments(tiny_checkpoint, data, cut), "--json", "-")
    assert last.returncode == 0, last.stderr
    assert last.stdout == uninterrupted.stdout
    assert json.loads(last.stdout)
    assert (cut / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()
    assert answers(cut) == answers(whole)
    assert {r.text.strip() for r in answers(cut).values()} == {"Yes", "No"}
    assert len(file.read_text().splitlines()) == len(answers(cut)), "an answer was given twice"


def edit_json(path, **changes):
    content = json.loads(path.read_text())
    (content.get("image_processor") or content).update(changes)
    path.write_text(json.dumps(content))


def test_a_changed_weight_or_processor_setting_asks_everything_again_and_a_changed_image_its_own_group(
    tiny_checkpoint, tmp_path
):
    data, out = make_data(tmp_path / "data", 4, size=(60, 44)), tmp_path / "run"
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, checkpoint)

    def launch():
        result = command_here(*arguments(checkpoint, data, out))
        assert result.returncode == 0, result.stderr
        return result, answers(out)

    _, first = launch()
    assert launch()[1] == first

    weights = checkpoint / "model.safetensors"
    tensors = load_file(weights)
    name = next(n for n in tensors if n.endswith("mlp.down_proj.weight"))
    tensors[name][1, 1] += 1.0
    save_file(tensors, weights, metadata={"format": "pt"})
    result, second = launch()
    assert (
        "the model's weights changed since the last launch: what this model has not answered is asked" in result.stderr
    )
    assert first.items() <= second.items()
    assert len(second) == 2 * len(first)

    processor = next(p for p in checkpoint.glob("*processor*_config.json") if "image_mean" in p.read_text())
    edit_json(processor, image_mean=[0.1, 0.2, 0.3])
    result, third = launch()
    assert "the model's processor changed" in result.stderr
    assert second.items() <= third.items()
    assert len(third) == 3 * len(first)

    picture(500, (60, 44)).save(data.image(1))
    _, fourth = launch()
    new = {r.image for key, r in fourth.items() if key not in third}
    assert third.items() <= fourth.items()
    assert new == {data.image(1).name}
    assert len(fourth) - len(third) == len(first) // 4

    # Back to what it was: everything is known already.
    shutil.rmtree(checkpoint)
    shutil.copytree(tiny_checkpoint, checkpoint)
    picture(1, (60, 44)).save(data.image(1))
    assert launch()[1] == fourth
