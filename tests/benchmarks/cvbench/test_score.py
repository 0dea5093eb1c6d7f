from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from random import Random
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agevlm.errors import DataError
from benchmarks.cvbench.readings import read
from benchmarks.cvbench.score import (
    SOURCES,
    Disagreement,
    Row,
    Score,
    agreement,
    differences,
    disagreements,
    gains,
    official_mean,
    rule_counts,
    score,
)
from benchmarks.cvbench.types import NO_ANSWER, Reading
from benchmarks.statistics.clusters import resampling_weights, score_interval
from benchmarks.statistics.exchange import exchange_exact

RIGHT, WRONG, UNREAD = Reading(0, "letter"), Reading(1, "letter"), Reading(None, "no-rule")
TASKS = {"ADE20K": ("Count", "Relation"), "COCO": ("Count", "Relation"), "Omni3D": ("Depth", "Distance")}
DRAWS = 400


def row(source: str, reading: Reading = RIGHT, image: str = "", task: str = "Count", n_options: int = 4) -> Row:
    kind = "3D" if source == "Omni3D" else "2D"
    return Row(image or f"{source}.jpg", source, kind, task, n_options, 0, reading)


def mixed(seed: int = 0, n: int = 240) -> list[Row]:
    """Rows of all sources and tasks, one to four questions an image, sources of different size and difficulty."""
    random = Random(seed)
    rows = []
    for number in range(n):
        source = random.choice(("ADE20K", "COCO", "COCO", "Omni3D", "Omni3D", "Omni3D"))
        image = f"{source}_{random.randrange(n // 8)}.jpg"
        share = {"ADE20K": 0.9, "COCO": 0.6, "Omni3D": 0.4}[source]
        reading = RIGHT if random.random() < share else random.choice((WRONG, UNREAD))
        options = 2 if source == "Omni3D" else random.choice((4, 5, 6))
        rows.append(row(source, reading, image, TASKS[source][number % 2], options))
    return rows


def named(scores: Sequence[Score]) -> dict[str, Score]:
    found = {one.name: one for one in scores}
    assert len(found) == len(scores)
    return found


# --- the official number ----------------------------------------------------------------------------------------------

OFFICIAL_ROWS = st.lists(st.tuples(st.sampled_from(SOURCES), st.booleans()), max_size=60)


@given(OFFICIAL_ROWS)
def test_official_mean_is_the_formula(rows: list[tuple[str, bool]]) -> None:
    accuracies = []
    for source in SOURCES:
        outcomes = [correct for one, correct in rows if one == source]
        accuracies.append(Fraction(sum(outcomes), len(outcomes)) if outcomes else None)
    ade20k, coco, omni3d = accuracies
    if ade20k is None or coco is None or omni3d is None:
        assert official_mean(rows) is None
    else:
        expected = Fraction(1, 2) * ((ade20k + coco) / 2 + omni3d)
        assert official_mean(rows) == pytest.approx(float(expected), abs=1e-15)


def test_official_mean_is_that_of_the_function_that_lmms_eval_has_and_does_not_use(lmms_eval: ModuleType) -> None:
    rows = [(one.source, one.correct) for one in mixed()]
    results = [{"source": source, "is_correct": correct} for source, correct in rows]
    assert official_mean(rows) == lmms_eval.cv_bench_default_aggregate_results(results)
    # the number it reports instead is another one
    reported = lmms_eval.cv_bench_aggregate_results(results)
    scores = named(score(mixed(), draws=DRAWS))
    assert scores["row mean"].accuracy.value == reported
    assert abs(scores["official"].accuracy.value - reported) > 0.02


def test_an_unknown_source_has_no_official_number() -> None:
    with pytest.raises(DataError, match=r"row 1: source 'Hypersim'.*ADE20K, COCO, Omni3D"):
        official_mean([("COCO", True), ("Hypersim", True)])


def test_sources_weigh_what_the_formula_says_whatever_their_size() -> None:
    rows = [row("ADE20K")] + [row("COCO", WRONG)] * 7 + [row("Omni3D")] * 3 + [row("Omni3D", WRONG)]
    scores = named(score(rows, draws=DRAWS))
    assert scores["official"].accuracy.value == 0.5 * ((1 + 0) / 2 + 0.75) == 0.625
    assert scores["2D"].accuracy.value == 0.5
    assert scores["3D"].accuracy.value == 0.75
    assert scores["row mean"].accuracy.value == 4 / 12


# --- the table --------------------------------------------------------------------------------------------------------


def test_every_number_against_longhand() -> None:
    rows = mixed()
    scores = named(score(rows, draws=DRAWS))
    assert list(scores) == [
        *("official", "2D", "3D", "row mean", "source ADE20K", "source COCO", "source Omni3D"),
        *("task Count", "task Relation", "task Depth", "task Distance"),
    ]
    groups = {
        "3D": [one for one in rows if one.type == "3D"],
        "row mean": rows,
        **{f"source {s}": [one for one in rows if one.source == s] for s in SOURCES},
        **{f"task {t}": [one for one in rows if one.task == t] for pair in TASKS.values() for t in pair},
    }
    for name, part in groups.items():
        found = scores[name]
        assert found.accuracy.value == sum(one.reading == RIGHT for one in part) / len(part)
        assert found.if_unparsed_right == sum(one.reading != WRONG for one in part) / len(part)
        assert found.chance == pytest.approx(sum(1 / one.n_options for one in part) / len(part))
        assert (found.n, found.missing) == (len(part), 0)
        assert found.images == len({one.image for one in part})
        assert found.unparsed == sum(one.reading == UNREAD for one in part)
    official = scores["official"]
    assert official.accuracy.value == official_mean((one.source, one.correct) for one in rows)
    assert official.chance == pytest.approx(
        0.5 * ((scores["source ADE20K"].chance + scores["source COCO"].chance) / 2 + scores["source Omni3D"].chance)
    )
    assert (official.n, official.images) == (len(rows), len({one.image for one in rows}))


def test_intervals_resample_images_and_not_rows() -> None:
    rows = mixed()
    images = sorted({one.image for one in rows})
    weights = resampling_weights(len(images), DRAWS, 3)
    drawn = []
    for draw in weights:
        sample = [
            one for image, times in zip(images, draw, strict=True) for one in rows * int(times) if one.image == image
        ]
        drawn.append(official_mean((one.source, one.correct) for one in sample))
    fewest = min(len({one.image for one in rows if one.source == s}) for s in SOURCES)
    value = official_mean((one.source, one.correct) for one in rows)
    assert value is not None
    expected = score_interval(value, np.array(drawn, dtype=float), fewest)
    found = named(score(rows, draws=DRAWS, seed=3))["official"].accuracy
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert 0.02 < found.high - found.low < 0.4


def test_more_questions_about_the_same_images_give_no_narrower_interval() -> None:
    rows = mixed()
    one, three = named(score(rows, draws=DRAWS)), named(score(rows * 3, draws=DRAWS))
    for name in one:
        assert three[name].accuracy.low == pytest.approx(one[name].accuracy.low)
        assert three[name].accuracy.high == pytest.approx(one[name].accuracy.high)
    # the same rows as questions about different images are more information
    apart = [replace(r, image=f"{r.image}{i}") for i, r in enumerate(rows * 3)]
    wide, narrow = one["official"].accuracy, named(score(apart, draws=DRAWS))["official"].accuracy
    assert narrow.high - narrow.low < 0.8 * (wide.high - wide.low)


def test_the_order_of_rows_does_not_matter() -> None:
    rows = mixed()
    assert score(rows[::-1], draws=DRAWS) == score(rows, draws=DRAWS)


def test_missing_answers_enter_nothing_and_are_counted() -> None:
    rows = mixed()
    failed = [replace(r, reading=NO_ANSWER) for r in rows[:5]]
    with_failures, without = named(score(failed + rows[5:], draws=DRAWS)), named(score(rows[5:], draws=DRAWS))
    for name, found in with_failures.items():
        assert found.accuracy.value == without[name].accuracy.value
        assert (found.n, found.chance, found.unparsed) == (
            without[name].n,
            without[name].chance,
            without[name].unparsed,
        )
    assert with_failures["row mean"].missing == with_failures["official"].missing == 5
    nothing = named(score([row(s, NO_ANSWER) for s in SOURCES], draws=DRAWS))["official"]
    assert math.isnan(nothing.accuracy.value)
    assert (nothing.n, nothing.missing, nothing.below_chance) == (0, 3, False)


def test_a_part_of_the_benchmark_has_no_official_number() -> None:
    assert list(named(score([row("COCO"), row("Omni3D")], draws=DRAWS)))[:2] == ["3D", "row mean"]
    assert list(named(score([row("ADE20K"), row("COCO")], draws=DRAWS)))[:2] == ["2D", "row mean"]
    assert score([]) == []


def test_other_sources_are_grouped_by_type() -> None:
    rows = [
        *(Row(f"{i}.png", "CV-Scenes", "2D", "Color", 4, 0, RIGHT) for i in range(3)),
        Row("0.png", "CV-Scenes", "3D", "Depth", 2, 0, WRONG),
    ]
    scores = named(score(rows, draws=DRAWS))
    assert list(scores) == ["2D", "3D", "row mean", "source CV-Scenes", "task Depth", "task Color"]
    assert [scores[name].accuracy.value for name in ("2D", "3D", "row mean")] == [1, 0, 0.75]


def test_below_chance_needs_the_whole_interval() -> None:
    bad = [row("Omni3D", WRONG if i % 10 else RIGHT, f"{i}.jpg", "Depth", 2) for i in range(100)]
    assert named(score(bad, draws=DRAWS))["3D"].below_chance
    even = [row("Omni3D", WRONG if i % 2 else RIGHT, f"{i}.jpg", "Depth", 2) for i in range(100)]
    assert not named(score(even, draws=DRAWS))["3D"].below_chance
    few = [row("Omni3D", WRONG, f"{i}.jpg", "Depth", 2) for i in range(3)]
    assert not named(score(few, draws=DRAWS))["3D"].below_chance


def test_a_right_option_that_is_not_offered_is_an_error() -> None:
    with pytest.raises(DataError, match=r"row 1 \(image COCO.jpg\): right option 4 of 4"):
        score([row("COCO"), replace(row("COCO"), gold=4)])


# --- where readings differ --------------------------------------------------------------------------------------------

ASKED: list[tuple[str | None, tuple[str, ...]]] = [
    ("above", ("above", "below")),
    ("above", ("above", "below")),
    ("above", ("left", "right")),
    ("(B)", ("left", "right")),
    ("left", ("left", "right")),
    (None, ("left", "right")),
]


def test_disagreements_and_agreement() -> None:
    names = ("rules", "strict", "official")
    readings = {name: [read(name, answer, options) for answer, options in ASKED] for name in names}
    found = disagreements(ASKED, readings)
    assert [(d.answer, d.options, d.count) for d in found] == [
        ("above", ("above", "below"), 2),
        ("above", ("left", "right"), 1),
        ("left", ("left", "right"), 1),
    ]
    assert isinstance(found[0], Disagreement)
    assert {name: reading.option for name, reading in found[1].readings.items()} == {
        "rules": None,
        "strict": None,
        "official": 0,
    }
    assert disagreements(ASKED, readings, most=1) == found[:1]
    assert agreement(readings) == {
        ("rules", "rules"): 6,
        ("rules", "strict"): 3,
        ("rules", "official"): 4,
        ("strict", "strict"): 6,
        ("strict", "official"): 3,
        ("official", "official"): 6,
    }
    with pytest.raises(ValueError, match="each of the 6 answers"):
        disagreements(ASKED, {"rules": readings["rules"][:5]})


def test_rule_counts() -> None:
    counts = rule_counts(read("rules", answer, options) for answer, options in ASKED)
    assert counts == {
        ("text", True): 3,
        ("letter-alone", True): 1,
        ("no-answer", False): 1,
        ("no-rule", False): 1,
    }
    assert next(iter(counts)) == ("text", True)


# --- differences of two models ----------------------------------------------------------------------------------------


def test_differences_are_gains_with_both_numbers() -> None:
    first = mixed(1)
    # The same questions, with the answers of another set of rows, and some missing.
    second = [replace(a, reading=b.reading) for a, b in zip(first, mixed(2), strict=True)]
    second[3:9] = [replace(one, reading=NO_ANSWER) for one in second[3:9]]
    found, gained = differences(first, second, draws=DRAWS), gains(first, second, draws=DRAWS)
    assert list(found) == list(gained)
    assert found["official"].gain.value != 0
    shared = [k for k in range(len(first)) if not 3 <= k < 9]
    for side, rows in (("first", first), ("second", second)):
        by_hand = named(score([rows[k] for k in shared], draws=DRAWS))
        for name, one in found.items():
            assert getattr(one, side) == pytest.approx(by_hand[name].accuracy.value)
    for name, one in found.items():
        gain = gained[name]
        assert (one.gain.value, one.gain.low, one.gain.high) == pytest.approx((gain.value, gain.low, gain.high))
    back = differences(second, first, draws=DRAWS)
    assert back["official"].gain.low == pytest.approx(-found["official"].gain.high)
    assert back["official"].p == found["official"].p


def test_the_p_of_a_difference_is_that_of_exchanged_images() -> None:
    first = mixed(1)
    second = [replace(a, reading=b.reading) for a, b in zip(first, mixed(5), strict=True)]
    found = differences(first, second, draws=DRAWS)["row mean"]
    by_image: dict[str, int] = {}
    for a, b in zip(first, second, strict=True):
        by_image[a.image] = by_image.get(a.image, 0) + a.correct - b.correct
    exact = exchange_exact(list(by_image.values()))
    assert 0.001 < exact < 0.9
    assert found.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 10_000))
    assert differences([], []) == {}
