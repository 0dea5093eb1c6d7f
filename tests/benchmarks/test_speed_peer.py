"""lmms-eval beside us: real evaluations in child processes, since importing it changes the process it is in."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
from click.testing import CliRunner

from benchmarks.speed import __main__ as command
from benchmarks.speed import peer

needs_lmms_eval = pytest.mark.skipif(
    find_spec("lmms_eval") is None or find_spec("decord") is None, reason="the extra lmms is not installed"
)


def child(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)


def beside(*arguments):
    done = child("-m", "benchmarks.speed", "--peer", "lmms-eval", "--json", "-", *arguments)
    assert done.returncode == 0, done.stderr
    # Nothing but the figures is on stdout.
    return json.loads(done.stdout), done.stderr


def check_report(report, tables, wrapper):
    sides = report["sides"]
    theirs, ours, distinct = sides.values()
    assert list(sides) == ["lmms-eval", "agevlm", "agevlm, distinct questions"]
    assert report["peer"]["wrapper"] == wrapper
    assert len(report["peer"]["evaluate_seconds"]) == report["images"] == 6
    assert theirs["vision_calls_per_question"] == 1
    assert ours["vision_calls_per_question"] == distinct["vision_calls_per_question"] == pytest.approx(1 / 18)
    for side in sides.values():
        for ratio in (side["wall_ratio"], side["cpu_ratio"]):
            assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]
    assert theirs["cpu_ratio"] == {"min": 1, "median": 1, "max": 1}
    assert (report["questions"], report["distinct_questions"]) == (108, 61)
    equality = report["equality"]
    assert equality["yes"] + equality["no"] == 108
    assert min(equality["yes"], equality["no"]) > 0
    assert set(equality["differing"].values()) == {0}
    assert "token ids of all prompts equal" in " ".join(tables.split())
    return theirs, ours, distinct


@needs_lmms_eval
@pytest.mark.slow
def test_llava_beside_lmms_evals_own_wrapper():
    report, tables = beside("--hidden", 256, "--layers", 2)
    theirs, ours, distinct = check_report(report, tables, "lmms_eval.models.chat.llava_hf.LlavaHf")
    assert 600 < theirs["language_positions_per_question"] < 606
    assert ours["language_positions_per_question"] <= 55
    assert distinct["language_positions_per_question"] <= 46


@needs_lmms_eval
@pytest.mark.slow
def test_age_vlm_beside_its_own_plain_wrapper():
    report, tables = beside("--model", "age-vlm", "--size", "tiny")
    theirs, ours, distinct = check_report(report, tables, "benchmarks.speed.lmms_plain.PlainAgeVlm")
    assert distinct["language_positions_per_question"] < ours["language_positions_per_question"]
    assert ours["language_positions_per_question"] < theirs["language_positions_per_question"] < 30


FAULTS = """
import json, sys, tempfile
from pathlib import Path
from unittest import mock
from benchmarks.speed import beside, peer
from benchmarks.speed.models import Random, opened
from benchmarks.speed.sides import Said

peer.prepare_environment()
found = {}

def outcome(name, fault):
    with fault:
        try:
            beside.measure_beside(vlm, folder, 1, 8, lambda _: None)
            found[name] = "no error"
        except peer.PeerFailed as error:
            found[name] = str(error)

with opened(Random("llava", "tiny"), "float32", "cpu") as (vlm, folder):
    import lmms_eval.models
    wrapper = lmms_eval.models.get_model("llava_hf")
    honest = vlm.model.generate

    def broken(*_, **__):
        raise RuntimeError("planted: no kernel")

    def silent(*_, **kwargs):
        import torch
        ids = kwargs["input_ids"]
        return torch.cat([ids, torch.full((len(ids), 1), vlm.tokenizer.eos_token_id)], 1)

    def other_template(self, *arguments, **keywords):
        made(self, *arguments, **keywords)
        processor = self._image_processor
        processor.chat_template = processor.chat_template.replace("ASSISTANT:", "ASSISTANT: ")

    made = wrapper.__init__
    import contextlib
    outcome("nothing", contextlib.nullcontext())
    outcome("exception", mock.patch.object(type(vlm.model), "generate", broken))
    outcome("empty", mock.patch.object(type(vlm.model), "generate", silent))
    outcome("inputs", mock.patch.object(wrapper, "__init__", other_template))
    ours = {"agevlm": lambda vlm, jpeg, prompts, limit: [Said((), "") for _ in prompts]}
    outcome("ours", mock.patch.object(beside, "OURS", ours))
print(json.dumps(found))
"""


@needs_lmms_eval
@pytest.mark.slow
def test_a_comparison_that_is_none_fails():
    done = child("-c", FAULTS)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["nothing"] == "no error"
    assert "swallowed 2 exceptions" in found["exception"]
    assert "RuntimeError: planted: no kernel" in found["exception"]
    assert "2 of lmms-eval's 2 answers on agevlm_speed_1 are empty" in found["empty"]
    assert "lmms-eval gave its model other token ids than ours for 18 of 18 questions" in found["inputs"]
    assert "18 of our 18 answers on agevlm_speed_0 are empty" in found["ours"]


def run(*arguments):
    return CliRunner().invoke(command.main, ["--peer", "lmms-eval", *map(str, arguments)])


def test_lmms_eval_missing_says_how_to_install_it(monkeypatch):
    honest = peer.find_spec
    monkeypatch.setattr(peer, "find_spec", lambda name: None if name == "lmms_eval" else honest(name))
    result = run()
    assert result.exit_code == 1
    assert "lmms_eval not installed; pip install 'agevlm[lmms]'" in result.stderr
    assert not result.stdout


@needs_lmms_eval
def test_too_few_images_are_refused(monkeypatch):
    monkeypatch.setattr(command, "prepare_environment", lambda: None)
    result = run("--images", 5)
    assert result.exit_code == 2
    assert "at least 6" in result.stderr


def test_a_peer_that_fails_is_one_line(monkeypatch):
    def failing(*_):
        raise peer.PeerFailed("lmms-eval on task: planted")

    monkeypatch.setattr(command, "prepare_environment", lambda: None)
    monkeypatch.setattr(command, "_beside", failing)
    result = run("--json", "-")
    assert result.exit_code == 1
    assert "Error: lmms-eval on task: planted" in result.stderr
    assert not result.stdout
