"""A comparison on a screen: the headline first, then what matters of the rest. `--full` and files have all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import shorten

from benchmarks.pope.rows import POOLED
from reports.compare.comparison import Comparison, Lead
from reports.compare.numbers import ALPHA, Group, verdict
from reports.compare.tables import SCORES, all_conditions, gain_cell, heading, overview_title, p_cell, run_cell
from reports.document import Cell, Column, Table, number, printed

FEW, MOST = 5, 8
"""Categories that are shown: the largest differences, and more where so many are established."""
QUESTION = 60
"""Characters of a question."""


def headlines(found: Sequence[Lead]) -> Table:
    """The headline of every run against A."""
    a = found[0].comparison.base.letter
    p = "p, Holm" if len(found) > 1 else "p"
    columns = [Column("run", numeric=False), *map(Column, (a, "run", f"run less {a}"))]
    columns += [Column("verdict", numeric=False), *map(Column, (p, "detectable"))]
    rows = [
        [
            run_cell(lead, found),
            number(lead.difference.second),
            number(lead.difference.first),
            gain_cell(lead.difference.gain),
            Cell(lead.verdict),
            p_cell(lead.p),
            Cell(printed(lead.difference.detectable, "percent")),
        ]
        for lead in found
    ]
    return Table("compared", overview_title(found), columns, rows)


def parts(lead: Lead) -> Table:
    """What the headline is made of, and the categories that matter most."""
    one = lead.comparison
    a, b = one.base.letter, one.other.letter
    pope = one.base.benchmark == "pope"
    columns = [Column("", numeric=False), *map(Column, (a, b, f"{b} less {a}"))]
    columns += [Column("verdict", numeric=False), Column("p")]
    rows = []
    for line in one.numbers:
        head = line.name == one.headline.name
        # Tasks and sources are categories, with an adjusted p; pooled is the mean of splits over again.
        if not head and (line.name == POOLED or line.name.startswith(("task ", "source "))):
            continue
        for score, d in line.scores.items():
            # A split by the headline's score, the headline's own line by the others.
            if score in SCORES and head != (score == lead.metric):
                name = f"{SCORES[score]}, {line.name}" if pope else line.name
                row = [Cell(name), number(d.second), number(d.first), gain_cell(d.gain), Cell(verdict(d.gain, d.p))]
                rows.append([*row, p_cell(d.p)])
    shown = striking(one.categories)
    for group in shown:
        name = f"object {group.name}" if pope else group.name
        row = [Cell(name), number(group.base), number(group.other), gain_cell(group.gain), Cell(group.verdict)]
        rows.append([*row, p_cell(group.holm)])
    notes = []
    left = [group for group in one.categories if group not in shown]
    if left:
        sure = sum(group.verdict != "a tie" for group in left)
        what = "objects" if pope else "tasks and sources"
        notes.append(f"{len(left)} more {what}, {sure} established: --full prints them")
    return Table(f"{b.lower()}-less-{a.lower()}", f"{heading(one)}: parts, %", columns, rows, notes)


def striking(categories: Sequence[Group]) -> list[Group]:
    """The established ones and the largest differences, in the given order."""
    first = sorted(categories, key=lambda one: (one.verdict == "a tie", -abs(one.gain.value)))
    sure = sum(one.verdict != "a tie" for one in categories)
    names = {one.name for one in first[: max(FEW, min(sure, MOST))]}
    return [one for one in categories if one.name in names]


def flip_lines(one: Comparison, most: int) -> Iterator[str]:
    """Questions that one run alone has right, the surest of each kind; a question that several splits ask, once."""
    a, b = one.base.letter, one.other.letter
    for gained, right, wrong in ((True, b, a), (False, a, b)):
        flips = [flip for flip in one.flips if flip.gained is gained]
        distinct = {(flip.base.image, flip.base.text): flip for flip in reversed(flips)}
        if not flips or not most:
            continue
        told = list(reversed(distinct.values()))[:most]
        yield f"right in {right}, wrong in {wrong}: {len(flips):,} questions; {len(told)} of the surest:"
        for flip in told:
            asked = flip.base
            said = f"{a} {flip.base.answer!r:.40}, {b} {flip.other.answer!r:.40}"
            text = shorten(asked.text, QUESTION, placeholder="…")
            yield f"  {text}  {asked.image}  official {asked.official}; {said}  ({asked.split} {asked.number})"


def notes(found: Sequence[Lead]) -> list[str]:
    """What the words mean, and on what the numbers stand."""
    several = len(found) > 1
    return [
        "[95 % intervals] over images. p: of exchanging the two runs image by image; after Holm over all categories"
        + (f", and of the first table over {len(found)} runs." if several else "."),
        f"established: the interval leaves 0 out and p is at most {ALPHA}. detectable: the smallest true difference "
        "found with 80 % power.",
        *all_conditions(found),
    ]
