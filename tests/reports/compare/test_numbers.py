"""What two runs' difference is: against loops over their files."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.statistics.clusters import expanded_percentile_interval, resampling_weights
from reports.compare.comparison import Comparison, below, compare, leads
from reports.compare.flips import margin
from reports.compare.sides import open_sides
from tests.reports.compare.conftest import guesses, plant, questions_of, rewrite

DRAWS = 200


def compared(*folders: Path, **options) -> Comparison:
    base, other = open_sides(folders, None, None, "image")
    return compare(base, other, draws=DRAWS, **options)


def said(run: Path) -> dict[tuple[str, str], tuple[dict, str]]:
    """(split, id) -> question and answer, from the files alone."""
    texts = {r["key"]: r["text"] for r in map(json.loads, (run / "answers-00000.jsonl").read_text().splitlines())}
    return {
        (row["question"].get("split", ""), row["question"].get("question_id", row["question"].get("idx"))): (
            row["question"],
            texts[row["keys"]["image"]],
        )
        for row in questions_of(run)
    }


def pope_right(question: dict, text: str) -> bool:
    return (text == "Yes") == question["label"]


def f1(rows: list[tuple[dict, str]]) -> float:
    tp = sum(question["label"] and text == "Yes" for question, text in rows)
    return 2 * tp / (sum(question["label"] for question, _ in rows) + sum(text == "Yes" for _, text in rows))


def test_pope_by_longhand(made):
    found = compared(made / "pope-a", made / "pope-b")
    a, b = said(made / "pope-a"), said(made / "pope-b")
    assert len(found.pairing.pairs) == len(a) == 360
    numbers = {one.name: one.scores for one in found.numbers}
    assert list(numbers) == ["random", "popular", "adversarial", "mean of splits", "pooled"]
    images = sorted({question["image"] for question, _ in a.values()})
    weights = resampling_weights(len(images), DRAWS, 0)

    def drawn(rows, weight):
        return [row for row in rows for _ in range(int(weight[images.index(row[0]["image"])]))]

    by_split = {}
    for split in ("random", "popular", "adversarial"):
        rows = [[one[key] for key in a if key[0] == split] for one in (a, b)]
        gains = np.array([f1(drawn(rows[1], w)) - f1(drawn(rows[0], w)) for w in weights])
        low, high = expanded_percentile_interval(gains, len(images))
        one = numbers[split]["f1"]
        assert (one.second, one.first) == pytest.approx((f1(rows[0]), f1(rows[1])))
        assert (one.gain.low, one.gain.high) == pytest.approx((float(low), float(high)))
        accuracy = [np.mean([pope_right(*row) for row in side]) for side in rows]
        assert numbers[split]["accuracy"].gain.value == pytest.approx(accuracy[1] - accuracy[0])
        yes = [np.mean([text == "Yes" for _, text in side]) for side in rows]
        assert numbers[split]["yes_ratio"].gain.value == pytest.approx(yes[1] - yes[0])
        by_split[split] = gains
        group = next(g for g in found.groups if g.name == split)
        right = [[pope_right(*row) for row in side] for side in rows]
        assert group.only_base == sum(x and not y for x, y in zip(*right, strict=True))
        assert group.only_other == sum(y and not x for x, y in zip(*right, strict=True))
        assert min(group.only_base, group.only_other) > 0
        # Two tables print it.
        assert group.gain == numbers[split]["accuracy"].gain
    mean = numbers["mean of splits"]["f1"]
    low, high = expanded_percentile_interval(np.mean(list(by_split.values()), axis=0), len(images))
    assert (mean.gain.low, mean.gain.high) == pytest.approx((float(low), float(high)))
    # What was planted is found.
    assert found.headline.name == "mean of splits"
    assert 0.1 < found.headline.scores["accuracy"].gain.value < 0.4
    (lead,) = leads([found], "accuracy")
    assert lead.verdict == "higher, established"
    assert lead.p < 0.001


def exchanged(gains: list[int]) -> float:
    """Share of all choices of signs with a sum at least as far from 0, by counting them sum by sum."""
    ways = {0: 1}
    for gain in filter(None, gains):
        following: dict[int, int] = defaultdict(int)
        for total, count in ways.items():
            following[total + gain] += count
            following[total - gain] += count
        ways = following
    return sum(n for total, n in ways.items() if abs(total) >= abs(sum(gains))) / sum(ways.values())


@pytest.mark.parametrize("kind", ["pope", "cv"])
def test_tests_of_groups_are_by_image(made, kind):
    found = compared(made / f"{kind}-a", made / f"{kind}-b")
    whole = found.groups[-1]
    by_image: dict[str, list[int]] = defaultdict(list)
    for a, b in found.pairing.pairs:
        by_image[a.question.cluster].append((b.read.verdict == "right") - (a.read.verdict == "right"))
    gains = [sum(one) for one in by_image.values()]
    # Where all images have one question, a test by question would do as well.
    assert max(map(len, by_image.values())) > 1
    assert (whole.p, whole.n, whole.images) == (pytest.approx(exchanged(gains)), len(found.pairing.pairs), len(gains))
    assert whole.mcnemar == pytest.approx(exchanged([1] * whole.only_other + [-1] * whole.only_base))
    mean = whole.gain.value
    residuals = [[gain - mean for gain in one] for one in by_image.values()]
    naive = sum(value**2 for one in residuals for value in one)
    assert whole.design_effect == pytest.approx(sum(sum(one) ** 2 for one in residuals) / naive)
    assert whole.p != pytest.approx(whole.mcnemar, rel=0.01)
    # One difference has one p, wherever it stands.
    numbers = {one.name: one.scores["accuracy"].p for one in found.numbers}
    named = [group for group in (*found.groups, *found.categories) if group.name in numbers]
    assert len(named) == {"pope": 4, "cv": 8}[kind]
    assert [group.p for group in named] == [numbers[group.name] for group in named]
    assert [g.holm for g in found.groups] == [None] * len(found.groups)
    for group in found.categories:
        own = [pair for pair in found.pairing.pairs if group.name.removeprefix("task ") == pair[0].category]
        if own:
            sums: dict[str, int] = defaultdict(int)
            for a, b in own:
                sums[a.question.cluster] += (b.read.verdict == "right") - (a.read.verdict == "right")
            assert group.p == pytest.approx(exchanged(list(sums.values())))


def test_cvbench_by_longhand(made):
    found = compared(made / "cv-a", made / "cv-b")
    shares: dict[str, list[float]] = {}
    for name in ("cv-a", "cv-b"):
        right = defaultdict(list)
        for question, text in said(made / name).values():
            right[question["source"]].append(text == f"({'ABCD'[question['gold']]})")
        mean = {source: np.mean(one) for source, one in right.items()}
        official = ((mean["ADE20K"] + mean["COCO"]) / 2 + mean["Omni3D"]) / 2
        shares.setdefault("official", []).append(official)
    assert found.headline.name == "official"
    one = found.headline.scores["accuracy"]
    assert (one.second, one.first) == pytest.approx(shares["official"])
    assert one.gain.low > 0
    assert {g.name for g in found.categories} == {
        *(f"task {t}" for t in ("Count", "Relation", "Depth", "Distance")),
        *(f"source {s}" for s in ("ADE20K", "COCO", "Omni3D")),
    }
    assert [g.name for g in found.groups] == ["row mean"]


def test_turned_round_everything_has_the_other_sign(made):
    for kind in ("pope", "cv"):
        there, back = compared(made / f"{kind}-a", made / f"{kind}-b"), compared(made / f"{kind}-b", made / f"{kind}-a")
        for one, other in zip(there.numbers, back.numbers, strict=True):
            for score, d in one.scores.items():
                turned = other.scores[score]
                assert d.gain.value == pytest.approx(-turned.gain.value)
                assert (d.gain.low, d.gain.high) == pytest.approx((-turned.gain.high, -turned.gain.low))
                assert (d.p, d.detectable) == pytest.approx((turned.p, turned.detectable))
        by_name = {g.name: g for g in back.categories}
        for g in there.categories:
            turned = by_name[g.name]
            assert (g.only_base, g.only_other) == (turned.only_other, turned.only_base)
            assert (g.p, g.holm, g.mcnemar) == pytest.approx((turned.p, turned.holm, turned.mcnemar))
        assert [f.gained for f in there.flips].count(True) == [f.gained for f in back.flips].count(False)


def test_the_order_of_questions_and_answers_changes_nothing(made, copy):
    mixed = copy("pope-b")
    for name in ("questions.jsonl", "answers-00000.jsonl"):
        lines = (mixed / name).read_text().splitlines(keepends=True)
        if name.startswith("answers"):
            lines = [json.dumps(json.loads(line) | {"commit": [0, 1]}) + "\n" for line in lines]
        random.Random(0).shuffle(lines)
        (mixed / name).write_text("".join(lines))
    straight, other = compared(made / "pope-a", made / "pope-b"), compared(made / "pope-a", mixed)
    for field in ("numbers", "groups", "categories", "images"):
        assert getattr(straight, field) == getattr(other, field)
    assert [f.base.number for f in straight.flips] == [f.base.number for f in other.flips]


def test_two_runs_that_say_the_same_are_a_tie(made, copy):
    twin = copy("pope-b", "twin")
    rewrite(twin / "answers-00000.jsonl", lambda row: row)
    plant(twin, guesses(0.6))
    found = compared(made / "pope-a", twin)
    (lead,) = leads([found], "f1")
    assert lead.difference.gain.value == 0
    assert lead.difference.gain.low < 0 < lead.difference.gain.high
    assert lead.verdict == "a tie"
    assert not found.flips
    assert all(g.holm == 1 and np.isnan(g.design_effect) for g in found.categories)


def test_a_planted_object_is_found_after_holm_and_others_are_not(made, copy):
    """One object is always wrong in the other run; all else is the same."""
    name = max(
        {q["question"]["object_name"] for q in questions_of(made / "pope-a")},
        key=lambda one: sum(q["question"]["object_name"] == one for q in questions_of(made / "pope-a")),
    )
    right = copy("pope-a", "right")
    wrong = copy("pope-b", "wrong")
    plant(right, lambda q: "Yes" if q["label"] else "No")
    plant(wrong, lambda q: "Yes" if q["label"] != (q["object_name"] == name) else "No")
    found = compared(right, wrong)
    assert found.categories[-1].name == name
    assert found.categories[-1].verdict == "lower, established"
    assert [g.name for g in found.categories if g.verdict != "a tie"] == [name]
    last = found.categories[-1]
    assert last.holm == pytest.approx(min(1, len(found.categories) * last.p))
    assert (last.only_base, last.only_other) == (last.n, 0)


def test_unanswered_questions_are_left_out_and_counted(made, copy):
    half = copy("pope-b", "half")
    keys = [row["keys"]["image"] for row in questions_of(half)]
    gone, failed = set(keys[:10]), set(keys[20:24])

    def change(row):
        if row["key"] in gone:
            return None
        row["commit"] = [0, 1]
        return row | {"text": None, "error": "no luck"} if row["key"] in failed else row

    rewrite(half / "answers-00000.jsonl", change)
    found = compared(made / "pope-a", half)
    lost = sum(key in gone or key in failed for key in keys)
    assert lost >= 14
    assert len(found.pairing.pairs) == len(keys) - lost
    assert (found.pairing.only_base, found.pairing.only_other) == (lost, 0)
    assert found.pairing.unanswered == (0, lost)


def test_answers_that_a_protocol_drops_are_left_out_and_counted(made, copy):
    vague = copy("pope-b", "vague")
    plant(vague, lambda q: "" if q["object_name"] == "dog" else "Yes")
    # RePOPE's evaluator leaves out what it cannot read.
    base, other = open_sides([made / "pope-a", vague], "repope", None, "image")
    found = compare(base, other, draws=DRAWS)
    dogs = sum(q["question"]["object_name"] == "dog" for q in questions_of(vague))
    assert dogs > 0
    assert found.pairing.not_counted == (0, dogs)
    assert "dog" not in {g.name for g in found.categories}


def test_flips_are_listed_surest_first(made):
    found = compared(made / "pope-a", made / "pope-b")
    a, b = said(made / "pope-a"), said(made / "pope-b")
    want = {key for key in a if pope_right(*a[key]) != pope_right(*b[key])}
    assert {(f.base.split, f.base.number) for f in found.flips} == want
    for gained in (True, False):
        sure = [f.sure for f in found.flips if f.gained is gained]
        assert len(sure) > 3
        assert sure == sorted(sure, reverse=True)
    one = found.flips[0]
    assert one.gained
    assert one.margins[1] < 0 < one.margins[0]
    assert one.sure == pytest.approx(min(-one.margins[1], one.margins[0]))
    # A model whose log-probabilities speak against its answer was not sure of it.
    assert replace(one, margins=(one.margins[0], 3.0)).sure == -3.0
    assert replace(one, margins=(-3.0, one.margins[1])).sure == -3.0
    assert replace(one, margins=(None, 1.0)).sure is None


def test_margins(made):
    (a, _) = open_sides([made / "pope-a", made / "pope-b"], None, None, "image")
    one = a.opened.questions[0]
    other = {"yes": "no", "no": "yes"}[one.official]
    assert margin(replace(one, options={one.official: -0.5, other: -2.0})) == pytest.approx(-1.5)
    assert margin(replace(one, options={})) is None
    assert margin(replace(one, options={one.official: float("nan"), other: -1.0})) is None
    (cv, _) = open_sides([made / "cv-a", made / "cv-b"], None, None, "image")
    asked = cv.opened.questions[0]
    given = {letter: -float(place) for place, letter in enumerate("ABCD"[: len(asked.question.options)])}
    right = asked.question.gold
    best = max(value for place, value in enumerate(given.values()) if place != right)
    unread = replace(asked.read, label="none")
    assert margin(replace(asked, options=given, read=unread)) == pytest.approx(best + right)


def apart_on(made: Path, copy, images: int) -> Comparison:
    """Two runs that say the same but for one question about each of so many images, all lost by the other."""
    right, wrong = copy("pope-a", "right"), copy("pope-b", "wrong")
    plant(right, lambda q: "Yes" if q["label"] else "No")
    taken: dict[str, str] = {}
    for row in questions_of(wrong):
        question = row["question"]
        if len(taken) < images and not question["label"]:
            taken.setdefault(question["image"], question["text"])
    plant(wrong, lambda q: "Yes" if q["label"] or taken.get(q["image"]) == q["text"] else "No")
    return compared(right, wrong)


@pytest.mark.parametrize(("images", "found"), [(4, "a tie"), (5, "a tie"), (6, "lower, established")])
def test_what_few_images_carry_is_established_by_its_p_too(made, copy, images, found):
    """Four images lost and none gained: the interval leaves 0 out, but one in eight coins does as much."""
    one = apart_on(made, copy, images)
    (lead,) = leads([one], "accuracy")
    assert lead.difference.gain.high < 0
    assert lead.difference.p == pytest.approx(2 * 0.5**images, abs=0.01)
    assert lead.verdict == found
    pooled = one.groups[-1]
    assert (pooled.name, pooled.p) == ("pooled", pytest.approx(2 * 0.5**images))
    assert pooled.verdict == found
    assert (below(lead, -0.001, established=True) is None) == (found == "a tie")
    assert below(lead, -0.001, established=False) is not None
