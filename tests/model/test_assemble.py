"""Joining a LLaMA and a ConvNeXt: nothing is lost, nothing is moved, nothing is taken on trust."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GenerationConfig, LlamaForCausalLM

from agevlm.errors import CheckpointError
from agevlm.model import AgeVlmForConditionalGeneration, AgeVlmProcessor
from agevlm.model import assemble as module
from agevlm.model.assemble import AssembleSettings, assemble
from tests.model.parts import CONVNEXT_ARGS, MEAN, STD, convnext_folder, llama3_tokens, llama_folder

SIDE = 96
TEXT = "USER: Is there a dog in the image? ASSISTANT:"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    return llama_folder(folder / "llama"), convnext_folder(folder / "convnext")


@pytest.fixture
def settings(parts, tmp_path) -> AssembleSettings:
    """What most tests assemble; each changes what it is about."""
    return AssembleSettings(llama=str(parts[0]), vision=str(parts[1]), out=tmp_path / "made", image_size=SIDE)


@pytest.fixture
def llama(parts, tmp_path) -> Path:
    """A copy of the LLaMA to break."""
    return Path(shutil.copytree(parts[0], tmp_path / "llama"))


@pytest.fixture
def convnext(parts, tmp_path) -> Path:
    return Path(shutil.copytree(parts[1], tmp_path / "convnext"))


def edit_json(path: Path, **changes) -> None:
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def edit_weights(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def refused(settings: AssembleSettings, *says: str) -> None:
    """It fails in one line that says so, and leaves nothing behind."""
    before = sorted(settings.out.parent.iterdir()) if settings.out.parent.is_dir() else []
    with pytest.raises(CheckpointError) as error:
        assemble(settings)
    message = str(error.value)
    assert "\n" not in message
    for part in says:
        assert part in message, message
    assert (sorted(settings.out.parent.iterdir()) if settings.out.parent.is_dir() else []) == before


def load(folder: Path, **options):
    model = AgeVlmForConditionalGeneration.from_pretrained(folder, **options).eval()
    return model, AgeVlmProcessor.from_pretrained(folder)


def picture(side: int = 80) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side + 30, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def ids(parts):
    return AutoTokenizer.from_pretrained(parts[0])(TEXT, return_tensors="pt").input_ids


FORMS = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "sharded": {"shard": "100KB"},
    "sharded, untied": {"shard": "100KB", "tie_word_embeddings": False},
    "bfloat16": {"dtype": torch.bfloat16},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "llama3 rope": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 5000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_text_alone_and_with_shut_gates_is_llama_to_the_last_bit(form, settings, tmp_path, ids):
    folder = llama_folder(tmp_path / "source", seed=3, **FORMS[form])
    assert (len(list(folder.glob("*.safetensors"))) > 1) == ("sharded" in form)
    made = assemble(replace(settings, llama=str(folder), cross_layers=(1, 4)))
    reference = LlamaForCausalLM.from_pretrained(folder).eval()
    model, processor = load(made.out)
    assert model.dtype == reference.dtype == FORMS[form].get("dtype", torch.float32)
    pixels = processor.image_processor([picture()], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = reference(ids).logits
        assert torch.equal(model(ids).logits, expected)
        assert torch.equal(model(ids, pixel_values=pixels).logits, expected)
        # The comparison can fail: open gates, or LLaMA's layers in another order.
        for layer in made.config.text_config.cross_attention_layers:
            model.model.language_model.layers[layer].attn_gate.fill_(0.5)
        assert not torch.equal(model(ids, pixel_values=pixels).logits, expected)
        assert torch.equal(model(ids).logits, expected)
        layers = model.model.language_model.layers
        layers[0], layers[2] = layers[2], layers[0]
        assert not torch.allclose(model(ids).logits, expected, atol=1e-2)


def test_the_vision_tower_is_timms(settings, parts):
    made = assemble(settings)
    model, processor = load(made.out)
    trunk = timm.create_model("convnext_atto", num_classes=10, **CONVNEXT_ARGS).eval()
    trunk.load_state_dict(load_file(parts[1] / "model.safetensors"))
    pixels = processor.image_processor([picture()], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = trunk.forward_features(pixels).flatten(2).transpose(1, 2)
        seen = model.get_image_features(pixels).last_hidden_state
    assert torch.equal(seen, expected)
    assert seen.shape == (1, 9, 24)
    assert seen.std() > 0.1


def test_stages_can_be_left_out(settings, parts):
    made = assemble(replace(settings, num_stages=3))
    assert (made.config.vision_config.stride, made.config.vision_config.hidden_size) == (16, 16)
    assert made.config.vision_config.num_visual_tokens == 36
    model, _ = load(made.out)
    source = load_file(parts[1] / "model.safetensors")
    kept = model.model.vision_tower.trunk.state_dict()
    assert all(torch.equal(kept[name], source[name]) for name in kept)
    assert not any(name.startswith("stages.3") for name in kept)


def test_new_weights_follow_the_models_own_initialisation(settings):
    made = assemble(replace(settings, visual_positions="learned", vision="random", architecture="convnext_atto"))
    weights = load_file(made.out / "model.safetensors")
    scale = made.config.text_config.initializer_range
    gates = [v for k, v in weights.items() if k.endswith("_gate")]
    assert len(gates) == 2
    assert not any(g.any() for g in gates)
    crossing = f"model.language_model.layers.{made.config.text_config.cross_attention_layers[0]}."
    for name in ("cross_attn.q_proj.weight", "cross_attn.o_proj.weight", "mlp.down_proj.weight"):
        assert weights[crossing + name].std().item() == pytest.approx(scale, rel=0.1)
    assert torch.equal(weights[crossing + "cross_attn.q_norm.weight"], torch.ones(16))
    top = made.config.initializer_range
    assert weights["model.adapter.linear_2.weight"].std().item() == pytest.approx(top, rel=0.1)
    assert weights["model.adapter.visual_positions"].std().item() == pytest.approx(top, rel=0.2)
    assert not weights["model.adapter.linear_1.bias"].any()
    assert weights["model.vision_tower.trunk.stages.0.blocks.0.gamma"].eq(1e-6).all()


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_the_same_seed_gives_the_same_bytes(settings, tmp_path):
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    first = files_of(assemble(replace(settings, out=tmp_path / "a")).out)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(5)
    assert files_of(assemble(replace(settings, out=tmp_path / "b")).out) == first
    other = files_of(assemble(replace(settings, out=tmp_path / "c", seed=1)).out)
    assert [name for name in first if other[name] != first[name]] == ["model.safetensors"]


def test_what_is_drawn_for_cross_attention_does_not_hang_on_the_vision_weights(settings, tmp_path):
    made = [
        assemble(
            replace(
                settings,
                vision=vision,
                architecture="convnext_atto" if vision == "random" else None,
                out=tmp_path / str(i),
                config=config,
            )
        )
        for i, (vision, config) in enumerate([(settings.vision, None), ("random", tmp_path / "0" / "config.json")])
    ]
    one, two = (load_file(m.out / "model.safetensors") for m in made)
    differing = {k for k in one if not torch.equal(one[k], two[k])}
    assert differing
    assert all(name.startswith("model.vision_tower.") for name in differing)


def test_the_files_are_whole_and_nothing_else(settings):
    made = assemble(settings)
    names = {p.name for p in made.out.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [p for p in made.out.parent.iterdir() if p.name.startswith(".")]
    assert made.bytes_written <= (made.out / "model.safetensors").stat().st_size < made.bytes_written + 20_000
    config = json.loads((made.out / "config.json").read_text())
    assert config["model_type"] == "age_vlm"
    assert config["architectures"] == ["AgeVlmForConditionalGeneration"]
    assert (config["dtype"], config["text_config"]["dtype"]) == ("float32", "float32")
    assert "lm_head.weight" not in load_file(made.out / "model.safetensors")


def test_generation_is_greedy_and_ends_where_llama_or_the_template_ends(settings, llama):
    generation = GenerationConfig.from_pretrained(assemble(settings).out)
    assert generation.to_diff_dict().keys() <= {"eos_token_id", "pad_token_id", "do_sample", "transformers_version"}
    assert generation.eos_token_id == [2, 7]
    assert generation.pad_token_id == 3
    assert not generation.do_sample
    llama3_tokens(llama)
    tokenizer = AutoTokenizer.from_pretrained(llama)
    eot, pad = tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|finetune_right_pad_id|>"])
    made = assemble(replace(settings, llama=str(llama), out=settings.out.with_name("other")))
    generation = GenerationConfig.from_pretrained(made.out)
    assert generation.eos_token_id == sorted([2, 7, eot])
    assert generation.pad_token_id == pad


def test_the_processor_stands_beside_the_model(settings):
    made = assemble(replace(settings, resize="crop"))
    model, processor = load(made.out)
    images = processor.image_processor
    assert (images.image_size, images.stride, images.resize_mode) == (SIDE, 32, "crop")
    assert tuple(images.image_mean) == pytest.approx(MEAN)
    assert tuple(images.image_std) == pytest.approx(STD)
    assert processor.tokenizer.padding_side == "left"
    assert "{%- generation -%}" in processor.chat_template
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a dog?"}]}]
    prompt = processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    inputs = processor(images=[picture()], text=[prompt], return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, SIDE, SIDE)
    assert model.generate(**inputs, max_new_tokens=3).shape[1] > inputs["input_ids"].shape[1]


def test_concat_takes_the_tokenizers_image_token(settings, llama):
    made = assemble(replace(settings, fusion="concat"))
    model, processor = load(made.out)
    assert (processor.fusion, processor.image_token, made.image_token) == ("concat", "<image>", "<image>")
    assert model.config.image_token_id == processor.tokenizer.convert_tokens_to_ids("<image>")
    assert model.config.text_config.cross_attention_layers == []
    inputs = processor(images=[picture()], text=["<image>What?"], return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 9
    with torch.no_grad():
        assert model(**inputs).logits.isfinite().all()

    llama3_tokens(llama, "<|reserved_special_token_0|>")
    made = assemble(replace(settings, llama=str(llama), fusion="concat", out=settings.out.with_name("reserved")))
    _, processor = load(made.out)
    assert processor.image_token == "<|reserved_special_token_0|>"
    assert made.config.image_token_id == processor.tokenizer.convert_tokens_to_ids("<|reserved_special_token_0|>")

    llama3_tokens(llama)
    refused(
        replace(settings, llama=str(llama), fusion="concat", out=settings.out.with_name("none")),
        "add_tokens(['<image>'], special_tokens=True)",
        "resize_token_embeddings",
    )


def test_concat_is_llama_to_the_last_bit_too(settings, parts, ids):
    model, _ = load(assemble(replace(settings, fusion="concat")).out)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, LlamaForCausalLM.from_pretrained(parts[0]).eval()(ids).logits)


def test_auto_keeps_every_weights_own_dtype_and_another_casts_all(settings, tmp_path):
    folder = llama_folder(tmp_path / "half", dtype=torch.bfloat16)
    made = assemble(replace(settings, llama=str(folder)))
    stored = load_file(made.out / "model.safetensors")
    crossing = {f"model.language_model.layers.{i}." for i in made.config.text_config.cross_attention_layers}
    for name, tensor in stored.items():
        own = name.startswith("model.language_model.") and not any(name.startswith(c) for c in crossing)
        assert tensor.dtype == (torch.bfloat16 if own else torch.float32), name
    assert load(made.out)[0].dtype == torch.bfloat16
    wide = load(made.out, dtype=torch.float32)[0].state_dict()
    assert all(torch.equal(wide[name], tensor.float()) for name, tensor in stored.items())
    made = assemble(replace(settings, llama=str(folder), dtype="float32", out=tmp_path / "wide"))
    assert {t.dtype for t in load_file(made.out / "model.safetensors").values()} == {torch.float32}
    assert load(made.out)[0].dtype == torch.float32
    made = assemble(replace(settings, dtype="bfloat16", out=tmp_path / "narrow"))
    config = json.loads((made.out / "config.json").read_text())
    assert [c["dtype"] for c in (config, config["text_config"], config["vision_config"])] == ["bfloat16"] * 3
    assert {t.dtype for t in load_file(made.out / "model.safetensors").values()} == {torch.bfloat16}
    assert load(made.out)[0].dtype == torch.bfloat16


def test_big_checkpoints_are_sharded_and_load(settings, monkeypatch, tmp_path):
    whole = load_file(assemble(settings).out / "model.safetensors")
    monkeypatch.setattr(module, "SHARD_BYTES", 100_000)
    made = assemble(replace(settings, out=tmp_path / "sharded"))
    shards = sorted(made.out.glob("*.safetensors"))
    assert len(shards) > 3
    together = {}
    for path in shards:
        part = load_file(path)
        assert not together.keys() & part.keys()
        assert len(part) == 1 or sum(t.nbytes for t in part.values()) <= 100_000
        together |= part
    assert together.keys() == whole.keys()
    assert all(torch.equal(together[k], whole[k]) for k in whole)
    index = json.loads((made.out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == made.bytes_written
    assert index["weight_map"].keys() == whole.keys()


# --- what is refused: the language model


def test_a_llama_that_is_none(settings, llama, tmp_path):
    refused(replace(settings, llama=str(tmp_path / "nowhere")), "no such folder")
    edit_json(llama / "config.json", model_type="mistral")
    refused(replace(settings, llama=str(llama)), "model_type 'mistral'", "built on a LLaMA")
    edit_json(llama / "config.json", model_type="llama", quantization_config={"bits": 4})
    refused(replace(settings, llama=str(llama)), "quantised")
    (llama / "config.json").unlink()
    refused(replace(settings, llama=str(llama)), "no config.json")


def test_pickled_llamas_are_refused_unopened(settings, llama):
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    refused(replace(settings, llama=str(llama)), "pickled", "refused")


def test_llama_weights_that_are_missing_too_many_or_of_another_shape(settings, llama):
    path, name = llama / "model.safetensors", "model.layers.2.mlp.up_proj.weight"
    whole = path.read_bytes()
    at = replace(settings, llama=str(llama))
    edit_weights(path, lambda t: t.pop(name))
    refused(at, "1 weights are missing", name)
    path.write_bytes(whole)
    edit_weights(path, lambda t: t.update({"model.layers.4.mlp.up_proj.weight": t[name].clone()}))
    refused(at, "1 weights are unexpected", "model.layers.4.mlp.up_proj.weight")
    path.write_bytes(whole)
    edit_weights(path, lambda t: t.update({name: t[name][:-1].contiguous()}))
    refused(at, name, "(95, 64)", "(96, 64)")
    path.write_bytes(whole)
    edit_weights(path, lambda t: t.update({name: t[name].to(torch.int8)}))
    refused(at, name, "I8", "quantised")
    path.write_bytes(whole[:2000])
    refused(at, "model.safetensors", "fetch it again")
    path.write_bytes(whole)
    edit_json(llama / "config.json", num_hidden_layers=3)
    refused(at, "unexpected", "model.layers.3.")


def test_a_tied_head_that_is_stored_must_be_the_embeddings(settings, llama):
    path = llama / "model.safetensors"
    edit_weights(path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assemble(replace(settings, llama=str(llama)))
    edit_weights(path, lambda t: t["lm_head.weight"].mul_(2))
    refused(
        replace(settings, llama=str(llama), out=settings.out.with_name("b")), "tie_word_embeddings", "lm_head.weight"
    )


def test_an_untied_llama_without_its_head_is_refused(settings, tmp_path):
    folder = llama_folder(tmp_path / "untied", tie_word_embeddings=False)
    edit_weights(folder / "model.safetensors", lambda t: t.pop("lm_head.weight"))
    refused(replace(settings, llama=str(folder)), "missing", "lm_head.weight")


def test_rotary_frequencies_of_old_checkpoints_are_left_out(settings, llama):
    edit_weights(
        llama / "model.safetensors",
        lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}),
    )
    assemble(replace(settings, llama=str(llama)))


def test_a_missing_shard_and_a_missing_or_foreign_tokenizer(settings, tmp_path, llama):
    folder = llama_folder(tmp_path / "sharded", shard="100KB")
    next(iter(sorted(folder.glob("*.safetensors")))).unlink()
    refused(replace(settings, llama=str(folder)), "weight files are missing")
    shutil.copy(llama / "tokenizer.json", tmp_path / "kept.json")
    (llama / "tokenizer.json").unlink()
    refused(replace(settings, llama=str(llama)), "no tokenizer")
    shutil.copy(tmp_path / "kept.json", llama / "tokenizer.json")
    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.add_tokens([f"<{i}>" for i in range(30)])
    tokenizer.save_pretrained(llama)
    refused(replace(settings, llama=str(llama)), "embeddings", "408")


# --- what is refused: the vision tower


def test_a_bare_file_needs_its_architecture(settings, tmp_path):
    torch.manual_seed(0)
    atto = timm.create_model("convnext_atto", num_classes=3)
    path = tmp_path / "weights.safetensors"
    save_file(atto.state_dict(), path)
    refused(replace(settings, vision=str(path)), "--architecture")
    made = assemble(replace(settings, vision=str(path), architecture="convnext_atto.d2_in1k"))
    assert made.config.vision_config.architecture == "convnext_atto"
    assert made.image_mean == pytest.approx((0.485, 0.456, 0.406))
    name = "model.vision_tower.trunk.stages.3.blocks.0.mlp.fc1.weight"
    stored = load_file(made.out / "model.safetensors")[name]
    assert torch.equal(stored, atto.state_dict()["stages.3.blocks.0.mlp.fc1.weight"])
    other = replace(settings, vision=str(path), out=tmp_path / "other")
    refused(
        replace(other, architecture="convnext_femto"), "a ConvNeXt whose width does not fit", "stem.0.weight",
        "(40, 3, 4, 4)", "(48, 3, 4, 4)",
    )  # fmt: skip
    refused(replace(other, architecture="convnext_nonsense"), "timm has no model 'convnext_nonsense'")
    refused(replace(other, architecture="convnext_atto.nonsense"), "timm knows no pretrained", "d2_in1k")


def test_pickled_vision_weights_are_refused_unopened(settings, convnext, tmp_path):
    pickle = tmp_path / "weights.pth"
    pickle.write_bytes(b"no pickle at all")
    refused(replace(settings, vision=str(pickle), architecture="convnext_atto"), "pickle", "refused")
    (convnext / "model.safetensors").rename(convnext / "pytorch_model.bin")
    refused(replace(settings, vision=str(convnext)), "pickled", "refused")


def test_vision_weights_that_are_missing_too_many_or_of_another_shape(settings, convnext):
    path, name = convnext / "model.safetensors", "stages.2.blocks.1.mlp.fc1.weight"
    whole = path.read_bytes()
    at = replace(settings, vision=str(convnext))
    edit_weights(path, lambda t: t.pop(name))
    refused(at, "1 weights are missing", name)
    path.write_bytes(whole)
    edit_weights(path, lambda t: t.update({"stages.2.blocks.9.gamma": torch.ones(16)}))
    refused(at, "1 weights are unexpected", "stages.2.blocks.9.gamma")
    refused(replace(at, num_stages=3), "unexpected")
    path.write_bytes(whole)
    edit_json(convnext / "config.json", model_args={**CONVNEXT_ARGS, "dims": [8, 12, 16, 32]})
    refused(at, "a ConvNeXt whose width does not fit convnext_atto", "(24,", "(32,")


def test_a_vision_folder_that_is_not_timms(settings, convnext):
    at = replace(settings, vision=str(convnext))
    refused(replace(at, architecture="convnext_femto"), "says convnext_atto", "convnext_femto")
    declared = json.loads((convnext / "config.json").read_text())
    pretrained = {k: v for k, v in declared["pretrained_cfg"].items() if k != "mean"}
    edit_json(convnext / "config.json", pretrained_cfg=pretrained)
    refused(at, "no mean and std")
    edit_json(convnext / "config.json", architecture=..., model_type="convnext")
    refused(at, "not timm's form")


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("convnext_atto.d2_in1k", "timm/convnext_atto.d2_in1k"),
        ("convnext_large_mlp.clip_laion2b_soup_ft_in12k_in1k_384", None),
        ("some/convnext@v1", "some/convnext"),
    ],
)
def test_timm_names_and_hub_ids_are_fetched_without_pickles(name, repository, settings, parts, monkeypatch):
    asked = {}

    def stand_in(repo, revision=None, allow_patterns=None):
        asked.update(repo=repo, revision=revision, patterns=allow_patterns)
        return str(parts[1])

    monkeypatch.setattr("huggingface_hub.snapshot_download", stand_in)
    made = assemble(replace(settings, vision=name))
    assert asked["repo"] == (repository or f"timm/{name}")
    assert asked["revision"] == ("v1" if "@" in name else None)
    assert not any(p.endswith((".bin", ".pth", ".pt", ".py", "*")) for p in asked["patterns"])
    assert made.image_mean == pytest.approx(MEAN)


def test_unknown_timm_names_and_an_unreachable_hub(settings, monkeypatch):
    refused(replace(settings, vision="convnext_nonsense"), "timm has no model of that name")
    refused(replace(settings, vision="convnext_atto.nonsense"), "timm knows no pretrained", "d2_in1k")

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    refused(replace(settings, vision="convnext_atto.d2_in1k"), "the hub did not give it", "no network")
    refused(replace(settings, llama="org/llama"), "the hub did not give it", "no network")


# --- what is refused: settings


@pytest.mark.parametrize(
    ("layers", "says"),
    [((0, 3), "layer 0"), ((1, 1), "twice"), ((2, 9), "[9] lie outside"), ((-1,), "[-1] lie outside")],
)
def test_cross_layers_that_make_no_stack(layers, says, settings):
    refused(replace(settings, cross_layers=layers), "cross_attention_layers", says)


def test_other_settings_that_make_no_model(settings):
    refused(replace(settings, image_size=100), "100", "stride 32", "96")
    refused(replace(settings, num_stages=9), "num_stages 9")
    refused(replace(settings, fusion="concat", cross_layers=(2,)), "--cross-layers")
    refused(replace(settings, fusion="concat", mask_padding=True), "mask_padding")
    refused(replace(settings, chat_template="{{ nonsense("), "processor")
    refused(replace(settings, chat_template="no image here"), "<image> 0 times")


def test_a_config_is_followed_where_everything_fits(settings, tmp_path):
    first = assemble(replace(settings, cross_layers=(1, 3), adapter="linear", cross_mlp=False, num_stages=2))
    again = assemble(
        AssembleSettings(settings.llama, settings.vision, tmp_path / "again", config=first.out / "config.json")
    )
    assert files_of(again.out) == files_of(first.out)
    assert again.config.text_config.cross_attention_layers == [1, 3]
    other_ends = llama_folder(tmp_path / "other", eos_token_id=9)
    made = assemble(
        replace(settings, llama=str(other_ends), config=first.out / "config.json", adapter="linear", out=tmp_path / "b")
    )
    assert (first.config.text_config.eos_token_id, made.config.text_config.eos_token_id) == (2, 9)


def test_every_field_that_does_not_fit_a_config_is_named_with_both_values(settings, tmp_path):
    config = assemble(settings).out / "config.json"
    other = llama_folder(
        tmp_path / "other", hidden_size=32, num_hidden_layers=5, tie_word_embeddings=False, rms_norm_eps=1e-5
    )
    wider = convnext_folder(tmp_path / "wider", dims=[8, 12, 16, 32])
    bad = replace(settings, llama=str(other), vision=str(wider), config=config, out=tmp_path / "out", adapter="linear")
    refused(
        bad,
        "num_hidden_layers is 4 there, 5 in LLaMA",
        "hidden_size is 64 there, 32 in LLaMA",
        "head_dim is 16 there, 8 in LLaMA",
        "rms_norm_eps is 1e-06 there, 1e-05 in LLaMA",
        "tie_word_embeddings is True there, False in LLaMA",
        "hidden_size is 24 there, 32 in vision",
        "adapter is mlp there, linear in the command line",
    )
    refused(replace(bad, config=other / "config.json"), "model_type is 'llama'")
    refused(replace(bad, config=tmp_path / "none.json"), "cannot read")


# --- writing


def test_what_stands_at_out_stays_unless_it_may_go(settings, parts):
    settings.out.mkdir()
    refused(settings, "exists already", "--force")
    refused(replace(settings, force=True), "is no AGE-VLM checkpoint")
    refused(replace(settings, out=parts[0], force=True), "is no AGE-VLM checkpoint")
    # One of a checkpoint's files is not the checkpoint.
    refused(replace(settings, out=parts[0] / "config.json", force=True), "is a file")
    settings.out.rmdir()
    first = files_of(assemble(settings).out)
    refused(settings, "exists already")
    (settings.out / "notes.txt").write_text("old")
    assemble(replace(settings, force=True, seed=1))
    second = files_of(settings.out)
    assert "notes.txt" not in second
    assert second["model.safetensors"] != first["model.safetensors"]
    assert [p.name for p in settings.out.parent.iterdir()] == ["made"]


def fail_at_save(monkeypatch, error: BaseException) -> None:
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(module, "save_file", fail)


def test_a_full_disk_is_said_and_leaves_what_was_there(settings, monkeypatch):
    first = files_of(assemble(settings).out)
    again = replace(settings, force=True, seed=1)
    fail_at_save(monkeypatch, SafetensorError("Error while serializing: I/O error: No space left (os error 28)"))
    refused(again, "no room left on the disk")
    fail_at_save(monkeypatch, OSError(28, "No space left on device"))
    refused(again, "no room left on the disk")
    fail_at_save(monkeypatch, PermissionError(13, "Permission denied"))
    refused(again, "cannot be written", "Permission denied")
    usage = shutil.disk_usage(settings.out.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    refused(again, "are free there")
    assert files_of(settings.out) == first


def test_an_interrupted_run_leaves_nothing_under_the_name(settings, monkeypatch):
    fail_at_save(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        assemble(settings)
    assert not list(settings.out.parent.iterdir())


def test_a_killed_run_leaves_no_folder_that_looks_whole(settings, monkeypatch):
    child = os.fork()
    if not child:
        # Die as kill -9 would have it, when all but the configuration is written.
        module.AgeVlmConfig.save_pretrained = lambda *_: os._exit(9)
        assemble(settings)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not settings.out.exists()
    (left,) = settings.out.parent.iterdir()
    assert left.name.startswith(".made.unfinished-")
    assert (left / "model.safetensors").is_file()
    assert not (left / "config.json").exists()
    assemble(settings)


def test_what_does_not_load_as_written_is_never_put_in_place(settings, monkeypatch):
    name = "model.adapter.linear_1.weight"

    def save_changed(change):
        monkeypatch.setattr(
            module, "save_file", lambda t, path, metadata: save_file(change(t), path, metadata=metadata)
        )

    save_changed(lambda tensors: tensors | {name: tensors[name] + 1})
    refused(settings, f"{name} loads with other values")
    save_changed(lambda tensors: {k: v for k, v in tensors.items() if "adapter" not in k})
    refused(settings, "does not load", "model.adapter.linear_1")
    assert not assemble(replace(settings, verify=False)).verified
