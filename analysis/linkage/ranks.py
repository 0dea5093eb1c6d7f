"""How well one signal tells one target: AUROC with an interval over images, and what chance would give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.linkage.targets import FEWEST
from benchmarks.statistics.clusters import Interval, score_interval
from benchmarks.statistics.ranking import auroc_draws, concordant_blocks
from benchmarks.statistics.scores import divide

Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]
PERMUTATIONS = 200


@dataclass(frozen=True, eq=False)
class Sample:
    """The questions of one target that have a value."""

    n: int
    positives: int
    images_with_positive: int
    images_with_negative: int

    @classmethod
    def of(cls, positive: Truths, clusters: NDArray[np.int64]) -> Sample:
        """Counts of rows."""
        return cls(
            len(positive),
            int(positive.sum()),
            len(np.unique(clusters[positive])),
            len(np.unique(clusters[~positive])),
        )

    @property
    def too_few(self) -> bool:
        """Whether fewer than `FEWEST` images have a positive question, or a negative one."""
        return min(self.images_with_positive, self.images_with_negative) < FEWEST


@dataclass(frozen=True, eq=False)
class Ranked:
    """What one signal tells of one target."""

    sample: Sample
    undefined: int
    """Questions of the target without a value of the signal."""
    why_not: str | None
    """Why there is no figure: "too few", "constant", "none"."""
    auroc: Interval
    """Above 0.5: the larger the signal, the likelier the positive class. Never turned around afterwards."""
    draws: Floats | None
    """(draws,): for differences between models."""
    permuted: Interval
    """Mean, 2.5 % and 97.5 % of the AUROC of the same values dealt out at random."""

    @property
    def direction(self) -> str:
        """higher or lower, where the interval leaves 0.5 out: which values go with the positive class."""
        if self.auroc.low > 0.5:
            return "higher"
        return "lower" if self.auroc.high < 0.5 else ""


NOTHING = Interval(float("nan"), float("nan"), float("nan"))


def rank_signal(
    values: Floats, positive: Truths, clusters: NDArray[np.int64], weights: Floats, seed: int, level: float = 0.95
) -> Ranked:
    """AUROC of a signal (n,), NaN where it has no value, for `positive` (n,), with `clusters` (n,) as the columns of
    `weights` (draws, images)."""
    defined = ~np.isnan(values)
    value, truth, cluster = values[defined], positive[defined], clusters[defined]
    sample, undefined = Sample.of(truth, cluster), int((~defined).sum())
    why = None
    if sample.n == 0:
        why = "none"
    elif np.ptp(value) <= 1e-9 * max(1.0, float(np.abs(value).max())):
        why = "constant"
    elif sample.too_few:
        why = "too few"
    if why is not None:
        return Ranked(sample, undefined, why, NOTHING, None, NOTHING)
    auroc, draws = clustered(value, truth, cluster, weights, level)
    return Ranked(sample, undefined, None, auroc, draws, permuted_auroc(value, truth, seed))


def clustered(
    values: Floats, positive: Truths, clusters: NDArray[np.int64], weights: Floats, level: float = 0.95
) -> tuple[Interval, Floats]:
    """AUROC with its interval, as `clustered_auroc`, and its draws."""
    blocks, positives, negatives = concordant_blocks(values, positive, clusters, weights.shape[1])
    pairs, draws = auroc_draws(blocks, positives, negatives, weights)
    estimate = float(divide(np.asarray(pairs), positives.sum() * negatives.sum()))
    images = int(min(np.count_nonzero(positives), np.count_nonzero(negatives)))
    return score_interval(estimate, draws, images, level), draws


def plain_auroc(values: Floats, positive: Truths) -> float:
    """AUROC of the questions that have a value, without an interval; NaN where a class is absent."""
    from sklearn.metrics import roc_auc_score

    there = ~np.isnan(values)
    if len(np.unique(positive[there])) < 2:
        return float("nan")
    return float(roc_auc_score(positive[there], values[there]))


def permuted_auroc(values: Floats, positive: Truths, seed: int, times: int = PERMUTATIONS) -> Interval:
    """Mean and central 95 % of the AUROC where values are dealt out to the questions at random: 0.5 but for luck."""
    from scipy.stats import rankdata

    ranks = rankdata(values)
    generator = np.random.default_rng(seed)
    p, n = int(positive.sum()), int((~positive).sum())
    sums = np.array([generator.permutation(ranks)[positive].sum() for _ in range(times)])
    areas = (sums - p * (p + 1) / 2) / (p * n)
    return Interval(float(areas.mean()), *(float(v) for v in np.quantile(areas, (0.025, 0.975))))


def difference(first: Ranked, second: Ranked, level: float = 0.95) -> Interval:
    """How much larger the second AUROC is, on the same draws of images; NaN where either has none."""
    if first.draws is None or second.draws is None:
        return NOTHING
    images = min(
        first.sample.images_with_positive,
        first.sample.images_with_negative,
        second.sample.images_with_positive,
        second.sample.images_with_negative,
    )
    value = second.auroc.value - first.auroc.value
    return score_interval(value, second.draws - first.draws, images, level, lowest=-1.0, highest=1.0)
