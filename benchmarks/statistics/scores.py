"""The five POPE scores as pure functions of counts.

Counts add: over questions to an image, over images to a cell, over draws by weights. Scores do not, so everything
upstream keeps counts and calls `score_counts` last.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

FIELDS: tuple[str, ...] = ("n", "correct", "tp", "fp", "tn", "fn", "unparsed", "missed", "yes")
"""Columns of a counts array of shape (..., 9).

n: answers in the accuracy denominator. correct: answers counted right. tp, fp, tn, fn: answers read as yes or no.
unparsed: answers in neither class. missed: positives lost to unreadable answers, under protocols that count them
against recall. yes: answers counted as yes.
"""

SCORES: tuple[str, ...] = ("accuracy", "precision", "recall", "f1", "yes_ratio")


def score_terms(counts: ArrayLike) -> dict[str, tuple[Floats, Floats]]:
    """Numerator and denominator of each score in `SCORES`.

    `counts` has shape (..., 9) in the order of `FIELDS`; each term has shape (...). Raises ValueError where the last
    axis is not 9 long.
    """
    array = np.asarray(counts, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] != len(FIELDS):
        raise ValueError(f"counts must have {len(FIELDS)} columns {FIELDS}, got shape {array.shape}")
    count = {field: array[..., column] for column, field in enumerate(FIELDS)}
    positives = count["tp"] + count["fn"] + count["missed"]
    return {
        "accuracy": (count["correct"], count["n"]),
        "precision": (count["tp"], count["tp"] + count["fp"]),
        "recall": (count["tp"], positives),
        "f1": (2 * count["tp"], count["tp"] + count["fp"] + positives),
        "yes_ratio": (count["yes"], count["n"]),
    }


def divide(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    """Elementwise quotient, NaN (and no warning) where the denominator is zero."""
    top, bottom = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    quotient: Floats = np.full(bottom.shape, np.nan)
    np.divide(top, bottom, out=quotient, where=bottom != 0)
    return quotient


def score_counts(counts: ArrayLike) -> dict[str, Floats]:
    """Scores of counts of shape (..., 9), each of shape (...), in [0, 1] or NaN.

    accuracy = correct / n, precision = tp / (tp + fp), recall = tp / (tp + fn + missed),
    f1 = 2 tp / (2 tp + fp + fn + missed), yes_ratio = yes / n: the formulas of POPE's evaluate.py (Li et al. 2023,
    arXiv 2305.10355). F1 is computed as it is there, 2 P R / (P + R), so that it equals published values to the last
    bit. What would be 0/0 is NaN, that is, undefined: the precision of a model that never says yes; F1 where there is
    neither a positive nor a yes. F1 without a hit is 0 otherwise.
    Raises ValueError where the last axis is not 9 long.
    """
    scores = {score: divide(*terms) for score, terms in score_terms(counts).items()}
    precision, recall = scores["precision"], scores["recall"]
    harmonic = divide(2 * precision * recall, precision + recall)
    scores["f1"] = np.where(np.isnan(harmonic), scores["f1"], harmonic)
    return scores
