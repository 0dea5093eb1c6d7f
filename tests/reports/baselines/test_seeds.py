"""Means over seeds against longhand: Student's t, and draws of seeds and images at once."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from agevlm.vlm.contract import Fingerprint, Reply
from benchmarks.statistics.clusters import expanded_percentile_interval
from reports.baselines.joint import Sums, over_seeds_and_images, sums_of
from reports.baselines.seeds import over_seed_values
from reports.opened import open_runs
from reports.runs.headline import headlines
from reports.scenes.intervals import image_draws
from tests.benchmarks.cvbench.stub import CvStub, make_cv_data
from tests.benchmarks.runs.stub import StubVlm, make_data
from tests.reports.runs.conftest import ask

SPLITS = ("random", "popular", "adversarial")


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_student_s_t(values):
    found = over_seed_values(values)
    assert found.value == pytest.approx(np.mean(values))
    if np.ptp(values) > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    within = over_seed_values(values, 0, 1)
    assert 0 <= within.low <= within.value <= within.high <= 1


def test_one_seed_says_nothing_of_seeds():
    found = over_seed_values([0.5])
    assert found.value == 0.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@dataclass
class Seed(StubVlm):
    """Yes or no by the hash of picture, prompt and seed, right a little more often than not."""

    seed: int

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.fingerprint = Fingerprint(f"seed {seed}", {"weights": f"seed {seed}"})

    def _reply(self, picture: str | None, prompt: str) -> Reply:
        found = super()._reply(picture, f"{prompt} {self.seed}")
        return Reply("Yes" if found.logprobs["yes"] > found.logprobs["no"] else "No", "eos", found.logprobs, (1,))


class CvSeed(CvStub):
    """The same for CV-Bench, where every third answer is read as no option."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.fingerprint = Fingerprint(f"seed {seed}", {"weights": f"seed {seed}"})

    def _reply(self, picture: str | None, prompt: str) -> Reply:
        return super()._reply(picture, f"{prompt} {self.seed}")


def limits_of(each: np.ndarray, values, images: int) -> tuple[float, float]:
    """Longhand: t with Satterthwaite's degrees of freedom; draws of images (draws, seeds) and the seeds' values."""
    count, mean = len(values), sum(values) / len(values)
    of_seeds = sum((value - mean) ** 2 for value in values) / (count - 1) / count
    of_draws = [sum(draw) / count for draw in each]
    middle = sum(of_draws) / len(of_draws)
    of_images = sum((draw - middle) ** 2 for draw in of_draws) / (len(of_draws) - 1)
    free = (of_seeds + of_images) ** 2 / (of_seeds**2 / (count - 1) + of_images**2 / (images - 1))
    reach = stats.t.ppf(0.975, free) * math.sqrt(of_seeds + of_images)
    return mean - reach, mean + reach


@pytest.fixture(scope="module")
def popes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pope-seeds")
    data = make_data(folder / "data", 10)
    for seed in range(3):
        assert ask("pope", Seed(seed), data, folder / str(seed)) == 0
    return open_runs([folder / str(seed) for seed in range(3)])[0]


def questions_of(run):
    return [json.loads(line) for line in (run.folder / "questions.jsonl").read_text().splitlines()]


def answers_of(run) -> Mapping[str, str]:
    lines = (run.folder / "answers-00000.jsonl").read_text().splitlines()
    return {row["key"]: row["text"] for row in map(json.loads, lines)}


def f1(tp: float, fp: float, fn: float) -> float:
    return 2 * tp / (2 * tp + fp + fn)


@pytest.fixture(scope="module")
def drawn(popes):
    """Longhand: draws of each seed's mean F1 on the same images (draws, seeds), the means themselves, the images."""
    images = sorted({row["question"]["image"] for row in questions_of(popes[0])})
    weights = image_draws(len(images))
    each, values = np.zeros((len(weights), 3)), []
    for place, run in enumerate(popes):
        answers = answers_of(run)
        counts = {split: np.zeros((len(images), 3)) for split in SPLITS}
        for row in questions_of(run):
            question, said = row["question"], answers[row["keys"]["image"]]
            column = {(True, True): 0, (False, True): 1, (True, False): 2}.get((question["label"], said == "Yes"))
            if column is not None:
                counts[question["split"]][images.index(question["image"]), column] += 1
        for draw, weight in enumerate(weights):
            each[draw, place] = np.mean([f1(*(weight @ counts[split])) for split in SPLITS])
        values.append(np.mean([f1(*counts[split].sum(0)) for split in SPLITS]))
    return each, values, len(images)


def test_f1_over_seeds_and_images(popes, drawn):
    each, values, images = drawn
    assert len(set(values)) == 3
    sums = [sums_of(run, "F1", "") for run in popes]
    assert [one.value for one in sums] == pytest.approx(values)
    named = [next(h.value for h in headlines("pope", run.scores) if h.measure == "F1") for run in popes]
    assert named == pytest.approx(values)
    found = over_seeds_and_images(sums)
    low, high = limits_of(each, values, images)
    assert found.value == pytest.approx(np.mean(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    # Seeds that differ make it longer than images alone do.
    alone = expanded_percentile_interval(each.mean(1), images)
    assert found.high - found.low > alone[1] - alone[0]


def test_a_difference_is_of_each_seed_on_the_same_images(popes, drawn):
    each, values, images = drawn
    sums = [sums_of(run, "F1", "") for run in popes]
    found = over_seeds_and_images([sums[0], sums[1]], minus=[sums[1], sums[2]])
    assert found.value == pytest.approx((values[0] - values[2]) / 2)
    pairs = [values[0] - values[1], values[1] - values[2]]
    low, high = limits_of(each[:, [0, 1]] - each[:, [1, 2]], pairs, images)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_cv_bench_s_official_number_over_seeds_and_images(tmp_path):
    data = make_cv_data(tmp_path / "data", 30)
    for seed in range(2):
        assert ask("cvbench", CvSeed(seed), data, tmp_path / str(seed)) == 0
    runs, _ = open_runs([tmp_path / str(seed) for seed in range(2)])
    sums = [sums_of(run, "official", "") for run in runs]
    values = [next(h.value for h in headlines("cvbench", run.scores) if h.measure == "official") for run in runs]
    assert values[0] != values[1]
    assert [one.value for one in sums] == pytest.approx(values)
    clusters = sums[0].cells.shape[0]
    weights = image_draws(clusters)
    each = np.zeros((len(weights), 2))
    for place, one in enumerate(sums):
        for draw, weight in enumerate(weights):
            ade, coco, omni = ((weight @ one.cells[:, c, 0]) / (weight @ one.cells[:, c, 1]) for c in range(3))
            each[draw, place] = ((ade + coco) / 2 + omni) / 2
    found = over_seeds_and_images(sums)
    low, high = limits_of(each, values, clusters)
    assert (found.low, found.high) == (pytest.approx(max(0, low)), pytest.approx(min(1, high)))


def test_seeds_that_agree_to_the_last_answer_leave_the_images(popes):
    sums = [sums_of(popes[0], "F1", "")] * 2
    found, alone = over_seeds_and_images(sums), over_seeds_and_images(sums[:1])
    assert (found.low, found.high) == (alone.low, alone.high)
    nothing = over_seeds_and_images(sums, minus=sums)
    assert nothing.low < nothing.value == 0 < nothing.high


def test_intervals_hold_the_truth_as_often_as_is_said():
    """Seeds that decide alone: the case in which a bootstrap of three seeds holds it in 81 % of cases."""
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        right = draw.binomial(9, np.clip(0.8 + draw.normal(0, 0.05, 3), 0, 1)[:, None], (3, 100))
        seeds = [Sums("q", np.stack([own, np.full(100, 9)], 1)[:, None].astype(float), "share") for own in right]
        found = over_seeds_and_images(seeds)
        held += found.low <= 0.8 <= found.high
    assert held >= 180


def test_seeds_that_were_asked_different_questions(popes, tmp_path):
    data = make_data(tmp_path / "data", 4)
    assert ask("pope", Seed(0), data, tmp_path / "other") == 0
    (other,), _ = open_runs([tmp_path / "other"])
    with pytest.raises(ValueError, match="different questions"):
        over_seeds_and_images([sums_of(popes[0], "F1", ""), sums_of(other, "F1", "")])
