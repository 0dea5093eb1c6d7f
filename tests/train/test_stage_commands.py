"""plan, run, resume and export as they are called, on a tiny model and a handful of pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agevlm.checkpoints.tiny import AgeVlmShape, build_age_vlm
from agevlm.cli import train_main
from agevlm.model import AgeVlmForConditionalGeneration
from train.tracking import StageTracker

STAGE = """
name: guide
arm: age-vlm
stage: 1
follows: [0]
init_from: {root}/stage-0
out: {root}/run
fusion: cross
trainable:
  adapter: {{modules: [model.adapter], lr: 1e-2}}
  cross: {{modules: [model.language_model.layers.1, model.language_model.layers.4], lr: 1e-2}}
  gates: {{modules: [model.language_model.layers.*.attn_gate], lr: 1e-2}}
sources:
  - kind: llava
    options: {{path: {root}/data.jsonl, images: {root}}}
steps: 8
batch_size: 4
micro_batch_size: 2
regions: {{share: 1.0}}
guidance: {{weight: 1.0}}
save_every: 2
log_every: 2
overlay_every: 4
overlay_images: 2
"""
QUESTION, ANSWER = "<image>\nIs there a red ball?", "Yes, there is."


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    build_age_vlm(root / "stage-0", shape=AgeVlmShape())
    draw, lines = np.random.default_rng(0), []
    for i in range(6):
        pixels = draw.integers(90, 160, (48, 32 + 8 * i, 3), dtype=np.uint8)
        x = int(draw.integers(0, 20))
        pixels[10:24, x : x + 12] = (220, 20, 20)
        Image.fromarray(pixels).save(root / f"{i}.png")
        turns = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]
        region = [[x, 10, x + 12, 10, x + 12, 24, x, 24]]
        start = QUESTION.index("red ball")
        phrases = [{"message": 0, "start": start, "end": start + 8, "segmentation": region}] * (i % 3 > 0)
        lines.append(json.dumps({"id": f"s{i}", "image": f"{i}.png", "conversations": turns, "phrases": phrases}))
    (root / "data.jsonl").write_text("\n".join(lines))
    (root / "stage.yaml").write_text(STAGE.format(root=root))
    return root


def rows(folder: Path) -> list[dict[str, float]]:
    read = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read]


@pytest.fixture(scope="module")
def finished(parts) -> Path:
    """A stage that was run from the first step to the last."""
    before, sys.argv = sys.argv, ["agevlm-train", "run", "--config", str(parts / "stage.yaml")]
    try:
        train_main()
    finally:
        sys.argv = before
    return parts / "run"


def test_a_stage_leaves_all_of_it(finished, parts):
    assert [row["step"] for row in rows(finished)] == [2, 4, 6, 8]
    assert rows(finished)[-1]["loss/text"] < rows(finished)[0]["loss/text"]
    assert "attention/iou" in rows(finished)[0]
    assert sorted(p.name for p in (finished / "overlays").iterdir()) == ["step-000004.png", "step-000008.png"]
    assert list((finished / "tensorboard").iterdir())
    assert json.loads((finished / "language.json").read_text())["identical"] is True
    assert (finished / "model" / "language.safetensors").is_file()
    before, after = (AgeVlmForConditionalGeneration.from_pretrained(f) for f in (parts / "stage-0", finished / "model"))
    changed = {n for (n, a), b in zip(before.named_parameters(), after.parameters(), strict=True) if not a.equal(b)}
    assert "model.adapter.linear_1.weight" in changed
    assert all("adapter" in n or "layers.1." in n or "layers.4." in n for n in changed)


def test_an_interrupted_run_says_how_to_go_on_and_ends_the_same(finished, parts, call, tmp_path, monkeypatch):
    log = StageTracker.log

    def interrupted(self, step, metrics):
        log(self, step, metrics)
        if step == 6:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(StageTracker, "log", interrupted)
        code, _, err = call("run", "--config", parts / "stage.yaml", "--out", out)
    assert code == 130
    # The row of step 6 was written, its checkpoint was not.
    assert f"step 4 is safe in {out}; go on with: agevlm-train resume {out}" in err
    assert [row["step"] for row in rows(out)] == [2, 4, 6]
    code, said, err = call("resume", out)
    assert code == 0, err
    assert "8 steps" in said
    assert rows(out) == rows(finished)
    ours, theirs = ((f / "model" / "model.safetensors").read_bytes() for f in (out, finished))
    assert ours == theirs


def test_options_win_over_the_file(parts, call, tmp_path):
    out = tmp_path / "made"
    more = ["--set", "steps=2", "--set", "seed=5", "--seed", 6, "--set", "overlay_every=0", "--set", "guidance=null"]
    code, said, err = call("run", "--config", parts / "stage.yaml", "--out", out, *more)
    assert code == 0, err
    assert f"wrote {out / 'model'}" in said
    assert "step 2 of 2" in err
    saved = (out / "stage.yaml").read_text()
    assert "seed: 6" in saved
    assert "guidance" not in saved
    assert not (out / "overlays").exists()


def test_a_finished_stage_is_left_alone(finished, parts, call):
    weights = (finished / "model" / "model.safetensors").read_bytes()
    code, _, err = call("run", "--config", parts / "stage.yaml")
    assert code == 2
    assert err.startswith("error: ")
    assert "finished run" in err
    assert call("resume", finished)[0] == 0
    assert (finished / "model" / "model.safetensors").read_bytes() == weights


def test_export(finished, call, tmp_path):
    code, said, _ = call("export", finished, "--step", 6, "--out", tmp_path / "six", "--dtype", "bfloat16")
    assert (code, said) == (0, f"wrote {tmp_path / 'six'}\n")
    assert AgeVlmForConditionalGeneration.from_pretrained(tmp_path / "six").dtype.itemsize == 2
    assert (tmp_path / "six" / "language.safetensors").is_file()
    code, _, err = call("export", finished, "--step", 5, "--out", tmp_path / "five")
    assert code == 2
    assert "no checkpoint of step 5" in err


@pytest.mark.slow
def test_plan(parts, call, tmp_path):
    code, said, err = call("plan", "--config", parts / "stage.yaml", "--set", "tokens_per_sample=20")
    assert code == 0, err
    assert "8 of 4 samples: 1 process x 2 forward passes" in said
    assert "gates" in said
    code, said, _ = call("plan", "--config", "paper/age-vlm/1-align", "--config", "paper/concat/1-align", "--json", "-")
    assert code == 0
    cross, concat = json.loads(said)
    assert (cross["trained"], concat["trained"]) == (250_630_664, 7_344_128)
    assert concat["operations"] > cross["operations"]
    code, _, err = call("plan", "--config", "paper/age-vlm/1-align", "--model-config", parts / "stage-0")
    assert code == 2
    assert "model.language_model.layers.7" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--config", "nowhere.yaml"], "no such file, and no built-in stage"),
        (["run", "--config", "{root}/stage.yaml", "--set", "stpes=1"], "did you mean steps"),
        (["run", "--config", "{root}/stage.yaml", "--set", "sources.0.kind=lava"], "did you mean llava"),
        (
            ["run", "--config", "{root}/stage.yaml", "--init-from", "nowhere", "--out", "{out}"],
            "no checkpoint is there",
        ),
        (
            ["run", "--config", "{root}/stage.yaml", "--set", "batch_size=6", "--set", "micro_batch_size=4"],
            "no multiple",
        ),
        (["resume", "nowhere"], "no stage.yaml in it"),
        (["export", "nowhere", "--out", "{out}"], "no checkpoint"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, says, parts, call, tmp_path):
    code, out, err = call(*(a.format(root=parts, out=tmp_path / "new") for a in arguments))
    assert (code, out) == (2, "")
    (line,) = err.strip().splitlines()
    assert line.startswith("error: ")
    assert says in line


def test_usage(call, parts):
    assert call("resume")[0] == 2
    assert call("resume", "a", "--out", "b")[0] == 2
    code, _, err = call("plan", "--config", "x", "--backbone", "1b", "--model-config", "y")
    assert code == 2
    assert "give one of them" in err
