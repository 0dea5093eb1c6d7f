"""Texts without image, beside the base model: against transformers' own loss, and planted differences."""

import math
import shutil

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer, LlamaForCausalLM

from agevlm.errors import DataError
from agevlm.vlm.choice import ModelChoice
from analysis.failure_signs import language
from analysis.failure_signs.language import Loss, Spoken, base_losses, language_sign, losses, speak
from train.language import TEXTS, language_reference, save_reference

SETTINGS = {"draws": 200, "seed": 0}


@pytest.fixture(scope="module")
def llava(checkpoint, tmp_path_factory):
    """A tiny LLaVA, and its language model by itself."""
    folder = checkpoint("llava")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    base = LlamaForCausalLM(model.config.text_config)
    base.model.load_state_dict(model.model.language_model.state_dict())
    base.lm_head.load_state_dict(model.lm_head.state_dict())
    out = tmp_path_factory.mktemp("base")
    base.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    return folder, out, base


def test_losses_are_those_of_transformers(llava):
    folder, _, base = llava
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = speak(ModelChoice(str(folder)), TEXTS).losses
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        assert ids[0, 0] == tokenizer.bos_token_id
        with torch.no_grad():
            loss = float(base(input_ids=ids, labels=ids).loss)
        assert found[text].nats == pytest.approx(loss * (ids.shape[1] - 1), rel=1e-4)
        assert (found[text].tokens, found[text].bytes) == (ids.shape[1] - 1, len(text.encode()))


def test_against_its_own_language_model_nothing_is_lost(llava):
    folder, out, _ = llava
    model = ModelChoice(str(folder))
    found = language_sign(speak(model, TEXTS), base_losses(str(out), model, TEXTS), **SETTINGS)
    assert found.value == pytest.approx(1, abs=1e-4)
    assert found.n == f"{len(TEXTS)} texts"
    assert "against --base" in found.note


def test_a_base_that_knows_better_shows_the_loss(llava, tmp_path):
    folder, out, base = llava
    model, tokenizer = ModelChoice(str(folder)), AutoTokenizer.from_pretrained(out)
    better = LlamaForCausalLM(base.config)
    better.load_state_dict(base.state_dict())
    optimiser = torch.optim.Adam(better.parameters(), 1e-2)
    for _ in range(15):
        for text in TEXTS[:4]:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            better(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    shutil.copytree(out, tmp_path / "better")
    better.save_pretrained(tmp_path / "better")
    own, known = speak(model, TEXTS[:4]), base_losses(str(tmp_path / "better"), model, TEXTS[:4])
    found = language_sign(own, known, **SETTINGS)
    mean = [
        sum(one.nats for one in held.values()) / sum(one.tokens for one in held.values())
        for held in (own.losses, known)
    ]
    assert found.value == pytest.approx(math.exp(mean[0] - mean[1]), rel=1e-6)
    assert 1.5 < found.low < found.value < found.high


def test_the_checkpoints_own_record_comes_before_a_base(checkpoint, tmp_path):
    from train.weights import load

    folder = tmp_path / "trained"
    shutil.copytree(checkpoint("age_vlm"), folder)
    model, processor = load(folder)
    save_reference(language_reference(model, processor.tokenizer), folder)
    same = speak(ModelChoice(str(folder)), TEXTS)
    assert same.identical
    found = language_sign(same, {}, **SETTINGS)
    assert (found.value, found.low, found.high) == (1, 1, 1)
    assert "every logit the same" in found.note
    # A record of another beginning: the ratio is that of both perplexities as training reckons them.
    with torch.no_grad():
        model.model.language_model.layers[0].mlp.down_proj.weight.mul_(8)
        model.get_output_embeddings().weight.mul_(2)
    reference = language_reference(model, processor.tokenizer)
    save_reference(reference, folder)
    from train.language import check_language, perplexity

    changed = speak(ModelChoice(str(folder)), TEXTS)
    assert not changed.identical
    now = check_language(load(folder)[0], reference, frozen=False).perplexity_after
    assert language_sign(changed, None, **SETTINGS).value == pytest.approx(now / perplexity(reference), rel=1e-4)


def test_without_a_record_or_a_base_there_is_no_ratio_but_perplexity_per_byte():
    found = language_sign(Spoken({"abcd": Loss(4 * math.log(3), 2, 4)}), None, **SETTINGS)
    assert found.value is None
    assert "--base" in found.note
    assert "perplexity 9.00 per token, 3.000 per byte" in found.note


def test_another_tokenizer_is_said_and_reckoned_per_token_of_the_base():
    own = Spoken({"a": Loss(6.0, 3, 9), "b": Loss(8.0, 4, 9)})
    base = {"a": Loss(5.0, 2, 9), "b": Loss(7.0, 2, 9)}
    found = language_sign(own, base, **SETTINGS)
    assert found.value == pytest.approx(math.exp(2 / 4))
    assert "another tokenizer" in found.note


class Words:
    bos_token_id, eos_token_id, unk_token_id = 0, 1, 2

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [{"?": 2}.get(word, 3 + len(word)) for word in text.split()]}


def logits(ids, shift=0.0):
    table = torch.arange(20.0).repeat(len(ids), 1) + torch.tensor(ids)[:, None]
    return torch.sin(table) + shift


def test_texts_with_unknown_words_are_left_out():
    found = losses(logits, Words(), ["a bb ccc", "a ? ccc"])
    assert list(found) == ["a bb ccc"]
    assert language_sign(Spoken({}), {}, **SETTINGS).note.startswith("its tokenizer does not know")


def test_a_model_that_sees_what_follows_has_no_perplexity():
    def both_ways(ids):
        return logits(ids) * (1 + torch.tensor(float(sum(ids) % 7)))

    assert losses(logits, Words(), ["a bb ccc dddd"])
    with pytest.raises(DataError, match="both directions"):
        losses(both_ways, Words(), ["a bb ccc dddd"])


def test_a_tokenizer_without_a_token_to_begin_with_is_refused():
    words = Words()
    words.bos_token_id = words.eos_token_id = None
    with pytest.raises(DataError, match="neither"):
        losses(logits, words, ["a"])


def test_models_of_the_scenes_world_are_asked_in_its_words():
    from agevlm.data.checkpoint_files import find_folder

    texts = language.default_texts(ModelChoice("scenes/age-vlm"))
    assert len(texts) == 8
    tokenizer = AutoTokenizer.from_pretrained(find_folder("scenes/age-vlm", "model"))
    assert all(tokenizer.unk_token_id not in tokenizer(text)["input_ids"] for text in texts)
    # The same check does not pass for sentences of everyday English.
    assert all(tokenizer.unk_token_id in tokenizer(text)["input_ids"] for text in TEXTS)
    assert language.default_texts(ModelChoice("org/name")) == TEXTS


def test_what_is_kept_comes_back():
    spoken = Spoken({"a": Loss(1.0, 2, 3)}, (Loss(1.0, 1, 1),), (Loss(2.0, 1, 1),), True)
    assert Spoken.from_json(spoken.to_json()) == spoken


def test_texts_come_from_a_file(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("one\n\n two \none\n", encoding="utf-8")
    assert language.read_texts(path) == ("one", "two")
    path.write_text("one\n", encoding="utf-8")
    with pytest.raises(DataError, match="at least 2"):
        language.read_texts(path)
