"""The gallery of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.plan import lot
from reports.document import Gallery, Overlay
from reports.gallery.entries import Entry, benchmark_entries
from reports.gallery.finding import Finder
from reports.gallery.looks import Looks, Matched, looks_of
from reports.gallery.pictures import STEPS, fit
from reports.gallery.sizes import linkage_sizes
from reports.gallery.sources import Sources
from reports.opened import Run
from reports.runs.showing import Opened

ASKED = ("pope", "cvbench", "grounding")
"""Runs whose questions are shown."""
OVERLAYS = 1 / 3
"""Of the bytes, at most, for overlays; pictures have the rest, and what overlays leave."""


@dataclass(frozen=True)
class Wanted:
    """What a gallery is to hold."""

    images: Path | None = None
    """Where image files are; None: where the run's manifest says."""
    pictures: bool = True
    most_bytes: int = 9_500_000
    """Of pictures and overlays together, as they are before they become text."""
    seed: int = 0
    opened: Mapping[Path, Opened] = field(default_factory=dict)
    """By folder: the questions of a run that are wanted, and how their answers are read; else all of them, read in the
    first of the ways in which the run was scored."""


def gallery_of(runs: Sequence[Run], wanted: Wanted) -> Gallery | None:
    """The questions of all runs that have any, in the order in which they were asked; None where no run has.

    Pictures and overlays that do not fit into `wanted.most_bytes` are made smaller or left out, those of wrong answers,
    the worst first, and of a seeded draw being kept; that, and images that are not found, is said in the notes.
    """
    notes: list[str] = []
    runs = _told_apart(runs)
    looks = [one for run in runs for one in looks_of(run, notes)]
    entries = [entry for run in runs for entry in benchmark_entries(run, notes, wanted.opened.get(run.folder))]
    if not entries and not any(one.rows for one in looks):
        return None
    finder = Finder(Sources(wanted.images), looks=wanted.pictures)
    finder.know(entries)
    matched = Matched(looks, finder, linkage_sizes(runs, notes))
    finder.know(matched.entries)
    entries += matched.entries
    items = [replace(entry.item, size=matched.size(entry)) for entry in entries]
    if not wanted.pictures:
        return Gallery(items, notes=(*notes, "pictures were not asked for"), seed=wanted.seed)

    order = _order(entries, wanted.seed)
    worst = (entries[place] for place in _worst(entries) if entries[place].identity is not None)
    overlays = _overlays([matched.look(entry) for entry in worst], looks, wanted.most_bytes)
    used = sum(overlays.bytes.values())
    room = wanted.most_bytes - (used if overlays.all_fit else int(wanted.most_bytes * OVERLAYS))
    fitted = fit(dict.fromkeys(i for p in order if (i := finder.identity(entries[p])) is not None), finder.opened, room)

    pictures: dict[str, int] = {}
    shown: dict[tuple[int, int], int] = {}
    for place, entry in enumerate(entries):
        identity, look = finder.identity(entry), matched.look(entry)
        picture = overlay = None
        if identity is not None and identity in fitted.pictures:
            picture = pictures.setdefault(identity, len(pictures))
        if picture is not None and look is not None and look in overlays.drawn:
            overlay = shown.setdefault(look, len(shown))
        items[place] = replace(items[place], picture=picture, overlay=overlay)
    lacking = finder.notes(entries)
    notes += finder.sources.notes + lacking if lacking else []
    if fitted.step or fitted.left_out:
        side, quality = STEPS[fitted.step]
        notes.append(
            f"pictures are at most {side} pixels wide or high (JPEG quality {quality}), to keep the page small"
        )
    if fitted.left_out:
        notes.append(
            f"{len(pictures)} images have a picture: those of the worst answers and of a random draw (seed "
            f"{wanted.seed}); the others were left out to keep the page small"
        )
    if looks:
        notes.append(
            "Attention is shown on questions that a grounding run of this report looked at with the same model, image, "
            "question and prompt; such runs look only for what is there."
        )
    if not overlays.all_fit:
        notes.append(f"{len(shown)} overlays, of the worst answers; others were left out to keep the page small")
    return Gallery(
        items,
        [fitted.pictures[i] for i in pictures],
        [overlays.drawn[look] for look in shown],
        tuple(notes),
        wanted.seed,
    )


def _told_apart(runs: Sequence[Run]) -> list[Run]:
    """Runs whose questions are shown under labels that differ: a model may have runs of several kinds."""
    counts = Counter(run.label for run in runs if run.benchmark in ASKED)
    return [replace(run, label=f"{run.label}, {run.benchmark}") if counts[run.label] > 1 else run for run in runs]


def _worst(entries: Sequence[Entry]) -> list[int]:
    return sorted(range(len(entries)), key=lambda place: (entries[place].rank, place))


def _order(entries: Sequence[Entry], seed: int) -> list[int]:
    """Whose pictures are wanted first: by turns the next of the worst and the next of a seeded draw."""
    drawn = sorted(
        range(len(entries)), key=lambda p: lot(seed, (i := entries[p].item).run, i.split, i.number, i.question)
    )
    return list(dict.fromkeys(place for pair in zip(_worst(entries), drawn, strict=True) for place in pair))


@dataclass
class _Overlays:
    drawn: dict[tuple[int, int], Overlay] = field(default_factory=dict)
    bytes: dict[tuple[int, int], int] = field(default_factory=dict)
    all_fit: bool = True


def _overlays(wanted: Sequence[tuple[int, int] | None], looks: Sequence[Looks], most: int) -> _Overlays:
    """The first overlays that fit into their part of `most` bytes."""
    made, total = _Overlays(), 0
    for look in dict.fromkeys(one for one in wanted if one is not None):
        drawn = looks[look[0]].drawn(look[1])
        if drawn is None:
            continue
        size = len(drawn.attention) + len(drawn.mask or b"")
        if total + size > most * OVERLAYS:
            made.all_fit = False
            break
        total += size
        made.drawn[look], made.bytes[look] = drawn, size
    return made
