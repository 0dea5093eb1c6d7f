"""Samples that cannot be used: what takes their place, what is known of them, and how many are too many.

A sample whose record, image, region or length is no good costs nothing but itself: the next index of its source that
can be used takes its place (where regions are wanted, the next that keeps its regions). Which one that is depends on
the data, the source, the index and the epoch alone, so a run meets the same samples whatever the number of processes
and however often it is resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agevlm.errors import TrainError
from train.data.samples import BadSample, Reason, Sample

GRACE = 20
"""So many samples of a source may be bad whatever their share, unless none may be."""


@dataclass(frozen=True)
class Skipped:
    """A sample that was drawn and could not be used."""

    step: int
    """In which it was drawn, from 1."""
    slot: int
    """Its place in the step's batch."""
    source: str
    index: int
    epoch: int
    id: str
    """Its source's name in front."""
    reason: Reason
    says: str
    """What is wrong with it."""
    by: str
    """Id of the sample in its place."""


def most(share: float, samples: int) -> int:
    """How many of so many samples may be bad: none at all if the share is 0."""
    return max(GRACE, int(share * samples)) if share else 0


def first_usable(
    source: str, limit: int, indices: Iterable[int], read: Callable[[int], Sample]
) -> tuple[Sample, BadSample | None]:
    """The first sample that can be used.

    Args:
        source: its name, for messages.
        limit: so many may be bad before it.
        indices: where to look, in this order; at least one.
        read: gives the sample of an index, or raises BadSample.

    Returns:
        The sample; and what is wrong with that of the first index, unless it is this one.

    Raises:
        TrainError: there is none, or too many stand before it.
    """
    bad: list[BadSample] = []
    for index in indices:
        try:
            return read(index), bad[0] if bad else None
        except BadSample as error:
            bad.append(error)
        if len(bad) > limit:
            break
    raise TrainError(
        f"source {source}: of {len(bad)} samples in a row none can be used. The first: {bad[0]}. The last: {bad[-1]}. "
        "Mend the data, or set max_bad_samples to the share of bad ones that is to be borne"
    )


def qualified(source: str, id: str) -> str:
    """A sample's id with its source's name in front, unless it stands there already."""
    return id if id.startswith(f"{source} ") else f"{source}/{id}"
