"""The co-occurrence prior against scikit-learn's naive Bayes, and that it does not know the answer."""

import numpy as np
import pytest
from sklearn.naive_bayes import BernoulliNB

from analysis.linkage.prior import SMOOTHING, cooccurrence_prior, presence_of


def shown(seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    kind = generator.random(60) < 0.5
    return generator.random((60, 5)) < np.where(kind[:, None], [0.9, 0.8, 0.2, 0.3, 0.5], [0.1, 0.2, 0.7, 0.3, 0.5])


def test_it_is_naive_bayes_over_what_is_there() -> None:
    table = shown()
    for image in range(6):
        others = np.delete(table, image, axis=0)
        for c in range(5):
            model = BernoulliNB(alpha=SMOOTHING).fit(others, others[:, c])
            evidence = model.feature_log_prob_[1] - model.feature_log_prob_[0]
            there = [d for d in range(5) if d != c and table[image, d]]
            have = others[:, c].sum()
            start = np.log((have + SMOOTHING) / (len(others) - have + SMOOTHING))
            expected = start + evidence[there].sum()
            assert cooccurrence_prior(table, image)[c] == pytest.approx(expected)


def test_it_does_not_know_whether_the_object_is_there() -> None:
    table = shown()
    for c in range(5):
        other = table.copy()
        other[7, c] = ~other[7, c]
        assert cooccurrence_prior(other, 7)[c] == pytest.approx(cooccurrence_prior(table, 7)[c])


def test_companions_raise_it() -> None:
    table = np.zeros((41, 3), bool)
    table[:20, :2] = True  # 0 and 1 come together
    table[20:40, 2] = True
    table[40, 1] = True
    prior = cooccurrence_prior(table, 40)
    assert prior[0] > 3
    assert prior[2] < -3


def test_presence_by_name() -> None:
    assert presence_of([("b", "other"), ()], ["a", "b"]).tolist() == [[False, True], [False, False]]
