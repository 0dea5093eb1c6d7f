"""What the parts about looks inside have in common: runs with scores, tables over runs, verdicts in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reports import verdicts
from reports.document import NONE, Cell, Column, Figure, Finding, Listing, Table, interval
from reports.opened import Run, reading

Content = Mapping[str, Any]
Drawn = Figure | Listing
Rows = Callable[[Content], Iterable[Sequence[Cell | str]]]
"""The rows of a table, of what a run's scores.json holds."""
BY_ITSELF = (
    "Each row stands by itself: nothing is adjusted for their number, and of twenty rows without any difference about "
    "one would show one."
)
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
        self,
        part: str,
        title: str,
        columns: Sequence[Column],
        rows: Rows,
        notes: Sequence[str] = (),
        *,
        once: Sequence[str] = (),
        folded: bool = False,
    ) -> Iterator[Table]:
        """One table over all runs, each with its own rows; none where there are no rows.

        Args:
            part: the rest of the id; empty for the main table.
            title: with the unit.
            columns: without the run, which stands first where there are several.
            rows: of one run.
            notes: what is measured on what is added.
            once: names of columns that are said below the table where they are the same in all its rows.
            folded: as of `Table`.

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
            kept, shown, alike = _without_alike(heads, found, once)
            about = (_about(run, several) for run in self.runs)
            yield Table(named, title, kept, shown, [*alike, *notes, *about], folded)

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


def _without_alike(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], once: Sequence[str]
) -> tuple[Sequence[Column], Sequence[Sequence[Cell]], list[str]]:
    """Columns and rows without those columns of `once` whose cells are all alike, and a note that says them."""
    alike = {k: rows[0][k] for k, one in enumerate(columns) if one.name in once and len({row[k] for row in rows}) == 1}
    if not alike or len(rows) < 2:
        return columns, rows, []
    kept = [k for k in range(len(columns)) if k not in alike]
    said = "; ".join(f"{columns[k].name}: {cell}" for k, cell in alike.items() if cell.text != NONE)
    return (
        [columns[k] for k in kept],
        [[row[k] for k in kept] for row in rows],
        [f"In all rows {said}."] if said else [],
    )


def _about(run: Run, named: bool) -> str:
    """What a run was measured on, and how."""
    with reading(run, "run.json"):
        manifest = run.manifest
        data = [str(one.get("data_version") or one["name"]) for one in manifest.get("data", []) if "name" in one]
        prompt = manifest.get("prompt", manifest.get("choices", {}).get("prompt"))
        prompt = prompt["template"] if isinstance(prompt, Mapping) else prompt
        limit, draws = manifest.get("limit"), manifest.get("scoring", {}).get("draws")
        seed = manifest.get("seed")
        used = [str(name) for one in manifest.get("data", []) for name in one.get("used", [])]
        base = [str(one["base"]) for one in manifest.get("data", []) if one.get("base")]
    said = [
        f"data: {', '.join(data)}" if data else "",
        "all images" if limit is None else f"at most {limit} images a data set, drawn with seed {seed}",
        f"prompt {prompt!r}" if isinstance(prompt, str) else "",
        f"readings of looks that were there already ({', '.join(map(_last, used))}) have the images of those"
        * bool(used),
        f"perplexity beside that of {', '.join(base)}: against itself a model has 1" * bool(base),
        "" if draws is None else f"95 % intervals over images, {draws} bootstrap draws, the same for all models",
    ]
    return f"{run.label}: " * named + "; ".join(filter(None, said)) + "."


def _last(folder: str) -> str:
    return folder.rstrip("/").rsplit("/", 1)[-1]


def texts(*names: str) -> list[Column]:
    """Headings of columns of words."""
    return [Column(name, numeric=False) for name in names]


def numbers(*names: str) -> list[Column]:
    """Headings of columns of numbers."""
    return [Column(name) for name in names]


def side(cell: Content, at: float, above: str, below: str, neither: str) -> str:
    """The same as `reports.verdicts.side`, of a cell of a run's scores."""
    return verdicts.side(cell["value"], cell["low"], cell["high"], above, below, neither, at=at)


def finding(measure: str, first: str, second: str, cell: Content) -> Finding:
    """A paired difference for the top of the page."""
    return Finding(measure, str(first), str(second), interval(cell, "signed"), verdict(cell))


def verdict(cell: Content) -> str:
    """The same as `reports.verdicts.verdict`, of a cell of a run's scores."""
    return verdicts.verdict(cell["value"], cell["low"], cell["high"])
