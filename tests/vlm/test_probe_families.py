"""The probe of every family against eager attention of the same weights, fed by the checkpoint's own processor.

Features are the models' own: with tiles, merges and windows, two-way attention and positions of three axes.
"""

import copy
import functools

import numpy as np
import pytest
import torch

from agevlm.checkpoints.standins import STANDINS
from agevlm.vlm import Ask, Fingerprint, ProbeSpec
from agevlm.vlm.hf import plain
from agevlm.vlm.hf.session import HfVlm
from tests.vlm.conftest import QUESTIONS

pytestmark = pytest.mark.usefixtures("numbers_in_words")
KINDS = sorted(STANDINS)


@pytest.fixture(scope="module")
def pair():
    """pair(kind): a stand-in, and its network once more with eager attention."""

    def build(kind):
        model, processor = STANDINS[kind](1)
        eager = copy.deepcopy(model)
        eager.set_attn_implementation("eager")
        return HfVlm(model, processor, Fingerprint("", {})), eager

    return functools.cache(build)


def whole_inputs(vlm, picture, ask, answer=()):
    """What the checkpoint's own processor makes of image and prompt, the answer's tokens behind it."""
    inputs = dict(plain.plain_inputs(vlm, picture, ask.prompt))
    inputs.pop("labels", None)
    more = len(answer)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([list(answer)]).long()], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    bidirectional = vlm.model.config.model_type == "paligemma"
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in inputs:
            inputs[name] = torch.nn.functional.pad(inputs[name], (0, more), value=int(bidirectional))
    if "cross_attention_mask" in inputs:
        mask = inputs["cross_attention_mask"]
        inputs["cross_attention_mask"] = torch.cat([mask, mask[:, -1:].expand(-1, more, -1, -1)], dim=1)
    return inputs


def attending(network):
    """The modules in which text looks at the image, in order."""
    inner = network.model
    stack = inner.language_model if hasattr(inner, "language_model") else inner.text_model
    crossing = [layer.cross_attn for layer in stack.layers if hasattr(layer, "cross_attn")]
    return crossing or [layer.self_attn for layer in stack.layers]


@torch.inference_mode()
def run_eagerly(network, inputs, hide=None):
    """Log-probabilities behind a prompt, and the weights of the modules that attend: (layers, queries, keys)."""
    if hasattr(network.model, "rope_deltas"):
        network.model.rope_deltas = None  # kept from the last call, whatever it was about
    weights = []

    def before(_, args, kwargs):
        mask = kwargs["attention_mask"].clone()
        hide(mask)
        return args, {**kwargs, "attention_mask": mask}

    hooks = [m.register_forward_hook(lambda *found: weights.append(found[2][1][0].mean(0))) for m in attending(network)]
    if hide is not None:
        hooks += [m.register_forward_pre_hook(before, with_kwargs=True) for m in attending(network)]
    try:
        logits = network(**inputs).logits[0, -1].log_softmax(-1)
    finally:
        for hook in hooks:
            hook.remove()
    return logits, torch.stack(weights)


def eager_rows(vlm, network, picture, ask, answer):
    """Head means of eager weights of a whole sequence: (layers, text tokens, visual tokens)."""
    inputs = whole_inputs(vlm, picture, ask, answer)
    weights = run_eagerly(network, inputs)[1]
    visual = inputs["input_ids"][0] == vlm.family.image_token_id
    weights = weights[:, ~visual]
    return (weights if "cross_attention_mask" in inputs else weights[..., visual]).numpy()


@pytest.mark.parametrize("image", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_probed_attention_is_the_head_mean_of_eager_weights_on_the_cells(pair, pictures, kind, image):
    vlm, network = pair(kind)
    encoded = vlm.encode(pictures)
    asks = [Ask(question, image, 4) for question in QUESTIONS[:2]]
    answers = [reply.token_ids for reply in vlm.answer(encoded, asks)]
    probes = vlm.probe(encoded, asks, answers, ProbeSpec())
    layout = vlm.family.layout(encoded.features[image], *pictures[image].size)
    for ask, answer, probe in zip(asks, answers, probes, strict=True):
        rows = eager_rows(vlm, network, pictures[image], ask, answer)
        assert float(np.ptp(rows)) > 0.02, "flat attention would prove nothing"
        expected, elsewhere = layout.fold(rows)
        np.testing.assert_allclose(probe.attention, expected, atol=5e-6)
        np.testing.assert_allclose(probe.elsewhere, elsewhere, atol=5e-6)
        assert probe.geometry == layout.geometry
    # Chosen tokens alone, some of them before the image.
    for chosen in ([0, 3], [1], [1, len(probes[0].tokens) - 1], [len(probes[0].tokens) - 1]):
        some = vlm.probe(encoded, asks, answers, ProbeSpec(), [chosen] * 2)
        for one, probe in zip(some, probes, strict=True):
            assert one.tokens == tuple(probe.tokens[k] for k in chosen)
            np.testing.assert_allclose(one.attention, probe.attention[:, chosen], atol=5e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_tokens_are_masked_for_the_text_behind_them_alone(pair, pictures, kind):
    vlm, network = pair(kind)
    encoded = vlm.encode(pictures)
    asks = [Ask(QUESTIONS[0], 1), Ask(QUESTIONS[1], 0), Ask(QUESTIONS[4], 1)]
    layouts = [vlm.family.layout(encoded.features[ask.image], *pictures[ask.image].size) for ask in asks]
    cells = []
    for seed, layout in enumerate(layouts):
        hidden = np.random.default_rng(seed).random((layout.geometry.rows, layout.geometry.columns)) < 0.5
        hidden[0, 0], hidden[-1, -1] = True, False
        cells.append(hidden)
    found = vlm.knock_out(encoded, asks, cells)
    shown = vlm.knock_out(encoded, asks, [np.zeros_like(hidden) for hidden in cells])
    assert max(abs(a["yes"] - b["yes"]) for a, b in zip(found, shown, strict=True)) > 1e-3, "hiding is felt"
    for ask, layout, hidden, own, all_of_it in zip(asks, layouts, cells, found, shown, strict=True):
        assert all_of_it == pytest.approx(vlm.answer(encoded, [ask])[0].logprobs, abs=1e-4)
        inputs = whole_inputs(vlm, pictures[ask.image], ask)
        places = (inputs["input_ids"][0] == vlm.family.image_token_id).nonzero().squeeze(1)
        gone = torch.from_numpy(layout.tokens_of(hidden)).nonzero().squeeze(1)
        columns = gone if "cross_attention_mask" in inputs else places[gone]

        def hide(mask, after=int(places[-1]) + 1, columns=columns):
            mask[:, :, after:, columns] = torch.finfo(mask.dtype).min

        logits = run_eagerly(network, inputs, hide)[0]
        for word, tokens in vlm.candidate_ids(ask.candidates).items():
            assert own[word] == pytest.approx(float(logits[tokens].logsumexp(0)), abs=5e-5)
