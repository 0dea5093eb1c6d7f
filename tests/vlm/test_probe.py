"""The probe against an eager copy of the same checkpoint, fed by the checkpoint's own processor; and what it costs.

What is compared is shown to be uneven first: flat attention would equal itself whatever went wrong.
"""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForImageTextToText,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
)
from transformers.models.llama import modeling_llama

from agevlm.checkpoints.tiny import TinyLlava, build_model, build_processor
from agevlm.errors import DataError, NotSupported
from agevlm.model import cross_attention
from agevlm.vlm import Ask, Fingerprint, ProbeSpec
from agevlm.vlm.contract import Vlm
from agevlm.vlm.hf import attention, prompts
from agevlm.vlm.hf.session import HfVlm
from tests.vlm.conftest import CROSS, IN_TEXT, KINDS, QUESTIONS

QUESTION = "Is there an umbrella in the image?"
IMAGE_LAST = (
    "{% for message in messages %}USER: {% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] }} {% endfor %}{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "<image>{% endfor %}{% endfor %}ASSISTANT:"
)
CELLS = 16
"""Of every tiny checkpoint's grid: 4 rows and 4 columns."""


@pytest.fixture(scope="module")
def eager(checkpoint):
    """eager(kind): the checkpoint itself with eager attention, by transformers alone."""
    known = {}

    def load(kind):
        if kind not in known:
            known[kind] = AutoModelForImageTextToText.from_pretrained(
                checkpoint(kind), attn_implementation="eager", dtype=torch.float32
            ).eval()
        return known[kind]

    return load


def whole_inputs(model, picture, ask, answer):
    """What the checkpoint's own processor makes of image and prompt, the answer's tokens behind it."""
    text = prompts.render(model.processor, ask.prompt, with_image=True)
    inputs = dict(model.processor(text=text, images=picture, return_tensors="pt"))
    behind = torch.tensor([list(answer)], dtype=torch.long)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], behind], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return inputs


@torch.inference_mode()
def eager_rows(network, inputs, image_token):
    """Head means of eager weights: (layers, text tokens, visual tokens) and (layers, text tokens) to text."""
    weights = torch.stack(network(**inputs, output_attentions=True).attentions)[:, 0].mean(1)
    visual = inputs["input_ids"][0] == image_token
    rows = weights[:, ~visual]
    return rows[..., visual], rows[..., ~visual].sum(-1)


def asked(model, pictures, question=QUESTION, image=0, tokens=5, layers=None):
    encoded = model.encode(pictures)
    ask = Ask(question, image, tokens)
    answer = model.answer(encoded, [ask])[0].token_ids
    return ask, answer, model.probe(encoded, [ask], [answer], ProbeSpec(layers))[0]


@pytest.mark.parametrize("image", [0, 1, 2])
@pytest.mark.parametrize("kind", IN_TEXT)
def test_attention_to_visual_tokens_in_the_text_is_the_head_mean_of_eager_weights(vlm, eager, pictures, kind, image):
    model = vlm(kind)
    ask, answer, probe = asked(model, pictures, image=image)
    assert len(answer) == 5
    inputs = whole_inputs(model, pictures[image], ask, answer)
    visual, text = eager_rows(eager(kind), inputs, model.family.image_token_id)
    assert float(visual.amax() - visual.amin()) > 0.1, "flat attention would prove nothing"
    geometry = probe.geometry
    assert probe.attention.shape == (len(visual), visual.shape[1], geometry.rows, geometry.columns)
    assert probe.layers == tuple(range(len(visual)))
    if kind == "llava_next":
        # The whole image in 16 tokens, then rows of its tiles with a mark behind each.
        assert visual.shape[-1] == CELLS + geometry.rows * (geometry.columns + 1) > CELLS + 8
        tiles = visual[..., CELLS:].unflatten(-1, (geometry.rows, geometry.columns + 1))
        rest, grid = tiles[..., -1].sum(-1), tiles[..., :-1].flatten(2)
        spread = torch.from_numpy(probe.attention).flatten(2) - grid
        assert float(spread.min()) > -2e-6
        torch.testing.assert_close(spread.sum(-1), visual[..., :CELLS].sum(-1), rtol=0, atol=5e-6)
    else:
        assert visual.shape[-1] == CELLS
        rest = torch.zeros(visual.shape[:2])
        torch.testing.assert_close(torch.from_numpy(probe.attention).flatten(2), visual, rtol=0, atol=2e-6)
    torch.testing.assert_close(torch.from_numpy(probe.elsewhere), rest, rtol=0, atol=2e-6)
    together = torch.from_numpy(probe.attention.sum((2, 3)) + probe.elsewhere)
    torch.testing.assert_close(together, 1 - text, rtol=0, atol=1e-5)
    assert float(together.max()) <= 1 + 1e-5
    assert len(probe.tokens) == visual.shape[1]
    # Words before the image see nothing of it.
    before = int((inputs["input_ids"][0] == model.family.image_token_id).nonzero()[0])
    assert before > 0
    assert not probe.attention[:, :before].any()
    assert (probe.attention[:, before:].sum((2, 3)) > 0).all()


@pytest.mark.parametrize("image", [0, 1, 3])
@pytest.mark.parametrize("kind", CROSS)
def test_cross_attention_is_the_head_mean_of_eager_weights(vlm, eager, pictures, kind, image):
    model = vlm(kind)
    ask, answer, probe = asked(model, pictures, image=image)
    inputs = whole_inputs(model, pictures[image], ask, answer)
    with torch.inference_mode():
        weights = eager(kind)(**inputs, output_vision_attentions=True).vision_attentions
    expected = torch.stack(weights)[:, 0].mean(1)
    assert float(expected.amax() - expected.amin()) > 0.1
    assert probe.layers == (1, 4)
    torch.testing.assert_close(torch.from_numpy(probe.attention).flatten(2), expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(torch.from_numpy(probe.attention.sum((2, 3))), torch.ones(expected.shape[:2]))
    assert not probe.elsewhere.any()
    hidden = probe.geometry.coverage() == 0
    assert hidden.any() == (image != 0)
    assert (probe.attention[..., hidden].max(initial=0) == 0) == (kind == "age_vlm_mask" or image == 0)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_layers_asked_for_in_the_order_asked(vlm, pictures, kind):
    model = vlm(kind)
    whole = asked(model, pictures)[2]
    order = whole.layers[::-1]
    some = asked(model, pictures, layers=order)[2]
    assert some.layers == order != whole.layers
    assert torch.equal(torch.from_numpy(some.attention), torch.from_numpy(whole.attention).flip(0))
    one = asked(model, pictures, layers=whole.layers[1:2])[2]
    assert (one.attention == whole.attention[1:2]).all()
    assert (one.elsewhere == whole.elsewhere[1:2]).all()
    with pytest.raises(DataError, match=r"layers \[99\] do not look at the image; those that do: "):
        asked(model, pictures, layers=(99,))


def test_a_layer_of_words_alone_is_refused(vlm, pictures):
    with pytest.raises(DataError, match=r"layers \[0, 2\] do not look at the image; those that do: 1, 4"):
        asked(vlm("age_vlm"), pictures, layers=(2, 1, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_asks_are_probed_one_by_one_in_their_order(vlm, pictures, kind):
    model = vlm(kind)
    encoded = model.encode(pictures)
    asks = [Ask(QUESTIONS[0], 1), Ask(QUESTIONS[1], 0), Ask(QUESTIONS[0], 0)]
    answers = [(5, 9), (), (7,)]
    together = model.probe(encoded, asks, answers, ProbeSpec())
    for ask, answer, found in zip(asks, answers, together, strict=True):
        alone = model.probe(model.encode(pictures), [ask], [answer], ProbeSpec())[0]
        assert np.allclose(alone.attention, found.attention, atol=1e-6)
        assert alone.tokens == found.tokens
        assert alone.tokens == found.tokens
        assert (alone.geometry.image_width, alone.geometry.image_height) == pictures[ask.image].size
        assert sum(t.part == "answer" for t in found.tokens) == len(answer)
    assert not np.array_equal(together[0].attention[0, 9], together[2].attention[0, 9]), "another image looks otherwise"


def test_what_cannot_be_probed_is_refused(vlm, pictures):
    model = vlm("llava")
    encoded = model.encode(pictures[:1])
    with pytest.raises(ValueError, match="must name an image"):
        model.probe(encoded, [Ask("?", None)], [()], ProbeSpec())
    with pytest.raises(IndexError):
        model.probe(encoded, [Ask("?", 4)], [()], ProbeSpec())
    with pytest.raises(DataError, match="more than the context of 4096"):
        model.probe(encoded, [Ask("?", 0)], [[5] * 4096], ProbeSpec())
    with pytest.raises(NotSupported, match="cannot be looked into"):
        Vlm.probe(model, encoded, [], [], ProbeSpec())


def test_with_the_class_token_kept_the_grid_begins_behind_it(copy_of, pictures):
    full = {"vision_feature_select_strategy": "full"}
    folder = copy_of(kind="llava", config=full, processor_config=full)
    model = HfVlm.load(folder, device="cpu")
    network = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").eval()
    ask, answer, probe = asked(model, pictures)
    visual, _ = eager_rows(network, whole_inputs(model, pictures[0], ask, answer), model.family.image_token_id)
    assert visual.shape[-1] == CELLS + 1
    torch.testing.assert_close(torch.from_numpy(probe.attention).flatten(2), visual[..., 1:], rtol=0, atol=2e-6)
    torch.testing.assert_close(torch.from_numpy(probe.elsewhere), visual[..., 0], rtol=0, atol=2e-6)
    assert probe.elsewhere.max() > 0.01


SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 400,
    "initializer_range": 0.15,
}
WINDOW = 12
TEXTS = {
    "sliding": (MistralConfig(sliding_window=WINDOW, **SMALL), [True, True, True]),
    "sliding and full": (
        Qwen2Config(use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1, **SMALL),
        [False, True, True],
    ),
    "neither": (Qwen2Config(**SMALL), [False, False, False]),
}


@pytest.mark.parametrize("case", TEXTS)
def test_other_language_models_and_their_sliding_windows(pictures, case):
    text, slides = TEXTS[case]
    processor = build_processor(TinyLlava())
    vision = build_model(TinyLlava(), processor, 0).config.vision_config
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=4)
    network = LlavaForConditionalGeneration(config).eval()
    network.generation_config.eos_token_id = 2
    slow = copy.deepcopy(network)
    slow.set_attn_implementation("eager")
    model = HfVlm(network, processor, Fingerprint("", {}))
    ask, answer, probe = asked(model, pictures, tokens=9)
    inputs = whole_inputs(model, pictures[0], ask, answer)
    visual, _ = eager_rows(slow, inputs, 4)
    torch.testing.assert_close(torch.from_numpy(probe.attention).flatten(2), visual, rtol=0, atol=2e-6)
    ids = inputs["input_ids"][0]
    queries, keys = (ids != 4).nonzero().squeeze(1), (ids == 4).nonzero().squeeze(1)
    back = queries[:, None] - keys[None]
    for layer, limited in zip(torch.from_numpy(probe.attention).flatten(2), slides, strict=True):
        assert bool((layer[(back > 0) & (back < WINDOW)] > 0).all())
        assert bool((layer[back >= WINDOW] == 0).all()) == limited
        assert not bool(layer[back < 0].any())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["llava", "age_vlm"])
def test_rows_of_narrow_models_are_float32_and_whole(vlm, pictures, kind, dtype):
    probe = asked(vlm(kind, dtype=dtype), pictures)[2]
    wide = asked(vlm(kind), pictures)[2]
    assert probe.attention.dtype == probe.elsewhere.dtype == "float32"
    if kind == "age_vlm":
        torch.testing.assert_close(torch.from_numpy(probe.attention.sum((2, 3))), torch.ones(2, len(probe.tokens)))
    same = min(len(probe.tokens), len(wide.tokens)) - 5
    assert abs(probe.attention[:, :same] - wide.attention[:, :same]).max() < 0.1


def implementations(model):
    network = model.model
    configs = [network.config, network.config.text_config, network.config.vision_config]
    return [c._attn_implementation for c in [*configs, network.model.language_model.config]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_answers_the_same_before_and_after_and_keeps_its_attention(checkpoint, pictures, kind):
    model = HfVlm.load(checkpoint(kind), device="cpu")
    before = implementations(model)
    asks = [Ask(q, i, 6) for q in QUESTIONS[:3] for i in (0, 1)]
    encoded = model.encode(pictures)
    first = model.answer(encoded, asks)
    held = [copy.copy(f) for f in encoded.features]
    probes = model.probe(encoded, asks, [r.token_ids for r in first], ProbeSpec())
    assert implementations(model) == before
    assert attention.NAME not in before
    for later in (encoded, model.encode(pictures)):
        again = model.answer(later, asks)
        assert [(r.token_ids, r.logprobs) for r in again] == [(r.token_ids, r.logprobs) for r in first]
    twice = model.probe(encoded, asks, [r.token_ids for r in first], ProbeSpec())
    assert all((a.attention == b.attention).all() for a, b in zip(probes, twice, strict=True))
    assert len(held) == len(encoded)


@pytest.mark.parametrize("kind", ["llava", "llava_next", "age_vlm_concat"])
def test_after_an_exception_all_is_as_before(checkpoint, pictures, monkeypatch, kind):
    model = HfVlm.load(checkpoint(kind), device="cpu")
    encoded = model.encode(pictures[:1])
    before, ask = implementations(model), Ask(QUESTION, 0, 4)
    answer = model.answer(encoded, [ask])[0]
    seen = []

    def broken(*args, **kwargs):
        seen.append((implementations(model)[-1], attention._active.get() is not None))
        raise RuntimeError("the floor gives way")

    with monkeypatch.context() as patch:
        patch.setattr(model.model.model.language_model.layers[1], "forward", broken)
        with pytest.raises(RuntimeError, match="the floor gives way"):
            model.probe(encoded, [ask], [answer.token_ids], ProbeSpec())
    assert seen == [(attention.NAME, True)], "it broke while recording"
    assert implementations(model) == before
    assert attention._active.get() is None
    assert model.answer(encoded, [ask])[0].token_ids == answer.token_ids


class Maps(TorchDispatchMode):
    """Notes every tensor made whose last two sides are the whole sequence: full attention maps."""

    def __init__(self, length):
        super().__init__()
        self.length, self.found = length, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.shape[-2:] == (self.length, self.length):
                self.found.append(str(func))
        return out


def passes_of(network):
    """How often the vision tower and the language model ran, and over how many positions."""
    runs = {"vision": 0, "positions": []}

    def text(module, args, kwargs, output):
        runs["positions"].append(output.last_hidden_state.shape[1])

    def vision(*_):
        runs["vision"] += 1

    network.model.vision_tower.register_forward_hook(vision)
    network.model.language_model.register_forward_hook(text, with_kwargs=True)
    return runs


@pytest.mark.parametrize("kind", KINDS)
def test_a_probe_is_one_forward_pass_without_eager_attention_or_full_maps(checkpoint, pictures, monkeypatch, kind):
    model = HfVlm.load(checkpoint(kind), device="cpu")
    encoded = model.encode(pictures[:1])
    asks = [Ask(q, 0) for q in QUESTIONS[:3]]
    asked_for = [len(model.row(encoded, a)[1].ids) for a in asks]
    # No length that is also the side of another tensor.
    answers = [(5,) * (4 if n + 3 in (16, 32, 64, 128) else 3) for n in asked_for]
    lengths = [n + len(answer) for n, answer in zip(asked_for, answers, strict=True)]
    assert len(set(lengths)) == 3
    eager_calls, computed = [], []

    def spy(real, note):
        return lambda *args, **kwargs: note(*args) or real(*args, **kwargs)

    for module in (modeling_llama, cross_attention):
        real = module.eager_attention_forward
        monkeypatch.setattr(module, "eager_attention_forward", spy(real, lambda *_: eager_calls.append(1)))
    for module in (attention, cross_attention):
        real = module.attention_rows
        monkeypatch.setattr(module, "attention_rows", spy(real, lambda q, *_: computed.append(len(q))))
    runs, before = passes_of(model.model), model.language_positions
    full = []
    for ask, answer, length in zip(asks, answers, lengths, strict=True):
        with Maps(length) as maps:
            probe = model.probe(encoded, [ask], [answer], ProbeSpec())[0]
        full += maps.found
        assert computed == [len(probe.tokens)] * len(probe.layers), "the wanted rows alone"
        computed.clear()
    assert runs == {"vision": 0, "positions": lengths}
    assert model.language_positions - before == sum(lengths)
    assert full == []
    assert eager_calls == []
    # The same instruments, where there is something to see.
    model.model.set_attn_implementation("eager")
    with Maps(lengths[0]) as maps, torch.inference_mode():
        model.model(**whole_inputs(model, pictures[0], asks[0], answers[0]))
    assert maps.found
    assert eager_calls


# Which words the tokens stand for.

PROMPTS = [
    "Is there a dog?",
    "  Is there   a dog, or a dog and a dog? ",
    "¿Hay un niño 😀 en el café? 猫が見えますか。",
    "line one\nline two\tand on",
    "?",
    "A",
    "USER: ASSISTANT:",
    "ASSISTANT",
    "ASSISTANT:",
    "USER:",
    "USER",
    "S",
    "x" * 60,
]
MARK = "\N{SNOWMAN}"


def place_of(model, prompt, text):
    """Where the template puts a prompt: found with a text of our own in its place."""
    frame = prompts.render(model.processor, MARK, with_image=True)
    begins = frame.index(MARK)
    if frame.index("<image>") > begins:
        return begins + len(text[begins:]) - len(text[begins:].lstrip())
    # Before it stand as many placeholders as the image has visual tokens: counted from the end.
    upto = text[: len(text) - (len(frame) - begins - 1)]
    return len(upto.rstrip()) - len(prompt.strip())


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("template", [None, IMAGE_LAST])
@pytest.mark.parametrize("kind", ["llava", "age_vlm", "age_vlm_concat"])
def test_every_character_of_the_prompt_belongs_to_tokens_of_the_prompt(
    vlm, pictures, monkeypatch, kind, template, prompt
):
    model = vlm(kind)
    if template:
        monkeypatch.setattr(model.processor, "chat_template", template)
    encoded = model.encode(pictures[:1])
    text, row = model.row(encoded, Ask(prompt, 0))
    tokens = prompts.probed_tokens(model.tokenizer, text, row.ids, prompt, (), model.family.image_token_id)
    begins = place_of(model, prompt, text)
    inner = prompt.strip()
    assert text[begins : begins + len(inner)] == inner
    found = model.tokenizer(text, add_special_tokens=True, return_offsets_mapping=True)
    assert found["input_ids"] == row.ids
    spans = [s for i, s in zip(row.ids, found["offset_mapping"], strict=True) if i != model.family.image_token_id]
    assert len(spans) == len(tokens)
    covered = set()
    for (start, end), token in zip(spans, tokens, strict=True):
        mine = max(start, begins) < min(end, begins + len(inner))
        assert token.part == ("prompt" if mine else "template"), token
        if mine:
            assert 0 <= token.start < token.end <= len(prompt)
            assert token.text.strip() in prompt[token.start : token.end]
            covered |= set(range(token.start, token.end))
    first = len(prompt) - len(prompt.lstrip())
    assert covered >= set(range(first, first + len(inner)))
    assert covered <= set(range(max(0, first - 1), first + len(inner) + 1))


@pytest.mark.parametrize("template", [None, IMAGE_LAST])
@pytest.mark.parametrize("kind", KINDS)
def test_the_texts_of_all_tokens_are_the_whole_prompt_and_answer(vlm, pictures, monkeypatch, kind, template):
    model = vlm(kind)
    if template:
        monkeypatch.setattr(model.processor, "chat_template", template)
    ask, answer, probe = asked(model, pictures, tokens=7)
    said = model.tokenizer.decode(answer, skip_special_tokens=True)
    rendered = prompts.render(model.processor, ask.prompt, with_image=True).replace("<image>", "")
    assert "".join(t.text for t in probe.tokens if t.part != "answer") == "<s>" + rendered
    assert "".join(t.text for t in probe.tokens if t.part == "prompt").strip() == QUESTION
    written = {t.start + i: c for t in probe.tokens if t.part == "answer" for i, c in enumerate(t.text)}
    assert "".join(written[i] for i in range(len(said))) == said
    assert len(written) == len(said) > 0
    order = [t.part for t in probe.tokens]
    assert order[0] == "template"
    assert order[-len(answer) :] == ["answer"] * len(answer)
    assert "answer" not in order[: -len(answer)]


ANSWERS = ["Yes", "Yes, there is a dining table.", " leading", "café au lait", "a 😀 b", "猫", "two\nlines"]


@pytest.mark.parametrize("said", ANSWERS)
def test_tokens_of_an_answer_cover_it_and_parts_of_a_character_stand_for_it(vlm, pictures, said):
    model = vlm("llava")
    ids = model.tokenizer(said, add_special_tokens=False)["input_ids"]
    end = model.tokenizer.eos_token_id
    probe = model.probe(model.encode(pictures[:1]), [Ask("?", 0)], [(*ids, end)], ProbeSpec())[0]
    tokens = [t for t in probe.tokens if t.part == "answer"]
    assert len(tokens) == len(ids) + 1
    assert (tokens[-1].start, tokens[-1].end, tokens[-1].text) == (len(said), len(said), "")
    offsets = model.tokenizer(said, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert [(t.start, t.end) for t in tokens[:-1]] == offsets
    assert all(t.text == said[t.start : t.end] for t in tokens)
    if said in ("a 😀 b", "猫"):
        assert len(set(offsets)) < len(offsets), "a character of several tokens"


def test_repeated_words_have_places_of_their_own(vlm, pictures):
    model = vlm("age_vlm")
    prompt = "dog dog dog"
    probe = model.probe(model.encode(pictures[:1]), [Ask(prompt, 0)], [()], ProbeSpec())[0]
    assert [(t.text.strip(), t.end) for t in probe.tokens if t.part == "prompt" and t.text.strip()] == [
        ("dog", 3),
        ("dog", 7),
        ("dog", 11),
    ]


def test_a_slow_tokenizer_is_refused(vlm):
    slow = SimpleNamespace(is_fast=False)
    with pytest.raises(NotSupported, match="fast tokenizers alone"):
        prompts.probed_tokens(slow, "USER: ?", [1], "?", (), 4)


def test_the_geometry_of_a_probe_is_of_the_picture_as_given(vlm):
    picture = Image.new("RGB", (91, 37), (200, 100, 0))
    for kind in KINDS:
        geometry = asked(vlm(kind), [picture])[2].geometry
        assert (geometry.image_width, geometry.image_height) == (91, 37)
        # Two tiles side by side, of whose rows the upper and the lower one hold padding.
        assert (geometry.rows, geometry.columns) == ((4, 8) if kind == "llava_next" else (4, 4))
        left, _, right, _ = geometry.seen_box
        assert (right - left < 91) == (kind == "llava"), "the crop alone cuts"
        assert (geometry.coverage().min() < 1) == (kind != "llava"), "letterboxing and tiles pad"
