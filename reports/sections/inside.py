"""What the parts about looks inside have in common: runs with scores, tables over runs, verdicts in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reports.document import NONE, Cell, Column, Figure, Finding, Listing, Table, interval
from reports.opened import Run, reading

Content = Mapping[str, Any]
Drawn = Figure | Listing
Rows = Callable[[Content], Iterable[Sequence[Cell | str]]]
"""The rows of a table, of what a run's scores.json holds."""
NO_INTERVAL = "no interval"
ATTENTION = (
    "Attention shows where information can flow, not why an answer was given: a map on the object is neither needed "
    "nor enough for a right answer."
)


@dataclass(frozen=True)
class Looks:
    """The runs of one kind of look inside."""

    name: str
    """The kind, with which all ids begin."""
    runs: Sequence[Run]
    """Those with scores."""
    unscored: Sequence[str]
    """Labels of the others."""

    @classmethod
    def among(cls, runs: Sequence[Run], name: str) -> Looks | None:
        """Those of a kind; None where there is none at all."""
        own = [run for run in runs if run.benchmark == name]
        if not own:
            return None
        return cls(
            name, [run for run in own if run.scores is not None], [run.label for run in own if run.scores is None]
        )

    def table(
        self, part: str, title: str, columns: Sequence[Column], rows: Rows, notes: Sequence[str] = ()
    ) -> Iterator[Table]:
        """One table over all runs, each with its own rows; none where there are no rows.

        Args:
            part: the rest of the id; empty for the main table.
            title: with the unit.
            columns: without the run, which stands first where there are several.
            rows: of one run.
            notes: what is measured on what is added.

        Raises:
            DataError: a run's scores are not as that kind of run writes them.
        """
        several = len(self.runs) > 1
        found: list[list[Cell]] = []
        for run in self.runs:
            with reading(run):
                own = [[one if isinstance(one, Cell) else Cell(one) for one in row] for row in rows(run.scores or {})]
            found += [[Cell(run.label), *row] if several else row for row in own]
        if found:
            heads = [Column("run", numeric=False)] * several + list(columns)
            named = "-".join(filter(None, (self.name, part)))
            yield Table(named, title, heads, found, [*notes, *(_about(run, several) for run in self.runs)])

    def figures(self, draw: Callable[[str, Run], Iterable[Drawn]]) -> Iterator[Drawn]:
        """The figures of all runs; where one cannot be drawn, a listing that says why.

        Args:
            draw: those of one run, from what their ids begin with, and the run.

        Raises:
            DataError: a run's scores are not as that kind of run writes them.
        """
        several = len(self.runs) > 1
        for number, run in enumerate(self.runs, start=1):
            with reading(run):
                found = list(draw(f"{self.name}-{number}" if several else self.name, run))
            for one in found:
                yield replace(one, title=f"{run.label}: {one.title}") if several else one

    def findings(self, read: Callable[[Content], Iterable[Finding]]) -> list[Finding]:
        """What all runs found, each named where there are several.

        Args:
            read: the findings that a run's scores.json holds.

        Raises:
            DataError: a run's scores are not as that kind of run writes them.
        """
        said: list[Finding] = []
        for run in self.runs:
            with reading(run):
                found = list(read(run.scores or {}))
            said += (
                [replace(one, measure=f"{one.measure} ({run.label})") for one in found] if len(self.runs) > 1 else found
            )
        return said

    @property
    def lacking(self) -> list[str]:
        """What has no scores, as a paragraph; empty where all have."""
        return [f"Not scored, and not shown: {', '.join(self.unscored)}."] if self.unscored else []


def _about(run: Run, named: bool) -> str:
    """What a run was measured on, and how."""
    with reading(run, "run.json"):
        manifest = run.manifest
        data = [str(one.get("data_version") or one["name"]) for one in manifest.get("data", []) if "name" in one]
        prompt = manifest.get("prompt", manifest.get("choices", {}).get("prompt"))
        prompt = prompt["template"] if isinstance(prompt, Mapping) else prompt
        limit, draws = manifest.get("limit"), manifest.get("scoring", {}).get("draws")
        seed = manifest.get("seed")
    said = [
        f"data: {', '.join(data)}" if data else "",
        "all images" if limit is None else f"at most {limit} images a data set, drawn with seed {seed}",
        f"prompt {prompt!r}" if isinstance(prompt, str) else "",
        "" if draws is None else f"95 % intervals over images, {draws} bootstrap draws, the same for all models",
    ]
    return f"{run.label}: " * named + "; ".join(filter(None, said)) + "."


def texts(*names: str) -> list[Column]:
    """Headings of columns of words."""
    return [Column(name, numeric=False) for name in names]


def numbers(*names: str) -> list[Column]:
    """Headings of columns of numbers."""
    return [Column(name) for name in names]


def side(cell: Content, at: float, above: str, below: str, neither: str) -> str:
    """Which side of a value the whole 95 % interval lies on; touching it is holding it."""
    if cell["value"] is None:
        return NONE
    if cell["low"] is None or cell["high"] is None:
        return NO_INTERVAL
    return above if cell["low"] > at else below if cell["high"] < at else neither


def finding(measure: str, first: str, second: str, cell: Content) -> Finding:
    """A paired difference for the top of the page."""
    return Finding(measure, str(first), str(second), interval(cell, "signed"), verdict(cell))


def verdict(cell: Content) -> str:
    """A paired difference in words: established where the interval leaves 0 out, else a tie."""
    return side(cell, 0.0, "higher, established", "lower, established", "a tie")
