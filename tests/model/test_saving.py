"""Saving and loading: every bit comes back, through the Auto classes too, and nothing incomplete is ever loaded."""

import json
import pickle
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText
from transformers.utils import hub

from agevlm.errors import CheckpointError
from agevlm.model import (
    AgeVlmConfig,
    AgeVlmForConditionalGeneration,
    AgeVlmModel,
    AgeVlmTextConfig,
    AgeVlmTextModel,
    AgeVlmVisionConfig,
    AgeVlmVisionModel,
)
from tests.model.conftest import IMAGE_TOKEN, build, pixels, tiny_config, tiny_vision, with_image_tokens, words

KINDS = {
    "plain": {},
    "untied": {"text": {"tie_word_embeddings": False}},
    "all else changed": {
        "text": {"cross_attention_mlp": False},
        "adapter": "linear",
        "visual_positions": "learned",
        "mask_padding": True,
        "vision_config": tiny_vision("convnextv2_atto", 3),
    },
    "concat": {"fusion": "concat"},
}


@pytest.fixture(params=KINDS)
def saved(request, tmp_path):
    model = build(tiny_config(**KINDS[request.param]))
    model.save_pretrained(tmp_path)
    return model, tmp_path


@pytest.fixture
def folder(tmp_path):
    build(tiny_config()).save_pretrained(tmp_path)
    return tmp_path


def logits(model):
    ids = words(2, 7)
    if model.config.fusion == "concat":
        ids = with_image_tokens(ids)
    with torch.no_grad():
        return model(ids, pixel_values=pixels(2)).logits


@pytest.mark.parametrize("loader", [AgeVlmForConditionalGeneration, AutoModelForImageTextToText])
def test_what_was_saved_comes_back_bit_by_bit(saved, loader):
    model, folder = saved
    loaded = loader.from_pretrained(folder)
    assert type(loaded) is AgeVlmForConditionalGeneration
    assert not loaded.training
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(float(w) != 0 for name, w in after.items() if name.endswith("_gate"))
    assert torch.equal(logits(loaded), logits(model))
    other = build(tiny_config(fusion=model.config.fusion), seed=1)
    assert not torch.equal(logits(other), logits(model))


def test_only_safetensors_are_written(saved):
    _, folder = saved
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors"}


def test_saving_what_was_loaded_writes_the_same_weights(saved, tmp_path):
    _, folder = saved
    again = tmp_path / "again"
    AgeVlmForConditionalGeneration.from_pretrained(folder).save_pretrained(again)
    one, other = (load_file(f / "model.safetensors") for f in (folder, again))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_shards_come_back_too(tmp_path):
    model = build(tiny_config())
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert torch.equal(logits(AgeVlmForConditionalGeneration.from_pretrained(tmp_path)), logits(model))


def test_the_base_model_loads_from_the_whole_and_the_whole_from_the_base(saved, tmp_path):
    model, folder = saved
    base = AutoModel.from_pretrained(folder)
    assert type(base) is AgeVlmModel
    before, after = model.model.state_dict(), base.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    base.save_pretrained(tmp_path / "base")
    if model.config.tie_word_embeddings:
        whole = AgeVlmForConditionalGeneration.from_pretrained(tmp_path / "base")
        assert torch.equal(logits(whole), logits(model))
    else:
        with pytest.raises(CheckpointError, match=r"1 missing keys in the weights, first lm_head\.weight"):
            AgeVlmForConditionalGeneration.from_pretrained(tmp_path / "base")


@pytest.mark.parametrize("tied", [True, False])
def test_heads_are_tied_or_not_as_configured(tmp_path, tied):
    model = build(tiny_config({"tie_word_embeddings": tied}))
    model.save_pretrained(tmp_path)
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) == (not tied)
    for one in (model, AgeVlmForConditionalGeneration.from_pretrained(tmp_path)):
        embeddings = one.get_input_embeddings().weight
        assert (one.get_output_embeddings().weight is embeddings) == tied
        if not tied:
            assert not torch.equal(one.lm_head.weight, embeddings)


def test_each_part_has_its_auto_class(tmp_path):
    model = build(tiny_config())
    for kind, config, part in [
        (AgeVlmTextModel, AgeVlmTextConfig, model.model.language_model),
        (AgeVlmVisionModel, AgeVlmVisionConfig, model.model.vision_tower),
        (AgeVlmModel, AgeVlmConfig, model.model),
    ]:
        folder = tmp_path / kind.__name__
        part.save_pretrained(folder)
        assert type(AutoConfig.from_pretrained(folder)) is config
        loaded = AutoModel.from_pretrained(folder)
        assert type(loaded) is kind
        assert all(torch.equal(w, loaded.state_dict()[name]) for name, w in part.state_dict().items())
        assert type(AutoModel.from_config(loaded.config)) is kind
    assert type(AutoModelForImageTextToText.from_config(tiny_config())) is AgeVlmForConditionalGeneration


def test_dtype_and_attention_may_be_chosen(folder):
    model = AgeVlmForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    assert {w.dtype for w in model.parameters()} == {torch.bfloat16}
    eager = AgeVlmForConditionalGeneration.from_pretrained(folder, attn_implementation="eager")
    assert eager.model.language_model.config._attn_implementation == "eager"


def test_whoever_wants_the_loading_report_gets_it(folder):
    model, info = AgeVlmForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert type(model) is AgeVlmForConditionalGeneration
    assert not any(info.values())


def weights_changed(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def squeezed(weights):
    weights["model.adapter.linear_2.weight"] = torch.zeros(48, 47)


DAMAGE = {
    "a gate lost": (
        lambda w: w.pop("model.language_model.layers.4.attn_gate"),
        "1 missing keys in the weights, first model.language_model.layers.4.attn_gate",
    ),
    "a layer scale lost": (
        lambda w: w.pop("model.vision_tower.trunk.stages.0.blocks.0.gamma"),
        "1 missing keys .* first model.vision_tower.trunk.stages.0.blocks.0.gamma",
    ),
    "embeddings, and so the tied head, lost": (
        lambda w: w.pop("model.language_model.embed_tokens.weight"),
        "missing keys .* first (lm_head.weight|model.language_model.embed_tokens.weight)",
    ),
    "two lost": (
        lambda w: [w.pop(f"model.language_model.layers.1.cross_attn.{n}_proj.weight") for n in "qk"],
        "2 missing keys .* first model.language_model.layers.1.cross_attn.k_proj.weight",
    ),
    "one too many": (lambda w: w.update(extra=torch.zeros(2)), "1 unexpected keys in the weights, first extra"),
    "a head's norm of timm": (
        lambda w: w.update({"model.vision_tower.trunk.head.norm.weight": torch.zeros(32)}),
        "1 unexpected keys",
    ),
    "another name": (
        lambda w: w.update({"model.adapter.first.weight": w.pop("model.adapter.linear_1.weight")}),
        "1 missing keys .* first model.adapter.linear_1.weight",
    ),
    "all lost": (lambda w: [w.pop(name) for name in list(w)] and w.update(x=torch.zeros(1)), "missing keys"),
}


@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.parametrize("loader", [AgeVlmForConditionalGeneration, AutoModelForImageTextToText])
def test_weights_that_do_not_belong_to_the_configuration_are_refused(folder, case, loader):
    change, message = DAMAGE[case]
    weights_changed(folder, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        loader.from_pretrained(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("loader", [AgeVlmForConditionalGeneration, AutoModel])
def test_a_weight_of_another_shape_is_refused(folder, loader):
    weights_changed(folder, squeezed)
    with pytest.raises((CheckpointError, RuntimeError), match=r"adapter\.linear_2\.weight"):
        loader.from_pretrained(folder)


def test_another_configuration_beside_the_weights_is_refused(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["cross_attention_layers"] = [2, 4]
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"missing keys .* first model.language_model.layers.1"):
        AgeVlmForConditionalGeneration.from_pretrained(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickled_weights_alone_are_refused_and_never_opened(folder, name):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was loaded",))

    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    for settings in ({}, {"use_safetensors": False}):
        with pytest.raises((CheckpointError, OSError), match="safetensors"):
            AgeVlmForConditionalGeneration.from_pretrained(folder, **settings)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises((CheckpointError, OSError), match="safetensors"):
        AgeVlmForConditionalGeneration.from_pretrained(folder)


def test_weights_without_a_configuration_are_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        AgeVlmForConditionalGeneration.from_pretrained(folder)


def test_a_missing_shard_is_refused(tmp_path):
    build(tiny_config()).save_pretrained(tmp_path, max_shard_size="100KB")
    sorted(tmp_path.glob("*.safetensors"))[1].unlink()
    with pytest.raises((CheckpointError, OSError)):
        AgeVlmForConditionalGeneration.from_pretrained(tmp_path)


def test_resized_embeddings_stay_tied_and_are_saved(tmp_path):
    model = build(tiny_config())
    before = logits(model)
    model.resize_token_embeddings(105)
    assert model.config.text_config.vocab_size == 105
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert torch.equal(logits(model)[..., :97], before)
    labels = words(2, 7)
    assert bool(model(labels, pixel_values=pixels(2), labels=labels).loss.isfinite())
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(AgeVlmForConditionalGeneration.from_pretrained(tmp_path)), logits(model))


def test_push_to_hub_sends_configuration_and_safetensors(monkeypatch, tmp_path):
    sent = {}

    def create_commit(**request):
        for operation in request["operations"]:
            target = tmp_path / operation.path_in_repo
            shutil.copy(operation.path_or_fileobj, target)
        sent.update(request)

    api = SimpleNamespace(
        create_repo=lambda repo_id, **_: SimpleNamespace(repo_id=f"someone/{repo_id}"), create_commit=create_commit
    )
    monkeypatch.setattr(hub, "hf_api", lambda: api)
    monkeypatch.setattr(hub, "create_and_tag_model_card", lambda *_, **__: SimpleNamespace(save=lambda path: None))
    model = build(tiny_config())
    model.push_to_hub("age-vlm-tiny")
    assert sent["repo_id"] == "someone/age-vlm-tiny"
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}
    assert torch.equal(logits(AgeVlmForConditionalGeneration.from_pretrained(tmp_path)), logits(model))


def test_what_concat_needs_is_saved(tmp_path):
    build(tiny_config(fusion="concat")).save_pretrained(tmp_path)
    assert AgeVlmForConditionalGeneration.from_pretrained(tmp_path).config.image_token_id == IMAGE_TOKEN
