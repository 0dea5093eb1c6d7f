"""The trained checkpoints that come with the package."""

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from agevlm.checkpoints.shipping import LIMIT
from agevlm.cli import eval_group
from agevlm.data.checkpoint_files import EMBEDDED, embedded_names
from agevlm.scenes.language import Facts, ask_existence
from agevlm.scenes.types import split_seeds
from agevlm.scenes.world import render
from agevlm.vlm.contract import Ask
from agevlm.vlm.hf.session import HfVlm

NAMES = ["scenes/age-vlm", "scenes/ca-baseline", "scenes/concat"]


def test_there_are_three_with_cards_and_together_they_are_small():
    assert embedded_names() == NAMES
    assert sum(path.stat().st_size for path in EMBEDDED.rglob("*.safetensors")) <= LIMIT == 24 * 2**20
    for name in NAMES:
        assert "held-out test scenes" in (EMBEDDED / name / "README.md").read_text(encoding="utf-8")


def test_language_model_and_trunk_are_stored_once():
    shared = sorted(path.name for path in (EMBEDDED / "scenes").glob("*.safetensors"))
    assert shared == [
        "shared-by-age-vlm-and-ca-baseline-and-concat.safetensors",
        "shared-by-age-vlm-and-ca-baseline.safetensors",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_they_see(name):
    """On 40 held-out scenes: far better with the image than without, which a broken or random model is not."""
    scenes = [render(seed) for seed in split_seeds("test", 40, start=600)]
    vlm = HfVlm.load(name)
    encoded = vlm.encode([Image.fromarray(scene.image) for scene in scenes])
    asks, blind, truth = [], [], []
    for number, scene in enumerate(scenes):
        facts = Facts.of(scene)
        for category in (
            facts.present[0],
            facts.present[-1],
            facts.absent[0],
            facts.absent[number % len(facts.absent)],
        ):
            question = ask_existence(facts, category)
            asks.append(Ask(question.question.text, number))
            blind.append(Ask(question.question.text, None))
            truth.append(question.answer)
    options = [("yes", "no")] * len(asks)

    def accuracy(scores):
        return np.mean([o[int(np.argmax(s))] == t for o, s, t in zip(options, scores, truth, strict=True)])

    assert accuracy(vlm.rank(encoded, asks, options)) > 0.88
    assert accuracy(vlm.rank(encoded, blind, options)) < 0.8


def test_pope_without_options_asks_age_vlm_about_scenes(tmp_path):
    command = ["pope", "--limit", "12", "--out", str(tmp_path / "run"), "--protocol", "default"]
    result = CliRunner().invoke(eval_group, command)
    assert result.exit_code == 0, result.output
    manifest = (tmp_path / "run" / "run.json").read_text()
    assert "scenes/age-vlm" in manifest
    assert "pope-scenes" in manifest
