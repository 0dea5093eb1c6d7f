"""Checkpoints that cannot be used end in a CheckpointError that says why; odd but sound ones work."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaConfig, LlavaForConditionalGeneration, MistralConfig, Qwen2Config

from agevlm.checkpoints.tiny import TinyLlava, build_model, build_processor
from agevlm.errors import CheckpointError
from agevlm.vlm import Ask
from agevlm.vlm.choice import ModelChoice
from agevlm.vlm.contract import Fingerprint
from agevlm.vlm.hf import prompts
from agevlm.vlm.hf.checkpoint import find_checkpoint
from agevlm.vlm.hf.reference import find_flips, plain_generate
from agevlm.vlm.hf.session import HfVlm
from tests.vlm.conftest import AGE_VLM, KINDS, asks_about


def load(folder, **settings):
    return HfVlm.load(folder, device="cpu", **settings)


def without(folder, *names):
    for name in names:
        (folder / name).unlink()
    return folder


def edit_weights(folder, edit):
    path = folder / "model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def pickled(folder):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was loaded",))

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    return without(folder, "model.safetensors")


def sharded(folder, *, lose):
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, half in halves.items():
        save_file({n: weights[n] for n in half}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: file for file, half in halves.items() for n in half}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return without(folder, "model.safetensors", *(["model-00002-of-00002.safetensors"] if lose else []))


def written(folder, name, text):
    (folder / name).write_text(text)
    return folder


def edited(folder, name, **entries):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    return folder


BROKEN = {
    "no config": (lambda f: without(f, "config.json"), "no config.json"),
    "damaged config": (lambda f: written(f, "config.json", "{"), "cannot read"),
    "config without a type": (lambda f: written(f, "config.json", "{}"), "no model_type"),
    "unknown type": (
        lambda f: edited(f, "config.json", model_type="llava_next_next"),
        "'llava_next_next' is no image-text-to-text model that transformers .* knows; a newer version may",
    ),
    "no weights": (lambda f: without(f, "model.safetensors"), "no weights"),
    "pickled weights": (pickled, r"pickled \(pytorch_model.bin\).*refused"),
    "a missing shard": (lambda f: sharded(f, lose=True), "1 of 2 weight files are missing, first model-00002"),
    "a damaged index": (lambda f: written(f, "model.safetensors.index.json", "[]"), "cannot read"),
    "truncated weights": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]) and f,
        "cannot load",
    ),
    "a missing weight": (
        lambda f: edit_weights(f, lambda w: w.pop(next(n for n in w if n.endswith("layers.1.mlp.up_proj.weight")))),
        "1 missing keys.*layers.1.mlp.up_proj",
    ),
    "an unexpected weight": (
        lambda f: edit_weights(f, lambda w: w.update({"extra.weight": torch.zeros(2)})),
        "1 unexpected keys.*extra.weight",
    ),
    "a weight of another shape": (
        lambda f: edited(f, "config.json", text_config=json.loads((f / "config.json").read_text())["text_config"]
                         | {"intermediate_size": 96}),
        "cannot load|mismatched",
    ),
    "no processor at all": (
        lambda f: without(f, "processor_config.json", "tokenizer.json", "tokenizer_config.json"),
        "processor",
    ),
    "a tokenizer only": (lambda f: without(f, "processor_config.json"), "processor"),
    "an image processor only": (lambda f: without(f, "tokenizer.json", "tokenizer_config.json"), "processor"),
    "no chat template": (lambda f: without(f, "chat_template.jinja"), "no chat template.*--chat-template"),
    "a template that fails": (
        lambda f: written(f, "chat_template.jinja", "{{ raise_exception('no') }}"),
        "template fails",
    ),
    "a damaged template": (lambda f: written(f, "chat_template.jinja", "{% for %}"), "template fails"),
    "a template for plain strings": (
        lambda f: written(f, "chat_template.jinja", "{% for m in messages %}{{ m['content'] }}{% endfor %}"),
        "does not take a list",
    ),
    "a template that concatenates strings": (
        lambda f: written(f, "chat_template.jinja", "{% for m in messages %}{{ 'U: ' + m['content'] }}{% endfor %}"),
        "template fails",
    ),
    "a template that forgets the image": (
        lambda f: written(f, "chat_template.jinja", "{% for p in messages[0]['content'] %}{{ p['text'] }}{% endfor %}"),
        "0 image placeholders",
    ),
    "a template that always shows an image": (
        lambda f: written(f, "chat_template.jinja", "<image>{{ messages[0]['content'][-1]['text'] }}"),
        "1 image placeholders.*without an image",
    ),
    "a template that loses the question": (
        lambda f: written(f, "chat_template.jinja", "{% if messages[0]['content'] | length > 1 %}<image>{% endif %}A:"),
        "does not take",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_checkpoint_that_cannot_be_used_is_refused_by_name(copy_of, case):
    damage, message = BROKEN[case]
    folder = damage(copy_of())
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value)


OF_AGE_VLM = [
    "damaged config",
    "no weights",
    "pickled weights",
    "a missing shard",
    "truncated weights",
    "a missing weight",
    "an unexpected weight",
    "a weight of another shape",
    "no processor at all",
    "a tokenizer only",
    "an image processor only",
    "a damaged template",
    "a template that forgets the image",
    "a template that always shows an image",
]


@pytest.mark.parametrize("kind", ["age_vlm", "age_vlm_concat"])
@pytest.mark.parametrize("case", OF_AGE_VLM)
def test_an_age_vlm_that_cannot_be_used_is_refused_by_name_in_one_line(copy_of, kind, case):
    damage, message = BROKEN[case]
    folder = damage(copy_of(kind=kind))
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", ["a missing weight", "an unexpected weight"])
def test_a_refused_age_vlm_is_named_once(copy_of, case):
    folder = BROKEN[case][0](copy_of(kind="age_vlm"))
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert str(caught.value).count(str(folder)) == 1


@pytest.mark.parametrize("name", ["cross_attn.k_proj.weight", "attn_gate", "adapter.linear_1.bias", "stages.0.blocks"])
@pytest.mark.parametrize("edit", ["missing", "unexpected"])
def test_every_part_of_an_age_vlm_has_all_its_weights_and_no_others(copy_of, name, edit):
    def change(weights):
        found = next(n for n in sorted(weights) if name in n)
        if edit == "missing":
            weights.pop(found)
        else:
            weights[found + "_old"] = torch.zeros(2)

    with pytest.raises(CheckpointError, match=f"1 {edit} keys in the weights, first .*{name}"):
        load(edit_weights(copy_of(kind="age_vlm"), change))


@pytest.mark.parametrize("case", ["unknown type", "pickled weights", "a missing shard"])
def test_the_fingerprint_already_refuses_what_could_not_be_loaded(copy_of, case):
    damage, message = BROKEN[case]
    with pytest.raises(CheckpointError, match=message):
        ModelChoice(str(damage(copy_of()))).fingerprint()


def test_names_that_are_neither_folder_nor_hub_id_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for name, message in [
        (str(tmp_path / "nowhere"), "no such folder"),
        ("nowhere", "no such folder"),
        (str(tmp_path / "file"), "is a file"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            ModelChoice(name).load()


def test_a_hub_id_that_cannot_be_fetched_says_so(monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("no network\nmore")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(CheckpointError, match=r"org/name@main.*ConnectionError: no network"):
        find_checkpoint("org/name@main")


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "meta"])
def test_a_device_that_is_not_there_is_refused(checkpoint, device):
    with pytest.raises(CheckpointError, match=f"device {device}"):
        HfVlm.load(checkpoint(), device=device)


def test_a_model_that_does_not_fit_on_its_device_is_a_checkpoint_error(checkpoint, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(LlavaForConditionalGeneration, "to", full)
    with pytest.raises(CheckpointError, match="cannot move to device cpu: CUDA out of memory"):
        load(checkpoint())


def assert_plain(model, pictures, tokens=8):
    """Answers equal plain generation, with two images and blind; prompts differ in length."""
    encoded = model.encode(pictures)
    for image in (0, 1, None):
        asks = asks_about(image, tokens)
        replies = model.answer(encoded, asks)
        assert find_flips(model, None if image is None else pictures[image], asks, replies) == []
    return replies


@pytest.mark.parametrize("kind", ["llava", "age_vlm"])
def test_a_sharded_checkpoint_loads_and_answers_alike(copy_of, vlm, pictures, kind):
    model = load(sharded(copy_of(kind=kind), lose=False))
    expected = vlm(kind).answer(vlm(kind).encode(pictures[:1]), asks_about(0))
    assert [r.token_ids for r in model.answer(model.encode(pictures[:1]), asks_about(0))] == [
        r.token_ids for r in expected
    ]


def test_constants_that_old_checkpoints_stored_are_not_unexpected_weights(copy_of, pictures):
    extra = {
        "model.vision_tower.embeddings.position_ids": torch.arange(17)[None],
        "model.language_model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8),
    }
    assert_plain(load(edit_weights(copy_of(), lambda w: w.update(extra))), pictures)


def test_a_tied_output_layer_loads_and_answers_as_plain_generation(tmp_path, pictures):
    sizes = TinyLlava()
    processor = build_processor(sizes)
    config = build_model(sizes, processor, 0).config
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert not any("lm_head" in name for name in load_file(tmp_path / "model.safetensors"))
    model = load(tmp_path)
    assert model.model.lm_head.weight.data_ptr() == model.model.get_input_embeddings().weight.data_ptr()
    assert_plain(model, pictures)


COMMON = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 400,
    "initializer_range": 0.15,
}
TEXTS = {
    "a sliding window shorter than the prompt": MistralConfig(sliding_window=12, **COMMON),
    "sliding and full layers": Qwen2Config(use_sliding_window=True, sliding_window=12, max_window_layers=1, **COMMON),
    "Qwen2": Qwen2Config(**COMMON),
}


@pytest.mark.parametrize("case", TEXTS)
def test_other_language_models_answer_as_plain_generation(pictures, case):
    sizes = TinyLlava()
    processor = build_processor(sizes)
    shape = build_model(sizes, processor, 0).config
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=shape.vision_config, text_config=TEXTS[case], image_token_index=4)
    network = LlavaForConditionalGeneration(config).eval()
    network.generation_config.eos_token_id = 2
    assert_plain(HfVlm(network, processor, Fingerprint("", {})), pictures, tokens=16)


def test_a_sliding_window_that_is_reached_only_while_answering_is_respected(pictures):
    sizes = TinyLlava()
    processor = build_processor(sizes)
    shape = build_model(sizes, processor, 0).config
    torch.manual_seed(0)
    longest = len(processor.tokenizer(prompts.render(processor, "What? " * 12, with_image=False))["input_ids"])
    text = MistralConfig(sliding_window=longest + 2, **COMMON)
    config = LlavaConfig(vision_config=shape.vision_config, text_config=text, image_token_index=4)
    model = HfVlm(LlavaForConditionalGeneration(config).eval(), processor, Fingerprint("", {}))
    asks = [Ask("What? " * 12, None, 40), Ask("?", None, 40), Ask("Is there a dog?", None, 40)]
    replies = model.answer(model.encode([]), asks)
    assert find_flips(model, None, asks, replies) == []


def test_the_sliding_window_of_the_fixture_matters(pictures):
    sizes = TinyLlava()
    processor = build_processor(sizes)
    shape = build_model(sizes, processor, 0).config
    answers = []
    for window in (12, None):
        torch.manual_seed(0)
        text = MistralConfig(sliding_window=window, **COMMON)
        config = LlavaConfig(vision_config=shape.vision_config, text_config=text, image_token_index=4)
        model = HfVlm(LlavaForConditionalGeneration(config).eval(), processor, Fingerprint("", {}))
        answers.append([r.token_ids for r in model.answer(model.encode(pictures[:1]), asks_about(0))])
    assert answers[0] != answers[1]


@pytest.mark.parametrize("kind", ["llava", "age_vlm_mask"])
def test_the_tokenizers_padding_side_and_missing_pad_token_do_not_matter(copy_of, vlm, pictures, kind):
    folder = copy_of(
        kind=kind,
        tokenizer_config={"padding_side": "right", "pad_token": None},
        generation_config={"pad_token_id": None},
    )
    model = load(folder)
    assert model.tokenizer.pad_token is None
    assert model.tokenizer.padding_side == "right"
    expected = vlm(kind).answer(vlm(kind).encode(pictures), asks_about(1))
    assert [r.token_ids for r in model.answer(model.encode(pictures), asks_about(1))] == [r.token_ids for r in expected]
    assert_plain(model, pictures)


def test_a_processor_without_a_patch_size_still_gets_one_placeholder_per_feature(copy_of, vlm, pictures):
    # Checkpoints of early 2024 have none; their own processor cannot expand placeholders any more.
    model = load(copy_of(processor_config={"patch_size": None, "num_additional_image_tokens": 0}))
    expected = vlm().answer(vlm().encode(pictures), asks_about(1))
    assert [r.token_ids for r in model.answer(model.encode(pictures), asks_about(1))] == [r.token_ids for r in expected]


def test_a_config_whose_image_token_is_not_the_tokenizers_is_refused(copy_of, pictures):
    model = load(copy_of(config={"image_token_index": 5}))
    with pytest.raises(CheckpointError, match=r"0 image placeholders.*for 16 visual tokens"):
        model.answer(model.encode(pictures[:1]), asks_about(0))


def test_full_features_with_the_class_token_answer_as_plain_generation(copy_of, pictures):
    strategy = {"vision_feature_select_strategy": "full"}
    model = load(copy_of(config=strategy, processor_config=strategy))
    assert len(model.encode(pictures[:1]).features[0]) == 17
    assert_plain(model, pictures)


def test_padding_to_a_square_answers_as_plain_generation(pictures):
    sizes = TinyLlava(padding=True)
    processor = build_processor(sizes)
    assert processor.image_processor.do_pad
    assert_plain(HfVlm(build_model(sizes, processor, 3), processor, Fingerprint("", {})), pictures)


SETTINGS = {
    "repetition_penalty": 1.8,
    "no_repeat_ngram_size": 1,
    "min_new_tokens": 7,
    "bad_words_ids": [[148], [53]],
    "suppress_tokens": list(range(5, 200)),
    "begin_suppress_tokens": list(range(5, 300)),
    "forced_bos_token_id": 9,
    "forced_eos_token_id": 9,
    "sequence_bias": [[[148], -50.0], [[293], -50.0]],
    "exponential_decay_length_penalty": [1, 1.9],
    "guidance_scale": 3.0,
}


ABOUT_ENDS = {"min_new_tokens", "forced_bos_token_id"}
"""These bite only where an answer would end early, or where a prompt is one token."""


@pytest.mark.parametrize(
    ("kind", "name"),
    [*(("llava", n) for n in SETTINGS), ("age_vlm", "repetition_penalty"), ("age_vlm", "suppress_tokens")],
)
def test_a_generation_setting_that_bends_the_logits_is_ignored_and_reported(copy_of, vlm, pictures, kind, name):
    model = load(copy_of(kind=kind, generation_config={name: SETTINGS[name]}))
    reported = model.describe()["generation_settings_ignored"]
    assert list(reported) == [name]
    encoded = model.encode(pictures)
    replies = model.answer(encoded, asks_about(0))
    expected = vlm(kind).answer(vlm(kind).encode(pictures), asks_about(0))
    assert [r.token_ids for r in replies] == [r.token_ids for r in expected]
    assert find_flips(model, pictures[0], asks_about(0), replies) == []


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - ABOUT_ENDS))
def test_each_other_setting_would_have_changed_the_checkpoints_own_greedy_answers(copy_of, pictures, name):
    model = load(copy_of(generation_config={name: SETTINGS[name]}))
    changed = []
    for ask in asks_about(0):
        text = prompts.render(model.processor, ask.prompt, with_image=True)
        inputs = model.processor(text=text, images=pictures[0], return_tensors="pt")
        own = model.model.generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
        changed.append(tuple(own.tolist()) != plain_generate(model, pictures[0], ask)[0])
    assert any(changed)


def test_sampling_and_beam_settings_change_nothing(copy_of, pictures):
    model = load(copy_of(generation_config={"do_sample": True, "temperature": 3.0, "top_k": 50, "num_beams": 4}))
    assert model.describe()["generation_settings_ignored"] == {}
    assert_plain(model, pictures)


def test_every_end_token_of_a_list_ends_an_answer(copy_of, vlm, pictures):
    free = vlm().answer(vlm().encode(pictures), asks_about(0))
    ends = [2, free[0].token_ids[2], free[1].token_ids[0]]
    model = load(copy_of(generation_config={"eos_token_id": ends}))
    assert model.describe()["end_token_ids"] == sorted(ends)
    replies = model.answer(model.encode(pictures), asks_about(0))
    assert replies[0].stop == replies[1].stop == "eos"
    assert len(replies[0].token_ids) <= 3
    assert len(replies[1].token_ids) == 1
    assert_plain(model, pictures)


def test_without_an_end_token_in_the_generation_config_the_tokenizers_ends_answers(copy_of, pictures):
    folder = copy_of(generation_config={"eos_token_id": None})
    model = load(folder)
    assert model.end_ids == {model.tokenizer.eos_token_id}
    assert_plain(model, pictures)


@pytest.mark.parametrize("kind", KINDS)
def test_describe_names_what_a_manifest_needs(vlm, kind):
    facts = vlm(kind, 0, dtype="bfloat16").describe()
    assert facts["adapter"] == ("native" if kind in AGE_VLM else "hf")
    assert facts["dtype"] == "bfloat16"
    assert facts["device"] == "cpu"
    assert facts["model_type"] == ("age_vlm" if kind in AGE_VLM else kind)
    assert facts["generation_settings_ignored"] == {}
    assert set(facts["candidate_token_ids"]) == {"yes", "no"}
    json.dumps(facts)


@pytest.mark.parametrize("kind", ["llava", "age_vlm"])
def test_a_checkpoint_chosen_by_name_answers_like_one_loaded_directly(checkpoint, vlm, pictures, kind):
    model = ModelChoice(str(checkpoint(kind)), device="cpu", batch_size=2).load()
    ask, known = Ask("Is there a dog?", 0, 4), vlm(kind)
    assert model.answer(model.encode(pictures[:1]), [ask])[0].token_ids == plain_generate(known, pictures[0], ask)[0]
    assert model.fingerprint == ModelChoice(str(checkpoint(kind))).fingerprint() == known.fingerprint
    model.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_stands_before_the_question_in_the_prompt(vlm, kind):
    text = prompts.render(vlm(kind).processor, "Is there a dog?", with_image=True)
    assert "".join(text.split()) == "USER:<image>Isthereadog?ASSISTANT:"
