"""What counts as a sign of failure, and when it is there. Pure.

The paper (arXiv 2511.17793) names the signs and gives no thresholds: those here are ours, and can be set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from agevlm.errors import DataError

Verdict = Literal["present", "absent", "undecided", "not measured"]


@dataclass(frozen=True)
class Threshold:
    """Where a measure begins to be a sign."""

    measure: str
    """As named with --threshold."""
    sign: str
    says: str
    """What is measured, for the table."""
    value: float
    side: Literal["above", "below"]
    """On which side of the value the sign lies."""
    least: float
    """Thresholds below it, and above `most`, make no sense."""
    most: float
    why: str


OVERLAP, PADDING, LANGUAGE, ABSTRACT, HALLUCINATION = (
    "similarity overlap",
    "attention collapse to padding",
    "loss of language ability",
    "masks of abstract phrases",
    "hallucination",
)
_AUROC = "0.5 is no difference at all; below 0.6 a pair is told from another in fewer than three of five cases"
_PADDING = "1 is what attention gives to padding that knows no difference between picture and padding"
_ABSTRACT = "of the way from chance to the best that the grid allows, the abstract words stay so much behind objects"
THRESHOLDS = (
    Threshold("auroc", OVERLAP, "AUROC of matching against other captions", 0.6, "below", 0.5, 1.0, _AUROC),
    Threshold("auroc-centred", OVERLAP, "the same, states mean-centred", 0.6, "below", 0.5, 1.0, _AUROC),
    Threshold(
        "overlap",
        OVERLAP,
        "overlap coefficient of the two distributions",
        0.8,
        "above",
        0.0,
        1.0,
        "two normal distributions half a standard deviation apart overlap by 0.80",
    ),
    Threshold(
        "padding-object", PADDING, "padding's share over its cells, object word", 1.0, "above", 0.0, math.inf, _PADDING
    ),
    Threshold(
        "padding-last", PADDING, "padding's share over its cells, last token", 1.0, "above", 0.0, math.inf, _PADDING
    ),
    Threshold(
        "perplexity",
        LANGUAGE,
        "perplexity without image over the base model's",
        1.1,
        "above",
        1.0,
        math.inf,
        "a tenth more perplexity than before",
    ),
    *(
        Threshold(group, ABSTRACT, f"corrected IoU, objects less {group} words", 0.2, "above", 0.0, math.inf, _ABSTRACT)
        for group in ("attribute", "relation", "negation")
    ),
    Threshold(
        "yes-to-absent",
        HALLUCINATION,
        "yes to objects that are not there",
        0.1,
        "above",
        0.0,
        1.0,
        "one absent object in ten is affirmed",
    ),
)
MEASURES = tuple(threshold.measure for threshold in THRESHOLDS)


@dataclass(frozen=True)
class Measurement:
    """One measure of one model, or why there is none."""

    value: float | None = None
    low: float | None = None
    """Limits of the 95 % interval; None where there are none."""
    high: float | None = None
    n: str = ""
    """Of what it was measured on: images, questions, texts."""
    note: str = ""
    """What a reader must know; where there is no value, why."""
    doubt: bool = False
    """Whether the note says why the sign cannot be called absent, wherever the value lies."""


@dataclass(frozen=True)
class Reading:
    """One measure of one model beside its threshold."""

    model: str
    threshold: Threshold
    measurement: Measurement
    verdict: Verdict

    def row(self) -> dict[str, Any]:
        """For scores.json."""
        return {
            "model": self.model,
            "sign": self.threshold.sign,
            "measure": self.threshold.measure,
            "says": self.threshold.says,
            "value": self.measurement.value,
            "low": self.measurement.low,
            "high": self.measurement.high,
            "n": self.measurement.n,
            "threshold": self.threshold.value,
            "side": self.threshold.side,
            "verdict": self.verdict,
            "note": self.measurement.note,
        }


def verdict_of(measurement: Measurement, threshold: Threshold) -> Verdict:
    """Whether a sign is there.

    Returns:
        present: the whole interval lies on the sign's side of the threshold. absent: the whole interval lies on the
        other. undecided: the interval holds the threshold (touching it is holding it), there is none, or it lies on the
        other side and there is a doubt. not measured: there is no value.
    """
    if measurement.value is None or math.isnan(measurement.value):
        return "not measured"
    low, high = measurement.low, measurement.high
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return "undecided"
    if low <= threshold.value <= high:
        return "undecided"
    if (low > threshold.value) == (threshold.side == "above"):
        return "present"
    return "undecided" if measurement.doubt else "absent"


def read(model: str, measured: Mapping[str, Measurement], thresholds: Sequence[Threshold]) -> list[Reading]:
    """One model's measures, each beside its threshold, in the order of the thresholds.

    Args:
        model: its name.
        measured: by measure; what is not in it is not measured.
        thresholds: as set.
    """
    found = []
    for threshold in thresholds:
        measurement = measured.get(threshold.measure, Measurement(note="nothing says why"))
        found.append(Reading(model, threshold, measurement, verdict_of(measurement, threshold)))
    return found


def set_thresholds(given: Sequence[str]) -> tuple[Threshold, ...]:
    """The thresholds, with those that `MEASURE=VALUE` names set.

    Raises:
        DataError: no such measure, no number, or one beyond what the measure can be.
    """
    values: dict[str, float] = {}
    for text in given:
        measure, _, number = text.partition("=")
        if measure not in MEASURES:
            raise DataError(f"--threshold {text!r}: give MEASURE=VALUE with one of {', '.join(MEASURES)}")
        try:
            values[measure] = float(number)
        except ValueError:
            raise DataError(f"--threshold {text!r}: {number!r} is no number") from None
    found = []
    for one in THRESHOLDS:
        value = values.get(one.measure, one.value)
        if not one.least <= value <= one.most:
            raise DataError(f"--threshold {one.measure}={value:g}: give {one.least:g} to {one.most:g}")
        found.append(replace(one, value=value))
    return tuple(found)
