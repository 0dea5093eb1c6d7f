from __future__ import annotations

import numpy as np
import pytest

from agevlm.vlm.contract import Probe, ProbedToken
from reports.scenes.intervals import image_draws
from reports.scenes.looks import (
    Looked,
    attention_maps,
    best_threshold,
    iou,
    iou_ceiling,
    last_token,
    look_all,
    look_row,
    look_scores,
)
from tests.reports.scenes.toys import Planted, planted_on_object
from train.scenes.store import SceneStore


def test_measures_against_longhand() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        attention, region = draw.random((4, 5)), draw.random((4, 5)) * (draw.random((4, 5)) < 0.4)
        attention /= attention.sum() * 2
        region[1, 1] = 0.3
        shown = np.ones((4, 5))
        shown[:, 4] = 0.5
        row = look_row(Looked(0, "cup", attention, attention, region, shown), 0.4, 0.6)
        top, best = attention.max(), (0, 0)
        mass = even = 0.0
        overlap = {0.4: [0.0, 0.0], 0.6: [0.0, 0.0]}
        for r in range(4):
            for c in range(5):
                if attention[r, c] == top:
                    best = (r, c)
                if region[r, c] > 0:
                    mass += attention[r, c]
                    even += shown[r, c]
                for threshold, sums in overlap.items():
                    chosen = 1.0 if attention[r, c] >= threshold * top else 0.0
                    sums[0] += min(chosen, region[r, c])
                    sums[1] += max(chosen, region[r, c])
        assert row.word_iou == pytest.approx(overlap[0.4][0] / overlap[0.4][1])
        assert row.answer_iou == pytest.approx(overlap[0.6][0] / overlap[0.6][1])
        assert row.word_mass == row.answer_mass == pytest.approx(mass / 0.5)
        assert row.word_hit == (region[best] > 0)
        assert row.word_on_image == pytest.approx(0.5)
        assert row.even == pytest.approx(even / 18)


def test_the_ceiling_is_the_best_of_all_choices_of_cells() -> None:
    draw = np.random.default_rng(1)
    for _ in range(10):
        region = draw.random(7) * (draw.random(7) < 0.7)
        region[0] = 0.2
        choices = [np.array([n >> k & 1 for k in range(7)]) for n in range(1, 128)]
        best = max(np.minimum(c, region).sum() / np.maximum(c, region).sum() for c in choices)
        assert iou_ceiling(region) == pytest.approx(best)
        assert iou_ceiling((region > 0).astype(float)) == 1
        # No attention map beats it, and the region itself as attention reaches it at some threshold.
        assert max(iou(draw.random(7), region, t) for t in np.linspace(0, 1, 21)) <= best + 1e-12
        reached = max(iou(region, region, float(t / region.max())) for t in region if t > 0)
        assert reached == pytest.approx(best)


def test_planted_attention_scores_perfectly(test_store: SceneStore, validation_store: SceneStore) -> None:
    vlm = Planted(test_store, planted_on_object(test_store))
    found, layers = attention_maps(vlm, test_store, 20)
    assert layers == (0, 1)
    assert [(x.image, x.category) for x in found] == [(i, n) for i in range(20) for n in test_store.facts[i].present]
    for x in found:
        row = look_row(x, 0.5, 0.5)
        assert row.word_hit
        assert row.answer_hit
        assert row.word_mass == row.answer_mass == pytest.approx(1, abs=1e-6)
        covered = np.where(x.region >= min(0.5, x.region.max()), 1.0, 0.0)
        assert row.word_iou == pytest.approx(iou(covered, x.region, 0.5))
        assert row.word_iou <= row.ceiling + 1e-12
        assert row.even < 1


def test_attention_elsewhere_scores_nothing(test_store: SceneStore) -> None:
    def attend(scene: int, name: str, geometry: object) -> np.ndarray:
        region = geometry.mask_to_grid(test_store.mask(scene, test_store.facts[scene].having(name)))  # type: ignore[attr-defined]
        return (region == 0) / (region == 0).sum()

    found, _ = attention_maps(Planted(test_store, attend), test_store, 20)
    rows = [look_row(x, 0.5, 0.5) for x in found]
    assert {(r.word_iou, r.word_mass, r.word_hit) for r in rows} == {(0.0, 0.0, False)}


def test_attention_that_mostly_lies_on_text_is_measured_on_the_image(test_store: SceneStore) -> None:
    whole = look_row(attention_maps(Planted(test_store, planted_on_object(test_store)), test_store, 1)[0][0], 0.5, 0.5)
    quarter = Planted(test_store, planted_on_object(test_store), scale=0.25)
    little = look_row(attention_maps(quarter, test_store, 1)[0][0], 0.5, 0.5)
    assert little.word_on_image == pytest.approx(whole.word_on_image / 4)
    assert (little.word_iou, little.word_mass) == pytest.approx((whole.word_iou, whole.word_mass))


def test_thresholds_come_from_validation_scenes_alone(test_store: SceneStore, validation_store: SceneStore) -> None:
    class Two(Planted):
        """Knows both stores; on validation scenes weak attention is right, on test scenes it is wrong."""

        def __init__(self, tuned: bool) -> None:
            super().__init__(test_store, self._test)
            self.other = Planted(validation_store, self._tuned if tuned else self._test_on(validation_store))

        def _test_on(self, store: SceneStore):  # type: ignore[no-untyped-def]
            def attend(scene, name, geometry):  # type: ignore[no-untyped-def]
                region = geometry.mask_to_grid(store.mask(scene, store.facts[scene].having(name)))
                strong = region == region.max()
                return strong + 0.42 * ((region == 0) if store is test_store else (region > 0)) * ~strong

            return attend

        def _test(self, scene, name, geometry):  # type: ignore[no-untyped-def]
            return self._test_on(test_store)(scene, name, geometry)

        def _tuned(self, scene, name, geometry):  # type: ignore[no-untyped-def]
            region = geometry.mask_to_grid(validation_store.mask(scene, validation_store.facts[scene].having(name)))
            strong = region == region.max()
            return strong + 0.72 * (region == 0) * ~strong

        def probe(self, encoded, asks, answers, spec):  # type: ignore[no-untyped-def]
            known = np.asarray(encoded.images[asks[0].image]).tobytes() in self.numbers
            return Planted.probe(self if known else self.other, encoded, asks, answers, spec)

    weak, strict = (look_all(Two(tuned), test_store, 20, validation_store) for tuned in (False, True))
    # Where weak cells are the object's on validation scenes, they are taken, to the loss of the test scenes.
    assert weak.word_threshold <= 0.4 < 0.72 < strict.word_threshold
    scores = [look_scores(x.rows, image_draws(20, 50))["word_iou"].value for x in (weak, strict)]
    assert scores[0] < scores[1]
    # Choosing on the test scenes would have been another choice.
    on_test = best_threshold([(x.word, x.region) for x in attention_maps(Two(False), test_store, 20)[0]])
    assert on_test > 0.42
    assert strict.tuning_scenes == 20


def test_the_token_that_ends_a_word() -> None:
    tokens = [ProbedToken("USER", "template", 0, 9), ProbedToken(" um", "prompt", 11, 14)]
    tokens += [ProbedToken("brella", "prompt", 14, 20), ProbedToken("?", "prompt", 20, 21)]
    empty = np.zeros((1, 4, 2, 2), np.float32)
    probe = Probe(tuple(tokens), (0,), empty, empty[..., 0, 0], None)  # type: ignore[arg-type]
    assert last_token(probe, 20) == 2
    assert last_token(probe, 14) == 1
