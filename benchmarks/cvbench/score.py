"""From read answers to CV-Bench's numbers. Pure: the same rows give the same numbers, to the last bit."""

from __future__ import annotations

from collections.abc import Iterable

from agevlm.errors import DataError

SOURCES = ("ADE20K", "COCO", "Omni3D")
"""CV-Bench's sources: the first two are its 2D questions, the last its 3D questions."""


def official_mean(rows: Iterable[tuple[str, bool]]) -> float | None:
    """CV-Bench's official number, 1/2 ((ADE20K + COCO) / 2 + Omni3D), from rows of (source, whether it is right).

    Each term is a source's share of right answers, in [0, 1]. None unless all three sources have rows: a part of the
    benchmark has no official number. Raises DataError for a source that CV-Bench does not have.
    """
    right, total = dict.fromkeys(SOURCES, 0), dict.fromkeys(SOURCES, 0)
    for number, (source, correct) in enumerate(rows):
        if source not in total:
            raise DataError(f"row {number}: source {source!r} is none of CV-Bench's ({', '.join(SOURCES)})")
        total[source] += 1
        right[source] += bool(correct)
    if not all(total.values()):
        return None
    ade20k, coco, omni3d = (right[source] / total[source] for source in SOURCES)
    return 1 / 2 * ((ade20k + coco) / 2 + omni3d)
