"""Answers to the same questions, given twice: scores, paired changes, flips. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.pope.protocols import PROTOCOLS
from benchmarks.pope.score import effects_of
from benchmarks.reading import Label
from benchmarks.statistics.bootstrap import score_with_intervals
from benchmarks.statistics.clusters import Interval, expanded_percentile_interval, score_interval
from benchmarks.statistics.scores import FIELDS, divide, score_counts

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
SCORES = ("accuracy", "f1", "yes_ratio")
SAME = 1e-12
"""Draws that differ by no more differ by rounding alone."""
GONE = 0.1
"""An object of which a crop leaves less than this share of its pixels counts as cropped away."""


@dataclass(frozen=True)
class Compared:
    """The second of two sets of answers, and how it differs from the first, on questions that both answer."""

    n: int
    """Questions as POPE counts them: one that stands in three splits counts three times."""
    questions: int
    """Different questions."""
    images: int
    missing: int
    """Different questions without an answer in one of the two."""
    unparsed: int
    """Different questions whose second answer is neither yes nor no."""
    scores: Mapping[str, Interval]
    """accuracy, f1, yes_ratio of the second, as `agevlm-eval pope` pools them under the protocol `default`."""
    change: Mapping[str, Interval]
    """Second minus first."""
    margin: Interval
    """Change of the margin between yes and no as the first token, towards the right one; nats, over questions as POPE
    counts them. NaN where a model gives no log-probabilities."""
    to_yes: int
    """Different questions that went from no to yes."""
    to_no: int
    to_wrong: int
    """Different questions that went from right to wrong."""
    to_right: int
    mcnemar: float
    """Exact two-sided p that `to_wrong` and `to_right` are equally likely; takes questions as independent."""


def label_of(answer: object, gold: bool) -> str | None:
    """What an answer is read as under POPE's protocol `default`; None where there is none (which pandas makes NaN)."""
    return PROTOCOLS["default"].read(answer, gold).label.value if isinstance(answer, str) else None


def labels_by_margin(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows where padding could be hidden, with the decisions `visible` and `hidden`: the likelier of yes and no as the
    first token. A decision without finite log-probabilities is None."""
    # Where there was nothing to hide the columns are null, as they are where logits were no numbers: tell them apart.
    rows = rows[rows["empty_cells"] > 0].copy()
    rows["visible_margin"], rows["hidden_margin"] = margins(rows, ""), margins(rows, "hidden_")
    for name in ("visible", "hidden"):
        rows[name] = [None if np.isnan(m) else "yes" if m > 0 else "no" for m in rows[f"{name}_margin"]]
    return rows


def margins(rows: pd.DataFrame, prefix: str) -> Floats:
    """(questions,): log-probability of yes minus that of no, NaN where one is not known."""
    yes, no = (rows[f"{prefix}{name}"].astype(float).to_numpy() for name in ("yes", "no"))
    return np.asarray(yes - no, np.float64)


def kept_by_crop(rows: pd.DataFrame) -> Any:
    """Mask of the rows whose object, as far as is known, a crop does not leave out."""
    return ~(rows["left_by_crop"].astype(float) < GONE)


def compare(rows: pd.DataFrame, before: str, after: str, weights: Floats) -> Compared:
    """Compare two columns of labels ("yes", "no", ...; None for no answer).

    Args:
        rows: one for each question, with `label` (the truth), `times` (in how many splits it stands), `cluster`.
        before: column of the first answers; their margins are in a column of that name and `_margin`.
        after: column of the second.
        weights: (draws, images).
    """
    answered = rows[before].notna() & rows[after].notna()
    kept = rows[answered]
    first, second = (_Counted(kept, column, weights.shape[1]) for column in (before, after))
    scored = score_with_intervals({"after": second.counts}, weights)["after"]
    images = int(kept["cluster"].nunique())
    one, two = (score_counts(c.counts.sum(0)) for c in (first, second))
    drawn = [score_counts(np.tensordot(weights, c.counts, 1)) for c in (first, second)]
    change = {}
    for name in SCORES:
        draws = drawn[1][name] - drawn[0][name]
        change[name] = score_interval(float(two[name] - one[name]), draws, images, lowest=-1.0, highest=1.0)
    was, now = kept[before].to_numpy(), kept[after].to_numpy()
    to_wrong, to_right = int((first.right & ~second.right).sum()), int((~first.right & second.right).sum())
    return Compared(
        n=int(kept["times"].sum()),
        questions=len(kept),
        images=images,
        missing=int((~answered).sum()),
        unparsed=int((~np.isin(now, ("yes", "no"))).sum()),
        scores={name: scored[name] for name in SCORES},
        change=change,
        margin=_towards_truth(kept, f"{before}_margin", f"{after}_margin", weights),
        to_yes=int(((was == "no") & (now == "yes")).sum()),
        to_no=int(((was == "yes") & (now == "no")).sum()),
        to_wrong=to_wrong,
        to_right=to_right,
        mcnemar=mcnemar(to_wrong, to_right),
    )


def _towards_truth(rows: pd.DataFrame, before: str, after: str, weights: Floats) -> Interval:
    known = rows[rows[[before, after]].notna().all(axis=1)]
    gain = np.where(known["label"], 1.0, -1.0) * (known[after] - known[before]).to_numpy(np.float64)
    at, times = known["cluster"].to_numpy(np.int64), known["times"].to_numpy(np.float64)
    top, bottom = (np.bincount(at, weights=v, minlength=weights.shape[1]) for v in (gain * times, times))
    value, drawn = float(divide(top.sum(), bottom.sum())), divide(weights @ top, weights @ bottom)
    images = int(known["cluster"].nunique())
    # Nats have no bounds to fall back on: where no draw moves the value, nothing is known of its limits.
    if images < 2 or np.nanmax(drawn) - np.nanmin(drawn) <= SAME:
        return Interval(value, float("nan"), float("nan"))
    low, high = expanded_percentile_interval(drawn, images)
    return Interval(value, float(low), float(high))


class _Counted:
    """The counts of one column of labels."""

    def __init__(self, rows: pd.DataFrame, column: str, clusters: int) -> None:
        golds = [bool(gold) for gold in rows["label"]]
        effects = effects_of([Label(name) for name in rows[column]], golds, PROTOCOLS["default"].count)
        self.right = effects[:, FIELDS.index("correct")] > 0
        """(questions,): answered as labelled."""
        self.counts = np.zeros((clusters, len(FIELDS)))
        """(images, fields)."""
        times = rows["times"].to_numpy(np.float64)[:, None]
        np.add.at(self.counts, rows["cluster"].to_numpy(np.int64), effects * times)


def accuracy_changes(
    rows: pd.DataFrame, pair: tuple[str, str], other: tuple[str, str], weights: Floats
) -> tuple[Interval, int, int]:
    """How much more accuracy changes from the first to the second column of one pair than of another.

    Returns:
        The difference of the two changes, -2 to 2; questions as POPE counts them; images.
    """
    kept = rows[rows[[*pair, *other]].notna().all(axis=1)]
    signs = {pair[1]: 1.0, pair[0]: -1.0, other[1]: -1.0, other[0]: 1.0}
    value, drawn = 0.0, np.zeros(len(weights))
    for column, sign in signs.items():
        counts = _Counted(kept, column, weights.shape[1]).counts
        value += sign * float(score_counts(counts.sum(0))["accuracy"])
        drawn += sign * score_counts(np.tensordot(weights, counts, 1))["accuracy"]
    images = int(kept["cluster"].nunique())
    interval = score_interval(value, drawn, images, lowest=-2.0, highest=2.0)
    return interval, int(kept["times"].sum()), images


def mcnemar(to_wrong: int, to_right: int) -> float:
    """McNemar's exact test: two-sided p of a fair coin over the discordant pairs; 1 where there are none."""
    from scipy.stats import binomtest

    pairs = to_wrong + to_right
    return float(binomtest(to_wrong, pairs, 0.5).pvalue) if pairs else 1.0
