"""POPE and CV-Bench runs side by side: what they have in common is a note, what tells them apart a column."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.controls import IMAGE
from reports.document import Cell, Column, slug
from reports.held import check_rows
from reports.opened import Run, reading
from reports.runs.headline import FIELD, benchmark_name, lead

Row = Mapping[str, Any]
UNKNOWN_PROMPTS = ("not stated", "mixed", "other")


@dataclass(frozen=True)
class Asked:
    """The scores of one run on one version of the data."""

    run: Run
    version: str
    dataset: str
    lead: str
    """The protocol or reading that leads."""
    rows: Sequence[Row]

    @property
    def label(self) -> str:
        """The run's."""
        return self.run.label

    @property
    def prompt(self) -> str:
        """Its name."""
        return str(next((r["prompt"] for r in self.rows if r["condition"] == IMAGE), "not stated"))

    @property
    def titled(self) -> str:
        """The questions that were asked, for titles."""
        return f"{benchmark_name(self.run.benchmark, self.dataset)} ({self.version})"

    @property
    def conditions(self) -> list[str]:
        """The image, controls and floors, in the order of the rows."""
        return list(dict.fromkeys(r["condition"] for r in self.rows))

    def of(self, condition: str = IMAGE, how: str | None = None) -> list[Row]:
        """The rows of a condition, read in one way (the leading one where None); of a floor all that there are."""
        field = FIELD[self.run.benchmark]
        found = [r for r in self.rows if r["condition"] == condition]
        return [r for r in found if condition.startswith("floor:") or r[field] == (how or self.lead)]

    def row(self, name: str, condition: str = IMAGE, how: str | None = None) -> Row | None:
        """The row of a split of POPE, of a number of CV-Bench; None where there is none."""
        field = {"pope": "split", "cvbench": "score"}[self.run.benchmark]
        return next((row for row in self.of(condition, how) if row[field] == name), None)

    @property
    def ways(self) -> list[str]:
        """The protocols or readings of answers about the image."""
        return list(dict.fromkeys(r[FIELD[self.run.benchmark]] for r in self.rows if r["condition"] == IMAGE))


def asked_by_version(runs: Sequence[Run], benchmark: str) -> dict[str, list[Asked]]:
    """Data version -> the runs on it, in their order. Only the same questions may stand side by side.

    Raises:
        DataError: scores are not as that benchmark writes them.
    """
    found: dict[str, list[Asked]] = {}
    for run in runs:
        if run.benchmark != benchmark or run.scores is None:
            continue
        with reading(run):
            check_rows(benchmark, run.scores)
            leading = lead(run.scores, FIELD[benchmark])
            for version in dict.fromkeys(str(row["data_version"]) for row in run.scores["rows"]):
                rows = [row for row in run.scores["rows"] if row["data_version"] == version]
                found.setdefault(version, []).append(Asked(run, version, str(rows[0]["dataset"]), leading, rows))
    return found


@dataclass(frozen=True)
class Differing:
    """What tells runs apart besides the model, as columns; and what they have in common, as a note."""

    columns: Sequence[Column]
    cells: Callable[[Asked], list[Cell]]
    note: str


def differing(runs: Sequence[Asked], *, way: bool = True) -> Differing:
    """Prompt and (`way`) protocol or reading: in columns where the runs differ in them, else in the note."""
    named: list[tuple[str, Callable[[Asked], str]]] = [("prompt", lambda one: one.prompt)]
    if way and runs:
        named.append((FIELD[runs[0].run.benchmark], lambda one: one.lead))
    apart = [(name, get) for name, get in named if len({get(one) for one in runs}) > 1]
    shared = [f"{name} `{get(runs[0])}`" for name, get in named if (name, get) not in apart and runs]
    return Differing(
        [Column(name, numeric=False) for name, _ in apart],
        lambda one: [Cell(get(one)) for _, get in apart],
        "; ".join([f"Data version {runs[0].version}", *shared]) + "." if runs else "",
    )


def intervals_note(runs: Sequence[Asked]) -> str:
    """How the intervals are made."""
    drawn = {
        (s.get("draws"), s.get("seed")) for s in (one.run.scores.get("settings", {}) for one in runs if one.run.scores)
    }
    exact = "; ".join(f"{draws:,} draws, seed {seed}" for draws, seed in sorted(drawn, key=str) if draws is not None)
    more = f" ({exact})" if exact else ""
    return f"In brackets: 95 % interval, bootstrap over images{more}."


def version_id(base: str, versions: Sequence[str], version: str) -> str:
    """An id for a table of one data version: the base where there is one version alone."""
    if len(versions) == 1:
        return base
    names = [slug(one) for one in versions]
    number = f"-{list(versions).index(version) + 1}" if len(set(names)) < len(names) else ""
    return f"{base}-{slug(version)}{number}"
