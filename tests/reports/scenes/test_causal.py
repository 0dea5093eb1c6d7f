from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from agevlm.errors import NotSupported
from agevlm.scenes.language import ask_existence
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


class From:
    """A store from one of its scenes on."""

    def __init__(self, store: SceneStore, first: int) -> None:
        self.store, self.first, self.facts = store, first, store.facts[first:]

    def image(self, index: int) -> Any:
        return self.store.image(self.first + index)

    def mask(self, index: int, instances: Any) -> Any:
        return self.store.mask(self.first + index, instances)


def test_what_is_hidden_is_the_object_and_then_as_much_else(
    checkpoints: dict[str, Path], test_store: SceneStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked of one that says yes while it sees a cell of the object: never without it, always without others."""
    vlm = load_vlm(checkpoints["cross"])
    rows = []
    for first in range(12):
        store = From(test_store, first)
        facts, seen = store.facts[0], []
        width, height = Image.fromarray(store.image(0)).size
        geometry = vlm.processor.image_processor.geometry(width, height)
        regions = {
            ask_existence(facts, name).question.text: geometry.mask_to_grid(store.mask(0, facts.having(name))).ravel()
            for name in facts.present
        }

        def sees(
            asker: Any, features: Any, questions: Any, visible: Any, regions: Any = regions, seen: Any = seen
        ) -> Any:
            seen.append(visible)
            return [bool((regions[q] > 0)[v].any()) for q, v in zip(questions, visible, strict=True)]

        monkeypatch.setattr(Asker, "yes", sees)
        found = hide_and_ask(vlm, store, 1)  # type: ignore[arg-type]
        assert found.counts["not_answered_yes"] == 0
        rows += found.rows
        _, without_object, without_others = seen
        for row, left, control in zip(found.rows, without_object, without_others, strict=True):
            assert (~left).sum() == (~control).sum() == row.hidden_cells
            assert not ((regions[ask_existence(facts, row.category).question.text] > 0) & left).any()
    assert len(rows) > 5
    assert not any(row.without_object for row in rows)
    assert all(row.without_others for row in rows)


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
