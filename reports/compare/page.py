"""A comparison as a page: its tables, and the questions on which the runs part with their images."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reports.compare.comparison import Lead
from reports.compare.sides import Side
from reports.compare.tables import overview, pair_tables, sentence
from reports.document import Gallery, Item, Report, Section
from reports.gallery.making import Wanted, gallery_of
from reports.opened import Run

FLIPS = 50
"""Rows of either kind in a page's tables; its gallery has all."""


def page(found: Sequence[Lead], images: Path | None) -> Report:
    """The page of one or several comparisons with A."""
    base = found[0].comparison.base
    others = [lead.comparison.other for lead in found]
    sections = [
        Section("compared", "Which run is better", text=[sentence(lead) for lead in found], items=[overview(found)]),
        *(
            Section(
                f"{lead.comparison.other.letter.lower()}-less-a",
                f"{lead.comparison.other.named} less {base.named}",
                items=list(pair_tables(lead.comparison, FLIPS)),
            )
            for lead in found
        ),
    ]
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return Report(
        title=" · ".join(one.label for one in (base, *others)),
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(int(given) if given else None)),
        command=shlex.join(["agevlm-eval", *sys.argv[1:]]),
        warnings=[f"{one.label}: {remark}" for one in (base, *others) for remark in one.opened.remarks],
        sections=sections,
        gallery=flip_gallery(found, images),
    )


def flip_gallery(found: Sequence[Lead], images: Path | None) -> Gallery | None:
    """The questions on which a run and A part, with both answers; None where they part on none."""
    sides: dict[str, Side] = {}
    flipped: dict[str, set[tuple[str, str]]] = {}
    for lead in found:
        keys = {(flip.base.split, flip.base.number) for flip in lead.comparison.flips}
        for one in (lead.comparison.base, lead.comparison.other):
            sides[one.label] = one
            flipped.setdefault(one.label, set()).update(keys)
    runs = [Run(one.folder, name, one.benchmark, one.opened.manifest, None) for name, one in sides.items()]
    made = gallery_of(runs, Wanted(images=images))
    if made is None:
        return None
    return kept(made, [item for item in made.items if (item.split, item.number) in flipped.get(item.run, ())])


def kept(gallery: Gallery, items: Sequence[Item]) -> Gallery | None:
    """Some items of a gallery with the pictures and overlays that they need; None for no item."""
    if not items:
        return None
    pictures = list(dict.fromkeys(one.picture for one in items if one.picture is not None))
    overlays = list(dict.fromkeys(one.overlay for one in items if one.overlay is not None))
    return replace(
        gallery,
        items=[
            replace(
                one,
                picture=None if one.picture is None else pictures.index(one.picture),
                overlay=None if one.overlay is None else overlays.index(one.overlay),
            )
            for one in items
        ],
        pictures=[gallery.pictures[place] for place in pictures],
        overlays=[gallery.overlays[place] for place in overlays],
    )
