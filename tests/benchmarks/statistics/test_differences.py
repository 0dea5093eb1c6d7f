"""Differences of scores of two models: against a loop that resamples the questions themselves."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.statistics.bootstrap import score_differences, score_with_intervals
from benchmarks.statistics.clusters import expanded_percentile_interval, ratio_standard_error, resampling_weights
from benchmarks.statistics.scores import FIELDS

IMAGES, DRAWS = 25, 300


def counts(generator: np.random.Generator, skill: float) -> tuple[list[tuple[int, bool, bool]], np.ndarray]:
    """Questions as (image, official, answer), with their counts per image."""
    rows, found = [], np.zeros((IMAGES, len(FIELDS)))
    for image in range(IMAGES):
        for _ in range(4):
            gold = bool(generator.integers(2))
            said = gold if generator.random() < skill else not gold
            rows.append((image, gold, said))
            for field, one in {
                "n": 1,
                "correct": said == gold,
                "tp": said and gold,
                "fp": said and not gold,
                "tn": not said and not gold,
                "fn": not said and gold,
                "yes": said,
            }.items():
                found[image, FIELDS.index(field)] += one
    return rows, found


def f1(rows: list[tuple[int, bool, bool]]) -> float:
    tp = sum(gold and said for _, gold, said in rows)
    return 2 * tp / (sum(gold for _, gold, _ in rows) + sum(said for _, _, said in rows))


@pytest.fixture(scope="module")
def cells():
    generator = np.random.default_rng(0)
    made = {
        (model, cell): counts(generator, skill)
        for model, skill in (("first", 0.8), ("second", 0.65))
        for cell in ("easy", "hard")
    }
    return {model: {cell: made[model, cell] for cell in ("easy", "hard")} for model in ("first", "second")}


def arrays(cells, model):
    return {name: array for name, (_, array) in cells[model].items()}


def test_differences_are_those_of_resampled_questions(cells):
    weights = resampling_weights(IMAGES, DRAWS, 0)
    by_cell, means = score_differences(arrays(cells, "first"), arrays(cells, "second"), weights)

    def resampled(model, cell, weight):
        return f1([row for row in cells[model][cell][0] for _ in range(int(weight[row[0]]))])

    draws = {
        cell: [resampled("first", cell, w) - resampled("second", cell, w) for w in weights] for cell in ("easy", "hard")
    }
    # Images with a positive or a yes: the others are in no F1.
    images = {
        cell: min(len({i for i, gold, said in cells[m][cell][0] if gold or said}) for m in ("first", "second"))
        for cell in ("easy", "hard")
    }
    images["mean"] = min(images.values())
    assert images["mean"] < IMAGES
    draws["mean"] = list(np.mean([draws["easy"], draws["hard"]], axis=0))
    for name, found in {**by_cell, "mean": means}.items():
        one = found["f1"]
        low, high = expanded_percentile_interval(np.array(draws[name]), images[name])
        assert (one.gain.low, one.gain.high) == pytest.approx((float(low), float(high)))
        assert one.gain.value == pytest.approx(one.first - one.second)
        assert one.standard_error == pytest.approx(np.std(draws[name]) * np.sqrt(images[name] / (images[name] - 1)))
    assert by_cell["easy"]["f1"].first == pytest.approx(f1(cells["first"]["easy"][0]))
    assert means["f1"].second == pytest.approx(np.mean([f1(cells["second"][c][0]) for c in ("easy", "hard")]))


def test_turned_round_everything_has_the_other_sign(cells):
    weights = resampling_weights(IMAGES, DRAWS, 0)
    first, second = arrays(cells, "first"), arrays(cells, "second")
    there, back = score_differences(first, second, weights), score_differences(second, first, weights)
    for one, other in ((there[0]["hard"], back[0]["hard"]), (there[1], back[1])):
        for score in ("accuracy", "f1", "yes_ratio"):
            assert one[score].gain.value == pytest.approx(-other[score].gain.value)
            assert (one[score].gain.low, one[score].gain.high) == pytest.approx(
                (-other[score].gain.high, -other[score].gain.low)
            )
            assert one[score].p == other[score].p
            assert one[score].standard_error == pytest.approx(other[score].standard_error)


def test_pairing_takes_shared_difficulty_out(cells):
    """The same answers but for a few: the difference is far surer than either accuracy."""
    weights = resampling_weights(IMAGES, DRAWS, 0)
    first = arrays(cells, "first")
    second = {name: array.copy() for name, array in first.items()}
    for array in second.values():
        array[0, FIELDS.index("correct")] -= 1
    found = score_differences(first, second, weights)[0]["easy"]["accuracy"]
    alone = score_with_intervals(first, weights)["easy"]["accuracy"]
    assert found.gain.value == pytest.approx(1 / 100)
    assert found.gain.high - found.gain.low < (alone.high - alone.low) / 3


def test_the_standard_error_is_near_the_linearised_one(cells):
    weights = resampling_weights(IMAGES, 4000, 0)
    first, second = arrays(cells, "first")["easy"], arrays(cells, "second")["easy"]
    found = score_differences({"easy": first}, {"easy": second}, weights)[0]["easy"]["accuracy"]
    n, correct = FIELDS.index("n"), FIELDS.index("correct")
    assert found.standard_error == pytest.approx(
        ratio_standard_error(first[:, correct] - second[:, correct], first[:, n]), rel=0.06
    )


def test_other_cells_are_refused(cells):
    weights = resampling_weights(IMAGES, DRAWS, 0)
    with pytest.raises(ValueError, match="same cells"):
        score_differences({"easy": cells["first"]["easy"][1]}, {"hard": cells["first"]["hard"][1]}, weights)
    with pytest.raises(ValueError, match="same cells"):
        score_differences({}, {}, weights)
