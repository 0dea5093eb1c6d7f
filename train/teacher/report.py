"""Regions and their scores as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from agevlm.data.noise import Noise
from train.tables import duration
from train.teacher.against import Score
from train.teacher.run import Work
from train.teacher.summary import PAPER_IMAGES, Summary

REASONS = {
    "empty": "an empty mask",
    "score": "the detector was not sure",
    "predicted_iou": "SAM did not trust its mask",
    "stability": "the mask is not stable",
    "small": "too small",
    "large": "nearly all of the image",
    "box": "the mask left its box",
    "many": "too many regions",
    "noise": "lost by --noise",
}


def print_summary(console: Console, summary: Summary, work: Work, ranks: int) -> None:
    """Print what is in a folder of regions, and what more of it would take.

    Args:
        console: to print to.
        summary: of the folder.
        work: of this call.
        ranks: processes at work.
    """
    share = f" ({summary.with_region / summary.phrases:.1%})" if summary.phrases else ""
    rows = [
        ("parts", f"{summary.parts:,} of {summary.parts_in_all:,}"),
        ("images", f"{summary.images:,} with phrases to look for"),
        ("phrases", f"{summary.phrases:,}; {summary.with_region:,}{share} have a region"),
        ("samples", f"{summary.samples:,} have a region"),
        ("nothing found", f"{summary.unfound:,} phrases"),
    ]
    rows += [(f"left out: {REASONS.get(why, why)}", f"{count:,} phrases") for why, count in summary.dropped.items()]
    if summary.unread:
        rows.append(("not readable", f"{summary.unread:,} samples"))
    if work.images:
        each = work.seconds / work.images
        ahead = ", ".join(f"{count:,} images {duration(each * count / ranks)}" for count in PAPER_IMAGES)
        rows.append(("time", f"{each:.3g} s an image by the clock; at this rate {ahead}{_with(ranks)}"))
    spent = ", ".join(f"{name} {value:,.1f} s" for name, value in summary.seconds.items())
    rows.append(("all parts", f"{spent}, each process's own time added up"))
    table = Table(box=None, show_header=False, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if summary.frequent:
        console.print()
        words = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        words.add_column("most frequent")
        words.add_column("asked", justify="right")
        words.add_column("with a region", justify="right")
        for word, (asked, having) in summary.frequent.items():
            words.add_row(word, f"{asked:,}", f"{having / asked:.1%}")
        console.print(words)


def print_scores(console: Console, scores: Sequence[Score], images: int, producer: str, noise: Noise | None) -> None:
    """Print how good a producer's regions are, by kind of phrase."""
    noisy = "" if noise is None else f" · noise {noise}"
    console.print(f"{producer}{noisy} · {images:,} images", markup=False)
    console.print()
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("phrases")
    for name in ("there", "found", "mean IoU", "IoU ≥ 0.5", "not there", "found all the same"):
        table.add_column(name, justify="right")
    for one in scores:
        shares = [_percent(value) for value in (one.found, one.iou, one.half)]
        table.add_row(one.kind, f"{one.there:,}", *shares, f"{one.absent:,}", _percent(one.false))
    console.print(table)
    console.print()
    console.print("In %, with 95 % bootstrap intervals over images. IoU is 0 where nothing was found.", markup=False)


def _percent(value: tuple[float, float, float] | None) -> str:
    if value is None:
        return "-"
    mean, low, high = (100 * v for v in value)
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def _with(ranks: int) -> str:
    return f" with {ranks} processes" if ranks > 1 else ""
