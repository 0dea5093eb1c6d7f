"""Types that the table does not list: checked on the first question, and shared only as far as they may be."""

import functools
import json
import re

import pytest
import torch
import transformers as t

from agevlm.checkpoints.standins.common import build_tokenizer, stir, text_sizes
from agevlm.checkpoints.tiny import CHAT_TEMPLATE, TinyLlava, build_model, build_processor
from agevlm.errors import CheckpointError, DataError
from agevlm.vlm import Ask
from agevlm.vlm.hf.checkpoint import find_checkpoint
from agevlm.vlm.hf.general import General
from agevlm.vlm.hf.reference import find_flips
from agevlm.vlm.hf.session import HfVlm
from agevlm.vlm.hf.table import FAMILIES, LANGUAGES
from agevlm.vlm.reuse import remark
from tests.vlm.conftest import QUESTIONS, asks_about
from tests.vlm.test_families import longhand
from tests.vlm.test_work import full_above


def vipllava():
    """LLaVA's processor; features of several layers."""
    sizes = TinyLlava()
    processor = build_processor(sizes)
    shape = build_model(sizes, processor, 0).config
    config = t.VipLlavaConfig(
        vision_config=shape.vision_config,
        text_config=shape.text_config,
        image_token_index=shape.image_token_id,
        vision_feature_layers=[-2, -1],
    )
    return t.VipLlavaForConditionalGeneration(config), processor


def pixtral():
    """LLaVA with Pixtral's tower: images of any shape, a mark after each row of patches."""
    marks = ["<pad>", "<s>", "</s>", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    tokenizer = build_tokenizer(marks, {}, begin="<s>", end="</s>", pad="<pad>", adds_begin=True)
    images = t.PixtralImageProcessor(patch_size={"height": 14, "width": 14}, size={"longest_edge": 56})
    processor = t.PixtralProcessor(
        images, tokenizer, patch_size=14, chat_template=CHAT_TEMPLATE.replace("<image>\n", "[IMG]")
    )
    vision = t.PixtralVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    config = t.LlavaConfig(
        vision_config=vision,
        text_config=t.LlamaConfig(**text_sizes(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    return t.LlavaForConditionalGeneration(config), processor


UNLISTED = {"vipllava": vipllava, "pixtral": pixtral}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    @functools.cache
    def build(kind):
        path = tmp_path_factory.mktemp(kind)
        model, processor = UNLISTED[kind]()
        stir(model, 2)
        model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
        model.save_pretrained(path)
        processor.save_pretrained(path)
        return path

    return build


def load(path, **settings):
    return HfVlm.load(path, device="cpu", **settings)


def assert_plain(model, pictures, tokens=5):
    """Answers and log-probabilities equal plain generation's, about images and blind."""
    encoded = model.encode(pictures[:3])
    asks = [a for i in (0, 2, None, 1) for a in asks_about(i, tokens)]
    replies = model.answer(encoded, asks)
    for image in (0, 2, None, 1):
        mine = [(a, r) for a, r in zip(asks, replies, strict=True) if a.image == image]
        assert find_flips(model, None if image is None else pictures[image], *zip(*mine, strict=True)) == []
    for ask, reply in zip(asks, replies, strict=True):
        logprobs = longhand(model, None if ask.image is None else pictures[ask.image], ask.prompt)[0]
        for word, ids in model.candidate_ids(ask.candidates).items():
            assert reply.logprobs[word] == pytest.approx(float(logprobs[ids].logsumexp(0)), abs=1e-3)
    options = [[" Yes", " dining table"]] * 3
    for ask, scores in zip(asks[5:8], model.rank(encoded, asks[5:8], options), strict=True):
        for option, score in zip(options[0], scores, strict=True):
            ids = model.tokenizer.encode(option, add_special_tokens=False)
            logprobs = longhand(model, None if ask.image is None else pictures[ask.image], ask.prompt, ids)
            assert score == pytest.approx(sum(float(logprobs[n, i]) for n, i in enumerate(ids)), abs=2e-3)


@pytest.mark.parametrize("kind", UNLISTED)
def test_an_unlisted_type_is_checked_once_and_then_shares_all(folder, pictures, kind):
    model = load(folder(kind))
    assert model.describe()["model_type"] not in FAMILIES or kind == "pixtral"
    assert "not tried yet" in model.describe()["reuse"]["why"]
    one, other = (longhand(model, picture, QUESTIONS[0])[0] for picture in pictures[:2])
    assert float((one - other).abs().max()) > 0.2, "the image matters"
    assert_plain(model, pictures)
    assert model.describe()["reuse"] == {"image": True, "prefix": True}
    assert remark(model.describe()) == ""
    before = model.vision_calls
    model.answer(model.encode(pictures[:1]), asks_about(0, 2))
    assert model.vision_calls - before == 1


WRONG = {
    "positions": ("shift", lambda self, features: 1, False, "second answer token.*away from plain"),
    "a prefix that may not be shared": (
        "further",
        lambda self, features, rows, length, past: {"position_ids": None} if length > 1 else {},
        True,
        "TypeError.*position_ids",
    ),
    "features": ("embed", lambda self, ids, features: self.model.get_input_embeddings()(ids), False, "first answer"),
    "the way an image is written": ("written", lambda self, text, expansion: text, False, "cannot be repeated"),
    "a model that fails so": ("forward", lambda self, *_, **__: {}["x"], False, "KeyError: 'x'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_would_give_other_answers_is_not_shared_and_told_once(folder, pictures, monkeypatch, case):
    name, mutant, encodes, why = WRONG[case]
    monkeypatch.setattr(General, name, mutant)
    model = load(folder("vipllava"))
    assert_plain(model, pictures)
    facts = model.describe()["reuse"]
    assert facts["prefix"] is False
    assert facts["image"] is encodes
    assert re.search(why, facts["why"])
    said = remark(model.describe())
    assert facts["why"] in said
    assert ("encoded once" in said) == encodes
    json.dumps(facts)


def test_a_known_family_whose_prompt_cannot_be_repeated_is_asked_plainly(folder, pictures, monkeypatch):
    monkeypatch.setitem(FAMILIES, "vipllava", General)
    monkeypatch.setitem(LANGUAGES, "vipllava", ("llama",))
    monkeypatch.setattr(General, "written", lambda self, text, expansion: text)
    model = load(folder("vipllava"))
    asks = asks_about(0, 3)
    assert find_flips(model, pictures[0], asks, model.answer(model.encode(pictures[:1]), asks)) == []
    assert "cannot be repeated" in model.describe()["reuse"]["why"]


def test_other_errors_of_a_known_family_are_raised(folder, pictures, monkeypatch):
    monkeypatch.setitem(FAMILIES, "vipllava", General)
    monkeypatch.setitem(LANGUAGES, "vipllava", ("llama",))
    model = load(folder("vipllava"))
    monkeypatch.setattr(model.family, "preprocess", lambda image: {}["x"])
    with pytest.raises(KeyError):
        model.encode(pictures[:1])


def test_the_plain_way_keeps_limits_and_says_where_memory_ran_out(folder, pictures, monkeypatch):
    model = load(folder("vipllava"))
    monkeypatch.setattr(General, "written", lambda self, text, expansion: text)
    encoded = model.encode(pictures[:2])
    replies = model.answer(encoded, [Ask("Is there a dog?", 0, n) for n in (0, 1, 3)])
    assert [len(r.token_ids) for r in replies] == [0, 1, 3]
    assert replies[0].text == ""
    full_above(model, monkeypatch, 0)
    replies = model.answer(encoded, [Ask("Is there a dog?", 0, 3)])
    assert replies[0].error == "out of memory: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"


def test_half_precision_is_told_from_error(folder, pictures):
    for dtype in ("bfloat16", "float16"):
        model = load(folder("vipllava"), dtype=dtype)
        model.answer(model.encode(pictures[:1]), asks_about(0, 2))
        assert model.describe()["reuse"] == {"image": True, "prefix": True}
        assert model.model.dtype == getattr(torch, dtype)


def test_memory_that_runs_out_during_the_check_is_no_reason_to_share_less(folder, pictures, monkeypatch):
    model = load(folder("vipllava"))
    encoded = model.encode(pictures[:1])
    with monkeypatch.context() as patch:
        full_above(model, patch, 0)
        assert all("out of memory" in reply.error for reply in model.answer(encoded, asks_about(0, 2)))
    assert all(reply.error is None for reply in model.answer(encoded, asks_about(0, 2)))
    assert model.describe()["reuse"] == {"image": True, "prefix": True}


@pytest.mark.parametrize("model_type", ["bert", "qwen9_vl"])
def test_a_type_that_is_no_image_text_to_text_model_is_refused_by_name(folder, tmp_path, model_type):
    config = json.loads((folder("vipllava") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": model_type}))
    with pytest.raises(CheckpointError, match=f"'{model_type}' is no image-text-to-text.*{t.__version__}.*newer"):
        find_checkpoint(str(tmp_path))


def test_a_prompt_beyond_the_context_is_refused_and_settles_nothing(folder, pictures):
    model = load(folder("vipllava"))
    encoded = model.encode(pictures[:1])
    for _ in range(2):
        with pytest.raises(DataError, match="leaves no room for an answer"):
            model.answer(encoded, [Ask("What? " * 5000, 0, 4)])
    assert "not tried yet" in model.describe()["reuse"]["why"]
    model.family.context = 40  # room for the question, not for more of it
    assert model.answer(encoded, [Ask("?", 0, 4)])[0].text is not None
    assert model.describe()["reuse"] == {"image": True, "prefix": True}


def test_a_model_without_image_features_of_its_own_is_asked_plainly(folder, pictures, monkeypatch):
    monkeypatch.delattr(t.VipLlavaForConditionalGeneration, "get_image_features")
    model = load(folder("vipllava"))
    assert_plain(model, pictures)
    assert "has no attribute 'get_image_features'" in model.describe()["reuse"]["why"]
