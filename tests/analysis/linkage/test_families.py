"""The causal check on models that cut images into tiles or merge patches: stand-ins of few weights."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from agevlm.checkpoints.standins import STANDINS
from agevlm.vlm.contract import Ask, Fingerprint
from agevlm.vlm.hf.session import HfVlm
from analysis.linkage.hide import KEYS, WAYS, CausalSettings, Subject, hide, margin_of

PLACES = 2


@pytest.mark.usefixtures("numbers_in_words")
@pytest.mark.parametrize("kind", ["smolvlm", "qwen2_5_vl", "llava_onevision"])
def test_controls_are_as_large_as_the_object_and_none_of_it(kind: str) -> None:
    vlm = HfVlm(*STANDINS[kind](1), Fingerprint("", {}))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8))
    encoded = vlm.encode([image])
    geometry = vlm.geometry(encoded, 0)
    ask = Ask("Is there a dog in the image?", 0, 1)
    region = np.zeros((96, 128), bool)
    region[:48, :32] = True
    mask = geometry.mask_to_grid(region)
    attention = np.random.default_rng(1).random(mask.shape)
    (rows,) = hide(vlm, encoded, image, geometry, [Subject(ask, mask, attention, "one")], CausalSettings(PLACES, 0, 0))

    assert {row["how"] for row in rows} == set(WAYS)
    margin = margin_of(vlm.answer(encoded, [ask])[0].logprobs)
    (nothing,) = (row for row in rows if row["what"] == "nothing")
    assert nothing["margin"] == pytest.approx(margin, abs=1e-4)
    assert nothing["tokens"] == 0
    for how in WAYS:
        own = [row for row in rows if row["how"] == how and row["share"] is None and row["what"] != "nothing"]
        by = {what: [row for row in own if row["what"] == what] for what in ("object", "attended", "random", "moved")}
        (whole,) = by["object"]
        assert whole["on_object"] == pytest.approx(1, abs=1e-6)
        assert len(by["random"]) == PLACES
        assert {row["cells"] for row in own} == {whole["cells"]}
        assert [row["on_object"] for row in by["random"] + by["moved"]] == [0] * (PLACES + len(by["moved"]))
        assert all(abs(row["margin"] - margin) > 1e-6 for row in own), "hiding is felt"
        if how == KEYS:
            assert min(row["tokens"] for row in own) > 0
            views = kind != "qwen2_5_vl"
            # What a patch hides of the view of the whole, scattered cells do not.
            assert (whole["tokens"] > max(row["tokens"] for row in by["random"])) is views
        else:
            assert {row["tokens"] for row in own} == {None}
