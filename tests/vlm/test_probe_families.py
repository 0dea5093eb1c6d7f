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

KINDS = sorted(STANDINS)


@pytest.fixture(scope="module", autouse=True)
def _numbers_in_words():
    """SmolVLM's processor asks for num2words, which it uses for videos alone, before it takes any image."""
    import transformers.models.smolvlm.processing_smolvlm as processing

    with pytest.MonkeyPatch.context() as patch:
        if processing.num2words is None:
            patch.setattr(processing, "num2words", str)
        yield


@pytest.fixture(scope="module")
def pair():
    """pair(kind): a stand-in, and its network once more with eager attention."""

    def build(kind):
        model, processor = STANDINS[kind](1)
        eager = copy.deepcopy(model)
        eager.set_attn_implementation("eager")
        return HfVlm(model, processor, Fingerprint("", {})), eager

    return functools.cache(build)


def eager_rows(vlm, network, picture, ask, answer):
    """Head means of eager weights of a whole sequence: (layers, text tokens, visual tokens)."""
    inputs = dict(plain.plain_inputs(vlm, picture, ask.prompt))
    inputs.pop("labels", None)
    more = len(answer)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([list(answer)]).long()], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    bidirectional = vlm.model.config.model_type == "paligemma"
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in inputs:
            inputs[name] = torch.nn.functional.pad(inputs[name], (0, more), value=int(bidirectional))
    if hasattr(network.model, "rope_deltas"):
        network.model.rope_deltas = None
    with torch.inference_mode():
        weights = torch.stack(network(**inputs, output_attentions=True).attentions)[:, 0].mean(1)
    visual = inputs["input_ids"][0] == vlm.family.image_token_id
    return weights[:, ~visual][..., visual].numpy()


@pytest.mark.parametrize("image", [0, 2])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "mllama"])
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
