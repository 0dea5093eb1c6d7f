"""What training data is made of: an image, a conversation about it, and phrases whose regions are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from agevlm.errors import DataError

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    """system, user or assistant. The language-modelling loss is on what the assistant says, its end token included."""
    text: str


@dataclass(frozen=True, eq=False)
class Phrase:
    """Words of a message that name a region of the image."""

    message: int
    """Which message, from 0."""
    start: int
    """First character of the words in the message's text, and `end` behind the last."""
    end: int
    mask: NDArray[np.bool_]
    """(image height, image width): the region; the union where the words name several objects."""


@dataclass(frozen=True)
class Words:
    """Words of a message that may name a region, which is not known; a teacher looks for it."""

    message: int
    """Which message, from 0."""
    start: int
    """First character of the words in the message's text, and `end` behind the last."""
    end: int


@dataclass(frozen=True, eq=False)
class Sample:
    """One training sample."""

    id: str
    """Names it in errors and logs."""
    messages: tuple[Message, ...]
    image: Any = None
    """PIL image in RGB, or None for text alone."""
    phrases: tuple[Phrase, ...] = ()
    """Empty where no region is known. Its source says beforehand which samples have any: see `Source.guided`."""
    words: tuple[Words, ...] = ()
    """Phrases that the source names without a region. Training pays no heed to them."""
    image_name: str = ""
    """The image's file as its source names it; empty where there is no file."""
    image_sha256: str = ""
    """Of the file's bytes, in hex; empty where there is no file."""

    def bad(self, says: str, reason: Reason = "record") -> BadSample:
        """An error that says what it cannot be used for."""
        return BadSample(f"sample {self.id}: {says}", reason, self.id)


Reason = Literal["record", "image", "region", "length", "silent"]
"""What a sample cannot be used for: its record, its image, a phrase or its region, more tokens than fit, or nothing for
the assistant to say."""


class BadSample(DataError):
    """A sample that cannot be used, and that says nothing of the others: training takes the next one in its place.

    Args:
        says: what is wrong, and where.
        reason: in one word.
        id: of the sample.
    """

    def __init__(self, says: str, reason: Reason = "record", id: str = "") -> None:
        super().__init__(says)
        self.reason, self.id = reason, id

    def at(self, where: str, id: str) -> BadSample:
        """The same, with its place in front."""
        return BadSample(f"{where} (id {id}): {self}", self.reason, id)


class Source(Protocol):
    """A fixed, indexable collection of samples. Reading sample i is a pure function of i and `epoch`."""

    name: str

    @property
    def fingerprint(self) -> str:
        """Changes when the data change; a run is not resumed on other data."""
        ...

    @property
    def guided(self) -> Sequence[int]:
        """Indices of the samples whose regions are known, ascending."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int, epoch: int) -> Sample:
        """Sample `index`. Sources that draw their texts anew each time draw them from (index, epoch) alone.

        Raises:
            BadSample: this one cannot be used.
            DataError: none can: a folder is gone, an option is missing.
        """
        ...
