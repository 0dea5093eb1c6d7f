"""Runs of a benchmark set against the first of them, question by question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase

from agevlm.errors import AgeVlmError
from reports.compare.comparison import Comparison, Lead, compare, leads
from reports.compare.numbers import verdict
from reports.compare.sides import NOUNS, Side, side, unlike
from reports.compare.tables import SCORES, all_conditions, asked, gain_cell, overview
from reports.document import Cell, Column, Finding, Section, Table
from reports.opened import Run
from reports.runs.headline import FIELD, benchmark_name


def section(runs: Sequence[Run]) -> Section | None:
    """Every run of a benchmark against the first; None where no benchmark has two runs."""
    findings: list[Finding] = []
    text: list[str] = []
    items: list[Table] = []
    for benchmark in FIELD:
        of_kind = [run for run in runs if run.benchmark == benchmark]
        if len(of_kind) > 1:
            found, left, tables = _of(benchmark, of_kind)
            findings += found
            text += left
            items += tables
    if not findings and not text:
        return None
    text.append(
        "Paired on the questions that both runs answered. Established: the 95 % interval over images leaves 0 out, and "
        "the p value by image (among several runs after Holm's adjustment) is at most 0.05; else a tie."
    )
    return Section("compared", "Runs compared, question by question", text, items, findings)


def _of(benchmark: str, runs: Sequence[Run]) -> tuple[list[Finding], list[str], list[Table]]:
    """Findings, what is not compared, and tables of one benchmark. Runs that differ by model alone meet the first."""
    alike: list[list[Side]] = []
    text: list[str] = []
    for run in runs:
        try:
            found = side("A", run)
        except AgeVlmError as error:
            text.append(f"{benchmark_name(benchmark, '')}: {run.label} is not compared: {error}.")
            continue
        group = next((one for one in alike if not unlike(one[0], found)), None)
        if group is None:
            alike.append([found])
        else:
            group.append(found)
    said: list[Finding] = []
    tables: list[Table] = []
    first = alike[0][0] if alike else None
    for group in alike:
        if first is not None and len(group) == 1 and len(alike) > 1:
            other = first if group[0] is not first else alike[1][0]
            why = "; ".join(
                f"different {NOUNS[one.aspect]} ({one.other}, those of {other.label} {one.base})"
                for one in unlike(other, group[0])
            )
            text.append(f"{benchmark_name(benchmark, '')}: {group[0].label} is compared with none: {why}.")
            continue
        number = "" if group is alike[0] else f"-{alike.index(group) + 1}"
        findings, left, made = _group(group, f"compared-{benchmark}{number}")
        said += findings
        text += [f"{benchmark_name(benchmark, '')}: {one}" for one in left]
        tables += made
    return said, text, tables


def _group(sides: Sequence[Side], name: str) -> tuple[list[Finding], list[str], list[Table]]:
    """The same of runs that are alike."""
    base, *others = (replace(one, letter=letter) for one, letter in zip(sides, ascii_uppercase, strict=False))
    text = [f"{one.label} is not compared: there are too many runs." for one in sides[len(ascii_uppercase) :]]
    compared: list[Comparison] = []
    for other in others:
        try:
            compared.append(compare(base, other))
        except AgeVlmError as error:
            text.append(f"{other.label} is not compared with {base.label}: {error}.")
    if not compared:
        return [], text, []
    found = leads(compared, "accuracy")
    said = [_finding(lead) for lead in found]
    return said, text, [overview(found, name), _parts(found, f"{name}-parts")]


def _finding(lead: Lead) -> Finding:
    """The headline's difference for the top of the page."""
    one = lead.comparison
    measure = f"{asked(one)}: {SCORES[lead.metric]}, {one.headline.name}, points"
    return Finding(measure, one.other.label, one.base.label, gain_cell(lead.difference.gain), lead.verdict)


def _parts(found: Sequence[Lead], table_id: str) -> Table:
    """Differences by split, or by CV-Bench's numbers: one row for each and run."""
    first = found[0].comparison
    scores = [score for score in SCORES if score in first.numbers[0].scores]
    names = list(dict.fromkeys(one.name for lead in found for one in lead.comparison.numbers))
    columns = [Column("run", numeric=False), Column("questions", numeric=False)]
    for score in scores:
        columns += [Column(SCORES[score]), Column(f"verdict on {SCORES[score]}", numeric=False)]
    rows = []
    for lead in found:
        by_name = {one.name: one for one in lead.comparison.numbers}
        for name in names:
            if name not in by_name:
                continue
            row = [Cell(lead.comparison.other.named), Cell(name)]
            for score in scores:
                d = by_name[name].scores[score]
                row += [gain_cell(d.gain), Cell(verdict(d.gain, d.p))]
            rows.append(row)
    what = "by split" if first.base.benchmark == "pope" else "by number"
    title = f"{asked(first)}: differences {what}, points; each run less {first.base.named}"
    notes = [
        "[95 % intervals] over images; verdict: established where the interval leaves 0 out and p by image is at most "
        "0.05, not adjusted."
    ]
    notes += all_conditions(found)
    return Table(table_id, title, columns, rows, notes)
