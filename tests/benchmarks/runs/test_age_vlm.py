"""`agevlm-eval pope` on an AGE-VLM: the whole command, a tiny model on the CPU in float32."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from agevlm.checkpoints.tiny import AgeVlmShape, build_age_vlm
from benchmarks.controls import CONTROLS
from tests.benchmarks.runs import test_real_model
from tests.benchmarks.runs.launch import answers, command_here, environment
from tests.benchmarks.runs.stub import make_data
from tests.benchmarks.runs.test_real_model import arguments

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = {
    "cross": AgeVlmShape(),
    "mask_padding": AgeVlmShape(mask_padding=True),
    "concat": AgeVlmShape(fusion="concat"),
}


@pytest.fixture(scope="module")
def age_vlm(tmp_path_factory):
    """age_vlm(name): a checkpoint folder that answers Yes or No."""
    known = {}

    def build(name="cross"):
        if name not in known:
            known[name] = build_age_vlm(tmp_path_factory.mktemp(name) / "age-vlm", answers=True, shape=SHAPES[name])
        return known[name]

    return build


@pytest.fixture
def copy(age_vlm, tmp_path):
    """A copy to break."""
    return shutil.copytree(age_vlm(), tmp_path / "copy")


@pytest.mark.parametrize("name", SHAPES)
def test_pope_with_every_control_is_scored_and_verified(age_vlm, tmp_path, name):
    data, out = make_data(tmp_path / "data", 5, 1, size=(60, 44)), tmp_path / "run"
    options = ("--control", "all", "--verify", "2", "--json", "-")
    result = command_here(*arguments(age_vlm(name), data, out), *options)
    assert result.returncode == 0, result.stderr
    assert "0 differ" in result.stderr
    report = json.loads((out / "verify.json").read_text())
    assert (report["images"], report["flips"]) == (2, [])
    assert report["answers"] >= 2 * 4
    pooled = [r for r in json.loads(result.stdout) if (r["split"], r["protocol"]) == ("pooled", "default")]
    rows = {r["condition"]: r for r in pooled}
    assert {"image", *CONTROLS} <= set(rows)
    for row in rows.values():
        assert (row["missing"], row["errors"], row["unparsed"]) == (0, 0, 0)
        assert 0 <= row["accuracy"] <= 1
    records = answers(out).values()
    assert {r.text.strip() for r in records} == {"Yes", "No"}
    assert all(set(r.logprobs) == {"yes", "no"} for r in records)
    session = json.loads((out / "run.json").read_text())["model"]["session"]
    assert (session["adapter"], session["model_type"]) == ("native", "age_vlm")
    again = command_here(*arguments(age_vlm(name), data, out), *options)
    assert "0 to go" in again.stderr
    assert again.stdout == result.stdout


def without(folder, *names):
    for name in names:
        (folder / name).unlink()


def edit_weights(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


BROKEN = {
    "a missing weight": (
        lambda f: edit_weights(f, lambda w: w.pop("model.language_model.layers.4.cross_attn.v_proj.weight")),
        "1 missing keys in the weights, first model.language_model.layers.4.cross_attn.v_proj.weight; the files do not",
    ),
    "an unexpected weight": (
        lambda f: edit_weights(f, lambda w: w.update({"model.adapter.linear_3.bias": torch.zeros(3)})),
        "1 unexpected keys in the weights, first model.adapter.linear_3.bias; the files do not belong",
    ),
    "no processor": (lambda f: without(f, "processor_config.json"), "processor"),
    "no tokenizer": (lambda f: without(f, "tokenizer.json", "tokenizer_config.json"), "processor"),
    "no weights": (lambda f: without(f, "model.safetensors"), "no weights (*.safetensors)"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_folder_that_is_not_whole_is_refused_in_one_line(copy, tmp_path, case):
    damage, message = BROKEN[case]
    damage(copy)
    data, out = make_data(tmp_path / "data", 2), tmp_path / "run"
    result = command_here(*arguments(copy, data, out))
    assert result.returncode == 2
    said = result.stderr[result.stderr.index("error: ") :]
    assert said.startswith(f"error: checkpoint {copy}: ")
    assert message in said
    assert len(said) < 3 * len(str(copy)) + 400
    assert "Traceback" not in said
    assert not (out / "answers-00000.jsonl").exists()


def run_process(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=300)


def test_a_plan_loads_neither_weights_nor_torch(copy, tmp_path):
    data, out = make_data(tmp_path / "data", 4, size=(60, 44)), tmp_path / "run"
    command = [*arguments(copy, data, out), "--plan", "--control", "all"]
    done = run_process(
        "import builtins, io, sys\n"
        "from agevlm.cli import eval_group\n"
        f"eval_group.main({command!r}, standalone_mode=False)\n"
        "assert not {'torch', 'transformers', 'timm', 'agevlm.model'} & set(sys.modules)\n"
    )
    assert done.returncode == 0, done.stderr
    assert "estimated time" in done.stdout
    assert not out.exists()
    planned = command_here(*command)
    assert planned.returncode == 0, planned.stderr
    # Weights that nobody could load are not looked into.
    edit_weights(copy, lambda w: w.pop("lm_head.weight"))
    assert command_here(*command).returncode == 0


@pytest.mark.slow
def test_a_process_that_knows_no_model_registers_it_by_itself(age_vlm, tmp_path):
    data, out = make_data(tmp_path / "data", 2, size=(60, 44)), tmp_path / "run"
    done = run_process(
        "import sys\n"
        "from agevlm.cli import eval_main\n"
        "assert not [name for name in sys.modules if name.startswith('agevlm.model')]\n"
        f"sys.argv = {['agevlm-eval', *arguments(age_vlm(), data, out)]!r}\n"
        "eval_main()\n"
    )
    assert done.returncode == 0, done.stderr
    assert answers(out)
    assert json.loads((out / "scores.json").read_text())["rows"]


@pytest.mark.slow
def test_a_run_killed_twice_ends_in_the_same_bytes(age_vlm, tmp_path):
    test_real_model.test_a_real_run_killed_twice_ends_in_the_same_bytes(age_vlm(), tmp_path)


@pytest.mark.slow
def test_a_changed_weight_or_processor_setting_or_image_is_asked_again(age_vlm, tmp_path):
    test_real_model.test_a_changed_weight_or_processor_setting_asks_everything_again_and_a_changed_image_its_own_group(
        age_vlm(), tmp_path
    )
