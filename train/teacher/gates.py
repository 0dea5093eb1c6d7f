"""Which regions of a teacher are good enough to learn from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.teacher.producer import Found

STOP_PHRASES = frozenset(Path(__file__).with_name("stop.txt").read_text(encoding="utf-8").split("\n")) - {""}
"""Words that name no object, or the whole image."""
LONGEST = 300
"""Characters of a phrase: more is no phrase."""
_ARTICLES = re.compile(r"^(?:(?:the|a|an|this|that|these|those|its|his|her|their|some|any)\s+)+", re.IGNORECASE)


@dataclass(frozen=True)
class Gates:
    """Limits of quality. A region outside any of them is stored, but not used."""

    score: float = 0.3
    """Least score of the detector."""
    predicted_iou: float = 0.7
    """Least quality that the segmenter claims."""
    stability: float = 0.7
    """Least stability of the mask."""
    least_area: float = 0.002
    """Of the image."""
    most_area: float = 0.9
    box_iou: float = 0.5
    """Least IoU of the box and the mask's own box: a mask that left its box is of something else."""
    most_regions: int = 20
    """A phrase with more of them says too little to be taught."""


EXACT = Gates(0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1_000_000)
"""For regions that are known: all pass that are not empty."""


def without_articles(phrase: str) -> str:
    """A phrase without articles before it and blanks around it."""
    return _ARTICLES.sub("", " ".join(phrase.split()))


def is_stopped(phrase: str) -> bool:
    """Whether a phrase names no object: a stop word, a single Latin letter, no word at all, or a whole paragraph."""
    words = without_articles(phrase).lower()
    nothing = not any(c.isalnum() for c in words) or (len(words) == 1 and words.isascii())
    nothing = nothing or any("\ud800" <= c <= "\udfff" for c in words)  # halves of characters, which no model reads
    return nothing or words in STOP_PHRASES or len(words) > LONGEST


def judge(found: Found, gates: Gates) -> str:
    """Why a region is left out; empty if it is not."""
    from pycocotools import mask as coco

    area = found.share
    if not area:
        return "empty"
    for name in ("score", "predicted_iou", "stability"):
        if getattr(found, name) < getattr(gates, name):
            return name
    if area < gates.least_area:
        return "small"
    if area > gates.most_area:
        return "large"
    boxes = [np.array([[x0, y0, x1 - x0, y1 - y0]]) for x0, y0, x1, y1 in (found.box, found.mask_box)]
    if gates.box_iou and coco.iou(*boxes, [0])[0, 0] < gates.box_iou:
        return "box"
    return ""


def sort_out(found: Sequence[Found], gates: Gates) -> tuple[list[Found], int, str]:
    """Regions of one phrase, those to use before the others; how many these are; and why the others are not.

    The reason is that of the first region left out, or "many" where all are because there are too many.
    """
    reasons = [judge(one, gates) for one in found]
    order = sorted(range(len(found)), key=lambda i: bool(reasons[i]))
    kept = sum(not reason for reason in reasons)
    dropped = next((reason for reason in reasons if reason), "")
    if kept > gates.most_regions:
        kept, dropped = 0, "many"
    return [found[i] for i in order], kept, dropped
