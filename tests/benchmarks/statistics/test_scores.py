import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from benchmarks.statistics.scores import FIELDS, SCORES, score_counts, score_terms

OFFICIAL = (
    Path(__file__).resolve().parents[3].parent / "shared" / "data" / "pope" / "answers" / "expected_official.json"
)


def counts(**fields: float) -> np.ndarray:
    return np.array([float(fields.get(field, 0)) for field in FIELDS])


def readable(tp: int, fp: int, tn: int, fn: int) -> np.ndarray:
    return counts(n=tp + fp + tn + fn, correct=tp + tn, tp=tp, fp=fp, tn=tn, fn=fn, yes=tp + fp)


def test_scores_equal_those_of_the_official_code() -> None:
    if not OFFICIAL.exists():
        pytest.skip(f"official scores are not on this machine: {OFFICIAL}")
    cases = json.loads(OFFICIAL.read_text())
    assert cases
    for name, case in cases.items():
        scores = score_counts(readable(case["TP"], case["FP"], case["TN"], case["FN"]))
        assert case["n"] == case["TP"] + case["FP"] + case["TN"] + case["FN"]
        for score in SCORES:
            assert scores[score] == pytest.approx(case[score], abs=1e-12, rel=0), (name, score)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_scores_equal_scikit_learn(rows: list[tuple[bool, bool]]) -> None:
    label, answer = np.array(rows).T
    scores = score_counts(
        readable(int((label & answer).sum()), int((~label & answer).sum()), int((~label & ~answer).sum()),
                 int((label & ~answer).sum()))
    )  # fmt: skip
    expected = {
        "accuracy": metrics.accuracy_score(label, answer),
        "precision": metrics.precision_score(label, answer, zero_division=np.nan),
        "recall": metrics.recall_score(label, answer, zero_division=np.nan),
        "f1": metrics.f1_score(label, answer, zero_division=np.nan),
        "yes_ratio": answer.mean(),
    }
    for score, value in expected.items():
        assert scores[score] == pytest.approx(value, abs=1e-12, nan_ok=True), score


def test_undefined_scores_are_nan_without_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        never_yes = score_counts(readable(0, 0, 5, 5))
        only_negatives = score_counts(readable(0, 0, 5, 0))
        nothing = score_counts(counts())
    assert np.isnan(never_yes["precision"])
    assert never_yes["f1"] == 0
    assert never_yes["recall"] == 0
    assert np.isnan(only_negatives["f1"])
    assert np.isnan(only_negatives["recall"])
    assert all(np.isnan(nothing[score]) for score in SCORES)


def test_positives_lost_to_unreadable_answers_lower_recall_and_f1_only() -> None:
    kept = score_counts(counts(n=10, correct=6, tp=3, fp=1, tn=3, fn=1, unparsed=2, yes=4))
    lost = score_counts(counts(n=10, correct=6, tp=3, fp=1, tn=3, fn=1, unparsed=2, missed=2, yes=4))
    assert (kept["recall"], lost["recall"]) == (3 / 4, 3 / 6)
    assert (kept["f1"], lost["f1"]) == (6 / 8, 6 / 10)
    assert all(kept[score] == lost[score] for score in ("accuracy", "precision", "yes_ratio"))


def test_leading_axes_are_kept() -> None:
    stack = np.stack([readable(1, 2, 3, 4), readable(4, 3, 2, 1)])[None]
    assert score_counts(stack)["f1"].shape == (1, 2)
    assert score_counts(stack)["f1"][0, 1] == score_counts(stack[0, 1])["f1"]
    assert set(score_terms(stack)) == set(score_counts(stack)) == set(SCORES)


def test_a_wrong_number_of_columns_is_an_error() -> None:
    for shape in [(), (8,), (9, 3)]:
        with pytest.raises(ValueError, match="columns"):
            score_counts(np.zeros(shape))
