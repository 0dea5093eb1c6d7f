"""What training data is made of: an image, a conversation about it, and phrases whose regions are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

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
        """Sample `index`. Sources that draw their texts anew each time draw them from (index, epoch) alone."""
        ...
