"""Models spread over devices. This machine has one: host memory and disk stand for the others."""

import pytest
import torch

from agevlm.checkpoints.standins import STANDINS, build_standin
from agevlm.errors import CheckpointError
from agevlm.vlm.choice import ModelChoice
from agevlm.vlm.hf.devices import input_device, is_spread, vision_device
from agevlm.vlm.hf.reference import find_flips
from agevlm.vlm.hf.session import HfVlm
from tests.vlm.conftest import FEWER, asks_about
from tests.vlm.test_families import shown_in

OFFLOADED = {"model.vision_tower": "cpu", "model.multi_modal_projector": "disk", "lm_head": "cpu"} | {
    "model.language_model.embed_tokens": "disk",
    "model.language_model.layers.0": "cpu",
    "model.language_model.layers.1": "disk",
    "model.language_model.layers.2": "cpu",
    "model.language_model.norm": "cpu",
    "model.language_model.rotary_emb": "cpu",
}
"""Of a tiny LLaVA."""


def assert_answers_alike(model, known, pictures):
    for image in shown_in(model, 0, 2):
        asks = asks_about(image, 4)
        replies = model.answer(model.encode(pictures[:3]), asks)
        expected = known.answer(known.encode(pictures[:3]), asks)
        assert [r.token_ids for r in replies] == [r.token_ids for r in expected]
        options = [[" Yes", " dining table"]] * len(asks)
        ranked = model.rank(model.encode(pictures[:3]), asks, options)
        for scores, wanted in zip(ranked, known.rank(known.encode(pictures[:3]), asks, options), strict=True):
            assert scores == pytest.approx(wanted, abs=1e-4)
    assert (
        find_flips(model, pictures[0], asks_about(0, 4), model.answer(model.encode(pictures), asks_about(0, 4))) == []
    )


@pytest.mark.parametrize("kind", FEWER)
def test_placed_by_itself_a_model_answers_alike(checkpoint, vlm, pictures, kind):
    model = ModelChoice(str(checkpoint(kind)), device_map="auto").load()
    assert_answers_alike(model, vlm(kind), pictures)
    assert "device_map" not in model.describe(), "one device holds it all"


def test_with_weights_on_disk_a_model_answers_alike(checkpoint, vlm, pictures):
    model = HfVlm.load(checkpoint("llava"), device_map=OFFLOADED)
    assert is_spread(model.model)
    elsewhere = [name for name, p in model.model.named_parameters() if p.device.type == "meta"]
    assert any("layers.1" in name for name in elsewhere), "part of it is not in memory"
    assert input_device(model.model) == vision_device(model.model) == torch.device("cpu")
    assert_answers_alike(model, vlm("llava"), pictures)
    assert model.describe()["device_map"] == ["cpu", "disk"]


def by_turns(model):
    """A device map that puts every other part of a model on disk, the language model's layers one by one."""
    language = next(name for name, _ in model.named_modules() if name.endswith(("language_model", "text_model")))
    split = {"", "model", language, f"{language}.layers"}
    parts = [name for name, _ in model.named_modules() if name not in split and name.rpartition(".")[0] in split]
    return {part: ("cpu", "disk")[n % 2] for n, part in enumerate(parts)}


@pytest.mark.parametrize("kind", ["age_vlm_mask", "age_vlm_concat", "gemma3", "mllama", "paligemma", "qwen3_vl"])
def test_every_way_to_run_a_model_takes_parts_of_it_on_disk(checkpoint, tmp_path, pictures, kind):
    folder = build_standin(kind, tmp_path) if kind in STANDINS else checkpoint(kind)
    known = HfVlm.load(folder, device="cpu")
    model = HfVlm.load(folder, device_map=by_turns(known.model))
    assert is_spread(model.model)
    assert_answers_alike(model, known, pictures)


def test_a_device_and_a_map_together_are_refused(checkpoint):
    with pytest.raises(CheckpointError, match="--device-map auto chooses the devices; leave --device out"):
        ModelChoice(str(checkpoint()), device="cpu", device_map="auto").load()


def test_a_map_that_transformers_does_not_know_is_refused(checkpoint):
    with pytest.raises(CheckpointError, match=r"cannot load.*device_map"):
        ModelChoice(str(checkpoint()), device_map="nonsense").load()
