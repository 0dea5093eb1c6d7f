"""Scores against independent definitions, published confusion matrices, and each other."""

from __future__ import annotations

import itertools
import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from benchmarks.pope.answers import load_answered
from benchmarks.pope.floors import floor_answers, object_prior
from benchmarks.pope.protocols import PROTOCOLS, protocol
from benchmarks.pope.questions import load_questions
from benchmarks.pope.relabelled import with_repope
from benchmarks.pope.rows import IMAGE, Answer, Answered
from benchmarks.pope.score import score
from benchmarks.pope.types import PAIRED, Question, QuestionSet

ALL = tuple(PROTOCOLS.values())
DEFAULT = (protocol("default"),)


def question(
    split: str, number: int, image: str, label: bool, name: str = "dog", cluster: str | None = None
) -> Question:
    return Question(
        split, str(number), image, f"Is there a {name} in the image?", label, name, cluster or image, "here"
    )


def question_set(questions: list[Question]) -> QuestionSet:
    return QuestionSet("test", "custom:test", "0" * 64, tuple(questions))


def answered(questions: list[Question], texts: list[str | None], **conditions: list[str | None]) -> Answered:
    def answers(given: list[str | None]) -> dict[tuple[str, str], Answer]:
        return {(q.split, q.question_id): Answer(t) for q, t in zip(questions, given, strict=True)}

    all_answers = {IMAGE: answers(texts)} | {k.replace("_", "-"): answers(v) for k, v in conditions.items()}
    return Answered(question_set(questions), all_answers, "default")


def grid(images: int, per_image: int, splits: tuple[str, ...] = ("random",)) -> list[Question]:
    return [
        question(s, i * per_image + k, f"{i}.jpg", k % 2 == 0, name=f"object{(i + k) % 5}")
        for s in splits
        for i in range(images)
        for k in range(per_image)
    ]


def rows_by(scores, **want):
    return [r for r in scores.rows if all(getattr(r, k) == v for k, v in want.items())]


def test_scores_equal_scikit_learn_on_readable_answers():
    rng = random.Random(1)
    questions = grid(30, 6)
    yes = [rng.random() < 0.6 for _ in questions]
    scores = score([answered(questions, ["Yes." if y else "no" for y in yes])], DEFAULT, draws=200)
    row = rows_by(scores, split="random", condition=IMAGE)[0]
    gold = [q.label for q in questions]
    for name, oracle in (
        ("accuracy", accuracy_score),
        ("precision", precision_score),
        ("recall", recall_score),
        ("f1", f1_score),
    ):
        assert row.scores[name].value == pytest.approx(oracle(gold, yes), abs=1e-12)
        assert row.scores[name].low <= row.scores[name].value <= row.scores[name].high
    assert row.scores["yes_ratio"].value == pytest.approx(np.mean(yes))


def test_pooled_adds_up_and_mean_is_the_mean_of_the_splits():
    rng = random.Random(2)
    questions = grid(20, 6, ("random", "popular", "adversarial"))
    texts = [rng.choice(["yes", "no", "Yes, there is.", "maybe"]) for _ in questions]
    scores = score([answered(questions, texts)], DEFAULT, draws=200)
    rows = {r.split: r for r in rows_by(scores, condition=IMAGE)}
    assert list(rows) == ["random", "popular", "adversarial", "pooled", "mean"]
    splits = [rows[s] for s in ("random", "popular", "adversarial")]
    for count in ("tp", "fp", "tn", "fn", "unparsed"):
        assert rows["pooled"].counts[count] == sum(r.counts[count] for r in splits)
    for name in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
        assert rows["mean"].scores[name].value == pytest.approx(np.mean([r.scores[name].value for r in splits]))
    assert rows["mean"].scores["f1"].low < rows["mean"].scores["f1"].value < rows["mean"].scores["f1"].high


TEXTS = st.sampled_from(["yes", "No.", "", "maybe", "I'm sorry, I can't", "There is no dog", "Yes and no", None])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_question_is_accounted_for_under_every_protocol(data):
    questions = grid(6, 4, ("random", "popular"))
    texts = [data.draw(TEXTS) for _ in questions]
    kept = [data.draw(st.booleans()) for _ in questions]
    one = answered(questions, texts)
    some = {k: v for (k, v), keep in zip(one.answers[IMAGE].items(), kept, strict=True) if keep}
    scores = score([Answered(one.questions, {IMAGE: some}, "default")], ALL, draws=20)
    asked = {"random": 24, "popular": 24, "pooled": 48, "mean": 48}
    for row in rows_by(scores, condition=IMAGE):
        assert row.n + row.missing == asked[row.split]
        assert row.errors <= row.missing
        table = sum(row.counts[c] for c in ("tp", "fp", "tn", "fn"))
        if row.protocol in ("default", "lmms-eval", "repope", "cambrian"):
            assert table + row.counts["unparsed"] == row.n
        elif row.protocol in ("official", "llava", "opera", "vcd", "vlmevalkit", "strict"):
            assert table == row.n
        else:
            pytest.fail(f"no identity is stated for {row.protocol}")
        assert row.counts["counted"] == row.n - (row.counts["unparsed"] if row.protocol == "repope" else 0)
        for interval in row.scores.values():
            # Percentiles of so few draws need not enclose the estimate; they stay in range and in order.
            assert math.isnan(interval.value) or 0 <= interval.value <= 1
            assert math.isnan(interval.low) or 0 <= interval.low <= interval.high <= 1


def test_bounds_bracket_every_way_the_unreadable_could_be_read():
    questions = grid(4, 2)
    texts = ["yes", "maybe", "no", "hmm", "yes", "no", "maybe", "no"]
    row = rows_by(score([answered(questions, texts)], DEFAULT, draws=50), split="random", condition=IMAGE)[0]
    open_places = [i for i, t in enumerate(texts) if t in ("maybe", "hmm")]
    assert row.counts["unparsed"] == len(open_places)
    values = {"accuracy": [], "f1": []}
    for choice in itertools.product(["yes", "no"], repeat=len(open_places)):
        filled = list(texts)
        for place, word in zip(open_places, choice, strict=True):
            filled[place] = word
        yes = [t == "yes" for t in filled]
        gold = [q.label for q in questions]
        values["accuracy"].append(accuracy_score(gold, yes))
        values["f1"].append(f1_score(gold, yes))
    for name, found in values.items():
        assert row.scores[f"{name}_if_unparsed_wrong"].value == pytest.approx(min(found))
        assert row.scores[f"{name}_if_unparsed_right"].value == pytest.approx(max(found))


def test_an_error_is_missing_and_changes_no_score():
    questions = grid(10, 4)
    texts: list[str | None] = ["yes" if q.label or i % 5 == 0 else "no" for i, q in enumerate(questions)]
    whole = rows_by(score([answered(questions[1:], texts[1:])], ALL, draws=50), condition=IMAGE)
    broken = rows_by(score([answered(questions, [None, *texts[1:]])], ALL, draws=50), condition=IMAGE)
    for a, b in zip(whole, broken, strict=True):
        assert (a.missing, a.errors) == (0, 0)
        assert (b.missing, b.errors) == (1, 1)
        assert a.counts == b.counts
        assert a.scores["accuracy"].value == b.scores["accuracy"].value


def test_the_order_of_answers_plays_no_part():
    rng = random.Random(3)
    questions = grid(15, 6, ("random", "popular"))
    texts = [rng.choice(["yes", "no", "maybe"]) for _ in questions]
    one = answered(questions, texts, blind=texts[::-1])
    shuffled = {c: dict(rng.sample(list(a.items()), len(a))) for c, a in one.answers.items()}
    again = Answered(one.questions, shuffled, "default")
    first, second = score([one], ALL, draws=100), score([again], ALL, draws=100)
    assert json.dumps(first.to_json()) == json.dumps(second.to_json())


def test_auroc_equals_scikit_learn_and_needs_every_probability():
    rng = np.random.default_rng(4)
    questions = grid(25, 6)
    p = rng.random(len(questions)).round(2)
    answers = {
        (q.split, q.question_id): Answer("yes", {"yes": float(np.log(x + 1e-9)), "no": float(np.log(1 - x + 1e-9))})
        for q, x in zip(questions, p, strict=True)
    }
    row = rows_by(score([Answered(question_set(questions), {IMAGE: answers}, "p")], DEFAULT), split="random")[0]
    assert row.scores["auroc"].value == pytest.approx(roc_auc_score([q.label for q in questions], p), abs=1e-9)
    assert 0 < row.scores["ece"].value < 1
    first = next(iter(answers))
    answers[first] = Answer("yes")
    row = rows_by(score([Answered(question_set(questions), {IMAGE: answers}, "p")], DEFAULT), split="random")[0]
    assert "auroc" not in row.scores


def test_a_model_that_ignores_the_image_gains_nothing_and_an_oracle_gains_everything():
    questions = grid(40, 6)
    blind = ["yes"] * len(questions)
    oracle = ["yes" if q.label else "no" for q in questions]
    same = rows_by(score([answered(questions, blind, blind=blind)], DEFAULT), condition="blind", split="random")[0]
    assert same.scores["gain_accuracy"].value == 0
    assert same.scores["gain_accuracy"].low < 0 < same.scores["gain_accuracy"].high
    gained = rows_by(score([answered(questions, oracle, blind=blind)], DEFAULT), condition="blind", split="random")[0]
    assert gained.scores["gain_accuracy"].value == pytest.approx(0.5)
    assert gained.scores["gain_accuracy"].low > 0.3


def test_a_gain_is_paired_on_the_questions_that_both_conditions_answered():
    questions = grid(10, 2)
    right = ["yes" if q.label else "no" for q in questions]
    control: list[str | None] = [None if i < 10 else t for i, t in enumerate(right)]
    row = rows_by(score([answered(questions, right, blind=control)], DEFAULT), condition="blind", split="random")[0]
    assert row.scores["gain_accuracy"].value == 0


def test_pair_accuracy_wants_both_images_right():
    questions, texts = [], []
    for i, (first, second) in enumerate([("yes", "no"), ("yes", "yes"), ("no", "no"), ("yes", "no")]):
        for label, text, name in ((True, first, "original"), (False, second, "edited")):
            questions.append(question(PAIRED, len(questions), f"{name}/{i}.jpg", label, cluster=f"pair{i}"))
            texts.append(text)
    row = rows_by(score([answered(questions, texts)], DEFAULT), condition=IMAGE)[0]
    assert row.scores["pair_accuracy"].value == 0.5
    assert row.scores["accuracy"].value == 0.75


def test_the_first_disagreement_is_the_most_frequent_answer_that_is_read_differently():
    questions = grid(8, 2)
    texts = ["Yes"] * 10 + ["Nope"] * 4 + ["NO"] * 2
    found = score([answered(questions, texts)], ALL, draws=20).disagreements
    assert found[0].answer == "Nope"
    assert found[0].readings["default"] == "no"
    assert found[0].readings["official"] == "yes"
    assert all(d.answer != "Yes" for d in found)


def test_constant_floors_are_constant_and_the_prior_never_sees_its_own_fold():
    questions = grid(10, 4)
    assert floor_answers("always-yes", questions) == [True] * 40
    assert floor_answers("always-no", questions) == [False] * 40
    # Each image asks about an object of its own: without leakage from its own fold the prior knows nothing about it.
    own = [question("random", i, f"{i}.jpg", i % 2 == 0, name=f"object{i}") for i in range(40)]
    assert len(set(object_prior(own))) <= 2
    known = [question("random", i, f"{i}.jpg", i % 2 == 0, name=f"object{i % 2}") for i in range(40)]
    assert object_prior(known) == [q.label for q in known]
    flipped = [question("random", 40, "new.jpg", False, name="object0"), *known]
    assert object_prior(flipped)[0] is True


@pytest.mark.parametrize(
    ("answers", "questions", "name"),
    [
        ("llava-1.5-7b-greedy", "official", "cd_rethink/llava-7b-coco-{}-greedy"),
        ("llava-1.5-13b", "llava_variant", "haoming2000/llava-v1.5-13b {}"),
    ],
)
def test_published_answers_give_the_published_numbers_to_the_last_digit(shared, answers, questions, name):
    expected = json.loads((shared / "pope/answers/expected_official.json").read_text())
    sets = load_questions([shared / "pope" / questions])
    found = load_answered([shared / "pope/answers" / answers], sets)
    scores = score(found, (protocol("official"), protocol("llava")), draws=100)
    for split in ("random", "popular", "adversarial"):
        row = rows_by(scores, split=split, condition=IMAGE, protocol="official")[0].to_json()
        want = expected[name.format(split)]
        assert {k: row[k] for k in ("tp", "fp", "tn", "fn", "n")} == {
            k: want[k.upper() if k != "n" else "n"] for k in ("tp", "fp", "tn", "fn", "n")
        }
        for key in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
            assert row[key] == want[key]
    mean = rows_by(scores, split="mean", condition=IMAGE, protocol="llava")[0]
    f1s = [expected[name.format(s)]["f1"] for s in ("random", "popular", "adversarial")]
    assert mean.scores["f1"].value == pytest.approx(sum(f1s) / 3, abs=1e-12)


def test_the_object_prior_reaches_its_known_accuracy_on_the_official_files(shared):
    (coco,) = [s for s in load_questions([shared / "pope/official"]) if s.name == "coco"]
    for split, want in (("random", 0.696), ("popular", 0.869), ("adversarial", 0.689)):
        questions = [q for q in coco.questions if q.split == split]
        right = [a == q.label for a, q in zip(object_prior(questions), questions, strict=True)]
        assert np.mean(right) == pytest.approx(want, abs=0.005)


def test_one_set_of_answers_is_scored_on_repope_too(shared):
    sets = load_questions([shared / "pope/official"])
    found = load_answered([shared / "pope/answers/llava-1.5-7b-greedy"], sets)
    both = with_repope(found, shared / "pope/repope")
    scores = score(both, (protocol("repope"),), draws=100)
    versions = {r.data_version: r for r in rows_by(scores, split="random", condition=IMAGE)}
    assert versions["pope-coco@3df3ba1"].n == 3000
    repope = versions["repope-coco@bcf22e5"]
    assert repope.n == 2774
    labels = {
        r["question_id"]: r["label"] == "yes"
        for r in map(json.loads, (shared / "pope/repope/coco_repope_random.json").read_text().splitlines())
    }
    said = {
        r["question_id"]: "yes" in r["text"].lower()
        for r in map(
            json.loads, (shared / "pope/answers/llava-1.5-7b-greedy/coco_random.jsonl").read_text().splitlines()
        )
    }
    assert repope.scores["f1"].value == pytest.approx(f1_score(list(labels.values()), [said[i] for i in labels]))
