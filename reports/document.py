"""What a report holds, before it is written in any form: sections of text, tables and figures.

Numbers become text here and nowhere else, so that HTML, LaTeX, Markdown and CSV print the same digits.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agevlm.errors import DataError

Unit = Literal["percent", "points", "number", "signed", "count"]
"""percent: a fraction, times 100, one place. points: the same with its sign, for differences. number: three places.
signed: the same with its sign. count: whole."""
NONE = "–"
"""Where there is no number."""
_SCALES: Mapping[str, tuple[int, str]] = {
    "percent": (100, ".1f"),
    "points": (100, "+.1f"),
    "number": (1, ".3f"),
    "signed": (1, "+.3f"),
    "count": (1, ",.0f"),
}
_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def printed(value: float | None, unit: Unit) -> str:
    """A number as every form of a report prints it; `NONE` where it is None or not finite."""
    if value is None or not math.isfinite(value):
        return NONE
    scale, form = _SCALES[unit]
    # No minus before a zero.
    places = int(form[-2])
    return format(round(scale * value, places) + 0.0, form)


@dataclass(frozen=True)
class Cell:
    """One cell as text."""

    text: str
    limits: tuple[str, str] | None = None
    """Of a 95 % interval."""

    def __str__(self) -> str:
        return self.text if self.limits is None else f"{self.text} [{self.limits[0]}, {self.limits[1]}]"


def number(value: float | None, low: float | None = None, high: float | None = None, unit: Unit = "percent") -> Cell:
    """A number with its limits, if it has any."""
    undefined = value is None or low is None or high is None or not all(map(math.isfinite, (value, low, high)))
    return Cell(printed(value, unit), None if undefined else (printed(low, unit), printed(high, unit)))


def interval(cell: Mapping[str, Any], unit: Unit = "number") -> Cell:
    """The same of a mapping with `value`, `low` and `high`, as analyses write them."""
    return number(cell["value"], cell.get("low"), cell.get("high"), unit)


def flat(row: Mapping[str, Any], score: str, unit: Unit = "percent") -> Cell:
    """The same of a row with `SCORE`, `SCORE_low` and `SCORE_high`, as benchmarks write them."""
    return number(row.get(score), row.get(f"{score}_low"), row.get(f"{score}_high"), unit)


@dataclass(frozen=True)
class Column:
    """A heading."""

    name: str
    numeric: bool = True
    """Set to the right; in CSV its limits have columns of their own where any row has them."""


@dataclass(frozen=True)
class Table:
    """Rows of cells. Its id names its files and its place on the page."""

    id: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    """What one must know to read it: units, data version, prompt, protocol, intervals."""
    folded: bool = False
    """On the page its rows are shown when asked for: what is looked up, and not read through."""

    def __post_init__(self) -> None:
        _check_id(self.id)
        wrong = [len(row) for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"table {self.id}: {len(self.columns)} columns, a row of {wrong[0]} cells")


@dataclass(frozen=True)
class Figure:
    """A drawing in both forms."""

    id: str
    title: str
    alt: str
    """What it shows, for those who do not see it: the finding, not the look."""
    png: bytes
    svg: bytes
    note: str = ""

    def __post_init__(self) -> None:
        _check_id(self.id)


@dataclass(frozen=True)
class Listing:
    """Text to be shown as it is, folded up: a manifest, a command."""

    title: str
    text: str
    folded: bool = True


@dataclass(frozen=True)
class Finding:
    """A paired difference between two models, for the top of the page."""

    measure: str
    """With its unit."""
    first: str
    second: str
    difference: Cell
    """The first less the second."""
    verdict: str
    """higher or lower, established; a tie; no interval."""


@dataclass(frozen=True)
class Section:
    """A part of the page: paragraphs, then tables, figures and listings in their order."""

    id: str
    title: str
    text: Sequence[str] = ()
    items: Sequence[Table | Figure | Listing] = ()
    findings: Sequence[Finding] = ()
    """What the summary is to say of it."""

    def __post_init__(self) -> None:
        _check_id(self.id)


@dataclass(frozen=True)
class Picture:
    """A small copy of an image, kept once for all questions about it."""

    name: str
    data: bytes
    """JPEG or PNG."""
    kind: Literal["jpeg", "png"]
    width: int
    height: int


@dataclass(frozen=True)
class Overlay:
    """What lies over a picture, each a PNG with transparency that covers the whole picture at any size."""

    attention: bytes
    mask: bytes | None
    """Outline or area of what is asked about; None where nothing is there."""
    note: str
    """Whose attention it is: query, layer, run."""


ItemKind = Literal[
    "false yes", "missed", "wrong answer", "unparsed", "right", "not counted", "model failed", "not answered"
]
"""What became of an answer. false yes: the object is not there (a hallucination); missed: it is, and the answer is
no; unparsed: read as none of the options."""


@dataclass(frozen=True)
class Item:
    """One question of a run with its answer."""

    run: str
    """The run's label; with its benchmark or a model of several where that alone does not tell runs apart."""
    number: str
    """The question's id within its split; of a grounding run the place of its record."""
    split: str
    category: str
    question: str
    official: str
    answer: str | None
    read: str
    """Label and rule."""
    kind: ItemKind
    margin: float | None
    """How much likelier the answer was than the right one, in nats (log-probabilities): above 0 where the model was
    surely wrong, below where it was surely right; None without log-probabilities. The worst come first."""
    logprobs: Sequence[tuple[str, float]]
    size: float | None
    """Share of the image that the object's mask covers, where known."""
    image: str
    picture: int | None
    """Into the gallery's pictures."""
    overlay: int | None
    """Into the gallery's overlays."""


@dataclass(frozen=True)
class Gallery:
    """Questions to browse."""

    items: Sequence[Item]
    pictures: Sequence[Picture] = ()
    overlays: Sequence[Overlay] = ()
    notes: Sequence[str] = ()
    """What was left out, and why: images that are not there, the file's size."""
    seed: int = 0
    """Of the order "random"."""


@dataclass(frozen=True)
class Report:
    """All of it."""

    title: str
    made: str
    """When, in UTC: the one thing that differs between two reports on the same runs."""
    command: str
    """That makes it again."""
    warnings: Sequence[str]
    """What the reader must know first: a run that is incomplete, damaged or left out."""
    sections: Sequence[Section]
    gallery: Gallery | None = None

    @property
    def tables(self) -> list[Table]:
        """All, in their order."""
        return [item for section in self.sections for item in section.items if isinstance(item, Table)]

    @property
    def figures(self) -> list[Figure]:
        """All, in their order."""
        return [item for section in self.sections for item in section.items if isinstance(item, Figure)]


def stamp() -> str:
    """When a report is made, in UTC; the time of SOURCE_DATE_EPOCH where it is set, for builds that are the same.

    Raises:
        DataError: that is no time.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(int(given) if given else None))
    except (ValueError, OverflowError, OSError):
        raise DataError(f"SOURCE_DATE_EPOCH={given!r}: seconds since 1970, as a whole number") from None


def _check_id(text: str) -> None:
    if not _ID.fullmatch(text):
        raise ValueError(f"{text!r}: an id is small letters, digits and single hyphens")


def slug(text: str) -> str:
    """An id made of any text: what no id may hold becomes a hyphen."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"
