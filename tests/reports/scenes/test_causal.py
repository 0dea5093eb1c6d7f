from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from agevlm.errors import NotSupported
from agevlm.vlm.contract import Ask
from reports.scenes.causal import Asker, CausalRow, bordered, causal_scores, hide_and_ask
from reports.scenes.evaluate import load_vlm
from reports.scenes.intervals import image_draws
from tests.reports.scenes.toys import Planted, planted_on_object
from train.scenes.store import SceneStore

QUESTION = "Is there a dog in the image?"


def test_the_border_is_one_cell_wide() -> None:
    region = np.zeros((5, 6))
    region[0, 0] = 0.1
    region[3, 4] = 1
    expected = np.zeros((5, 6), bool)
    expected[0:2, 0:2] = expected[2:5, 3:6] = True
    assert (bordered(region) == expected).all()


@pytest.mark.parametrize("fusion", ["cross", "concat"])
def test_hiding_nothing_changes_nothing_and_hiding_everything_does(
    checkpoints: dict[str, Path], test_store: SceneStore, fusion: str
) -> None:
    vlm = load_vlm(checkpoints[fusion])
    asker = Asker(vlm)
    picture = Image.fromarray(test_store.image(0))
    pixels = asker.processor.image_processor(images=[picture], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        features = asker.model.get_image_features(pixels).pooler_output
    cells = features.shape[1]
    everything, nothing, half = np.ones(cells, bool), np.zeros(cells, bool), np.arange(cells) < cells // 2
    # Two prompts of different lengths: padding must not matter.
    prompts = [QUESTION, QUESTION, QUESTION, "Is there an umbrella in the image? Answer yes or no."]
    scores = asker.scores(features.expand(4, -1, -1), prompts, [everything, nothing, half, everything])
    assert np.isfinite(scores).all()
    ranked = vlm.rank(vlm.encode([picture]), [Ask(QUESTION, 0)], [("yes", "no")])[0]
    ids = asker._ids(QUESTION, cells)
    assert ids[1] != ids[2]
    if all(len(vlm.tokenizer.encode(w, add_special_tokens=False)) == 1 for w in ("yes", "no")):
        assert scores[0, 0] - scores[0, 1] == pytest.approx(ranked[0] - ranked[1], abs=1e-4)
    difference = scores[:, 0] - scores[:, 1]
    assert abs(difference[1] - difference[0]) > 1e-3
    assert abs(difference[2] - difference[0]) > 1e-4
    assert abs(difference[2] - difference[1]) > 1e-4
    # All hidden: no picture makes a difference any more.
    other = asker.scores(features.flip(1) * 2, [QUESTION], [nothing])
    assert other[0] == pytest.approx(scores[1], abs=1e-5)
    assert vlm.model.config.mask_padding is False


@pytest.mark.parametrize("fusion", ["cross", "concat"])
def test_only_what_is_answered_yes_is_hidden(checkpoints: dict[str, Path], test_store: SceneStore, fusion: str) -> None:
    vlm = load_vlm(checkpoints[fusion])
    asker = Asker(vlm)
    _, yes, no = asker._ids(QUESTION, 16)
    with torch.no_grad():
        # "yes" wherever the picture moves a state this way: some of each.
        vlm.model.lm_head.weight[no] = -vlm.model.lm_head.weight[yes]
    found = hide_and_ask(vlm, test_store, 3)
    present = sum(len(facts.present) for facts in test_store.facts[:3])
    assert found.counts["present"] == present
    assert len(found.rows) + found.counts["not_answered_yes"] + found.counts["too_large"] == present
    assert found.attention.startswith("cross" if fusion == "cross" else "self")
    assert hide_and_ask(vlm, test_store, 3) == found


def test_scores_of_hiding() -> None:
    rows = [CausalRow(i, "cup", 9, i % 4 == 0, i != 3) for i in range(20)]
    scores = causal_scores(rows, image_draws(20, 500))
    assert scores["without_object"].value == 0.25
    assert scores["without_others"].value == 0.95
    assert scores["effect"].value == pytest.approx(0.70)
    assert scores["effect"].low > 0.4
    assert causal_scores([], image_draws(20, 5)) == {}


def test_other_models_are_refused(test_store: SceneStore) -> None:
    with pytest.raises(NotSupported, match="AGE-VLM alone"):
        hide_and_ask(Planted(test_store, planted_on_object(test_store)), test_store, 2)
