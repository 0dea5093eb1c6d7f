"""What several signals tell together, and what attention adds to what the answer itself gives away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.linkage.ranks import Sample, clustered
from benchmarks.statistics.clusters import Interval, score_interval

Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]
FOLDS = 5
PENALTY = 1.0
"""scikit-learn's C: ridge, so that coefficients stay finite where a signal separates the classes."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A logistic model of one target."""

    sample: Sample
    left_out: int
    """Questions of the target that lack one of the signals."""
    dropped: tuple[str, ...]
    """Signals that are constant, or that no question has."""
    coefficients: dict[str, Interval]
    """Log odds of the positive class for one standard deviation more of a signal, the others held."""


@dataclass(frozen=True, eq=False)
class Added:
    """What attention adds to a base, in cross-validated AUROC; folds hold whole images."""

    base: Interval
    full: Interval
    gain: Interval
    """full - base, on the same draws of images."""
    permuted: Interval
    """The gain where whole rows of attention are dealt out to the questions at random."""


def usable(values: dict[str, Floats]) -> tuple[list[str], list[str]]:
    """Names of signals that vary, and of those that do not or have no values."""
    names: list[str] = []
    dropped: list[str] = []
    for name, own in values.items():
        defined = own[~np.isnan(own)]
        varies = len(defined) > 0 and np.ptp(defined) > 1e-9 * max(1.0, float(np.abs(defined).max()))
        (names if varies else dropped).append(name)
    return names, dropped


def fit(values: dict[str, Floats], positive: Truths, clusters: NDArray[np.int64], level: float = 0.95) -> Fitted | None:
    """Logistic regression on standardised signals, with errors that are robust to clusters of questions (images).

    Args:
        values: signals, (n,) each; questions that lack one are left out.
        positive: (n,).
        clusters: (n,), the images.
        level: of the intervals, which have the t quantile of images - 1.

    Returns:
        None where there are too few images, or nothing varies.
    """
    from scipy.special import stdtrit

    names, dropped = usable(values)
    if not names:
        return None
    matrix = np.stack([values[name] for name in names], 1)
    whole = ~np.isnan(matrix).any(1)
    matrix, truth, cluster = matrix[whole], positive[whole], clusters[whole]
    sample = Sample.of(truth, cluster)
    if sample.too_few:
        return None
    spread = matrix.std(0)
    kept = spread > 0
    dropped += [name for name, keep in zip(names, kept, strict=True) if not keep]
    names = [name for name, keep in zip(names, kept, strict=True) if keep]
    standard = (matrix[:, kept] - matrix[:, kept].mean(0)) / spread[kept]
    model = _logistic().fit(standard, truth)
    estimate = model.coef_[0]
    error = _clustered_errors(standard, truth, model.predict_proba(standard)[:, 1], cluster)
    reach = stdtrit(len(np.unique(cluster)) - 1, (1 + level) / 2) * error
    found = {
        name: Interval(float(value), float(value - half), float(value + half))
        for name, value, half in zip(names, estimate, reach, strict=True)
    }
    return Fitted(sample, int((~whole).sum()), tuple(dropped), found)


def _clustered_errors(standard: Floats, positive: Truths, chance: Floats, clusters: NDArray[np.int64]) -> Floats:
    """Standard errors of the coefficients without the intercept: the sandwich over clusters (Liang and Zeger 1986).

    sqrt of the diagonal of G / (G - 1) H^-1 (sum over images g of s_g s_g') H^-1, with H = X' diag(p (1 - p)) X and the
    ridge, and s_g the sum over the image's questions of (y - p) x.
    """
    with_one = np.hstack([standard, np.ones((len(standard), 1))])
    ridge = np.diag([*np.full(standard.shape[1], 1 / PENALTY), 0.0])
    bread = np.linalg.inv((with_one * (chance * (1 - chance))[:, None]).T @ with_one + ridge)
    _, index = np.unique(clusters, return_inverse=True)
    groups = int(index.max()) + 1
    sums = np.zeros((groups, with_one.shape[1]))
    np.add.at(sums, index, (positive - chance)[:, None] * with_one)
    covariance = groups / (groups - 1) * bread @ (sums.T @ sums) @ bread
    errors: Floats = np.sqrt(np.diag(covariance))[:-1]
    return errors


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=PENALTY, solver="newton-cholesky", max_iter=200)


def added(
    base: dict[str, Floats],
    more: dict[str, Floats],
    positive: Truths,
    clusters: NDArray[np.int64],
    weights: Floats,
    seed: int,
    level: float = 0.95,
) -> Added | None:
    """What `more` adds to `base` in cross-validated AUROC.

    Both models are fitted on the same folds, stratified and with whole images in one fold, and predict the questions
    of the fold left out; the AUROC is that of all predictions together. Its interval resamples images and takes the
    predictions as they are: it holds what other images would change, not what other training questions would.

    Returns:
        None where there are too few images, or either side has no signal that varies.
    """
    base_names, more_names = usable(base)[0], usable(more)[0]
    if not base_names or not more_names:
        return None
    first, rest = (np.stack([own[n] for n in names], 1) for own, names in ((base, base_names), (more, more_names)))
    whole = ~np.isnan(first).any(1) & ~np.isnan(rest).any(1)
    first, rest, truth, cluster = first[whole], rest[whole], positive[whole], clusters[whole]
    sample = Sample.of(truth, cluster)
    if sample.too_few:
        return None
    dealt = rest[np.random.default_rng(seed).permutation(len(rest))]
    predicted = [
        _predicted(m, truth, cluster, seed) for m in (first, np.hstack([first, rest]), np.hstack([first, dealt]))
    ]
    results = [clustered(p, truth, cluster, weights, level) for p in predicted]
    images = min(sample.images_with_positive, sample.images_with_negative)

    def gain(k: int) -> Interval:
        value = results[k][0].value - results[0][0].value
        return score_interval(value, results[k][1] - results[0][1], images, level, lowest=-1.0, highest=1.0)

    return Added(results[0][0], results[1][0], gain(1), gain(2))


def _predicted(matrix: Floats, positive: Truths, clusters: NDArray[np.int64], seed: int) -> Floats:
    """(n,): log odds of each question from the model of the folds that do not hold its image."""
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = np.zeros(len(matrix))
    for train, test in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(matrix, positive, clusters):
        model = make_pipeline(StandardScaler(), _logistic()).fit(matrix[train], positive[train])
        found[test] = model.decision_function(matrix[test])
    return found
