"""A comparison as a page: its tables, and the questions on which the runs part with their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.controls import IMAGE
from benchmarks.run_folder import command_line
from reports.compare.comparison import Lead
from reports.compare.sides import Side
from reports.compare.tables import asked, overview, pair_tables, sentence
from reports.document import Gallery, Report, Section, stamp
from reports.gallery.making import Wanted, gallery_of
from reports.opened import Run

FLIPS = 50
"""Rows of either kind in a page's tables; its gallery has all."""


def page(found: Sequence[Lead], images: Path | None) -> Report:
    """The page of one or several comparisons with A."""
    base = found[0].comparison.base
    others = [lead.comparison.other for lead in found]
    sections = [
        Section(
            "compared",
            "Which run is better",
            text=[f"{asked(lead.comparison)}: {sentence(lead)}." for lead in found],
            items=[overview(found)],
        ),
        *(
            Section(
                f"{lead.comparison.other.letter.lower()}-less-a",
                f"{lead.comparison.other.named} less {base.named}",
                items=list(pair_tables(lead.comparison, FLIPS)),
            )
            for lead in found
        ),
    ]
    return Report(
        title=" · ".join(one.label for one in (base, *others)),
        made=stamp(),
        command=command_line(),
        warnings=[f"{one.label}: {remark}" for one in (base, *others) for remark in one.opened.remarks],
        sections=sections,
        gallery=flip_gallery(found, images),
    )


def flip_gallery(found: Sequence[Lead], images: Path | None) -> Gallery | None:
    """The questions on which a run and A part, with both answers as they were read; None where they part on none."""
    sides: dict[Path, Side] = {}
    flipped: dict[Path, set[tuple[int, str, str]]] = {}
    for lead in found:
        one = lead.comparison
        for place, part in ((0, one.base), (1, one.other)):
            sides[part.folder] = part
            shown = [(flip.base, flip.other)[place] for flip in one.flips]
            flipped.setdefault(part.folder, set()).update((q.part, q.split, q.number) for q in shown)
    if not any(flipped.values()):
        return None
    condition = found[0].comparison.base.opened.condition
    opened = {}
    for folder, part in sides.items():
        wanted = [q for q in part.opened.questions if (q.part, q.split, q.number) in flipped[folder]]
        if condition != IMAGE:
            # The picture is the question's own all the same: it says what the question is about.
            wanted = [replace(q, shown=None) for q in wanted]
        # The remarks stand at the top of the page.
        opened[folder] = replace(part.opened, questions=wanted, remarks=())
    runs = [Run(one.folder, one.label, one.benchmark, one.opened.manifest, None) for one in sides.values()]
    made = gallery_of(runs, Wanted(images=images, opened=opened))
    if made is None or condition == IMAGE:
        return made
    note = (
        f"the pictures are the questions' own; the models answered under the control {condition} and did not see them"
    )
    return replace(made, notes=(note, *made.notes))
