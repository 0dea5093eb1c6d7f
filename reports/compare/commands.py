"""`agevlm-eval compare`. Heavy imports happen inside it, and none is of a model's."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agevlm.errors import DataError
from agevlm.terminal import JSON, consoles, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from reports.compare.comparison import Lead

BELOW = 5
"""Exit code of --fail-below. 1 is Python's own for a crash, 2 is bad input, 3 and 4 are of runs."""
ALLOW = ("data", "limit", "prompt", "decoding", "protocol", "judge", "seed")


@click.command()
@click.argument("runs", metavar="A B [C...]", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--protocol", metavar="NAME", help="How POPE's answers are read.  [each run's first]")
@click.option("--reading", metavar="NAME", help="How CV-Bench's answers are read.  [each run's first]")
@click.option("--condition", default="image", show_default=True, metavar="NAME", help="The image, or a control.")
@click.option(
    "--metric",
    type=click.Choice(["accuracy", "f1"]),
    default="accuracy",
    show_default=True,
    help="Of the headline: the mean of POPE's splits; CV-Bench has its official number or the row mean alone.",
)
@click.option(
    "--allow",
    multiple=True,
    type=click.Choice(ALLOW),
    help="Compare although this differs, and say so in every title; repeatable.",
)
@click.option("--flips", default=2, show_default=True, type=click.IntRange(0), help="Print so many of either kind.")
@click.option("--full", is_flag=True, help="Print every table of --out: all scores, tests and categories.")
@click.option("--fail-below", type=float, metavar="X", help=f"Exit with {BELOW} if a difference is below X (-0.01).")
@click.option("--established", is_flag=True, help="With --fail-below: only where that is established.")
@click.option("--draws", default=2000, show_default=True, type=click.IntRange(100), help="Bootstrap draws.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@JSON
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for a page with the flips, and the tables as files."
)
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="With --out: folder of the image files.  [where the runs had them]",
)
def compare(runs: tuple[Path, ...], **options: Any) -> None:
    """Is B better than A? POPE or CV-Bench runs, paired on the questions that both answered.

    The first run is A; every other one is compared with it, and every difference is that run less A.

    \b
    agevlm-eval compare runs/pope-A runs/pope-B
    agevlm-eval compare runs/pope-A runs/pope-B runs/pope-C --out compared
    agevlm-eval compare runs/pope-main runs/pope-branch --fail-below -0.01 --established
    """
    from reports.compare.comparison import below, leads
    from reports.compare.comparison import compare as compare_sides
    from reports.compare.plain import to_json
    from reports.compare.sides import open_sides
    from reports.runs.printing import remark_lines

    limit = options["fail_below"]
    if limit is not None and not -1 <= limit <= 1:
        raise DataError(f"--fail-below {limit}: a difference of fractions, from -1 to 1 (one point is 0.01)")
    if options["established"] and limit is None:
        raise DataError("--established says when --fail-below fails; give that too")
    if options["images"] is not None and not options["images"].is_dir():
        raise DataError(f"--images {options['images']}: no such folder")
    if options["out"] is not None:
        from reports.writing.files import check_folder

        check_folder(options["out"])
    base, *others = open_sides(runs, options["protocol"], options["reading"], options["condition"])
    if options["metric"] == "f1" and base.benchmark != "pope":
        raise DataError("--metric f1: CV-Bench's questions have options, and no F1")
    for side in (base, *others):
        for line in remark_lines(side.opened.remarks):
            click.secho(line, fg="yellow", err=True)
    found = leads(
        [compare_sides(base, one, options["allow"], draws=options["draws"], seed=options["seed"]) for one in others],
        options["metric"],
    )
    write_json([to_json(lead) for lead in found], options["json_out"])
    if options["json_out"] != "-":
        console, _ = consoles()
        _print(console, found, options["flips"], options["full"])
    if options["out"] is not None:
        page = _write(found, options["out"], options["images"])
        click.echo(f"the page: {page}", err=True)
    if limit is not None:
        failed = [why for lead in found if (why := below(lead, limit, options["established"])) is not None]
        for why in failed:
            click.secho(f"--fail-below: {why}", fg="red", err=True)
        if failed:
            sys.exit(BELOW)


def _print(console: Console, found: Sequence[Lead], flips: int, full: bool) -> None:
    """What fits a screen, or in `full` every table with every note once."""
    from rich.text import Text

    from reports.compare import brief
    from reports.compare.tables import overview, pair_tables
    from reports.runs.files import printable
    from reports.writing.terminal import fitted, terminal_table

    if full:
        said: set[str] = set()
        for table in [overview(found), *(t for lead in found for t in pair_tables(lead.comparison, flips))]:
            console.print(terminal_table(replace(table, notes=[note for note in table.notes if note not in said])))
            console.print()
            said.update(table.notes)
        return
    columns = shutil.get_terminal_size((console.width, 0)).columns
    console.print(fitted(terminal_table(brief.headlines(found), inline=True), console, columns))
    for lead in found:
        console.print(fitted(terminal_table(brief.parts(lead), inline=True), console, columns))
        for line in brief.flip_lines(lead.comparison, flips):
            console.print(Text(printable(line)), soft_wrap=True)
        console.print()
    for line in brief.notes(found):
        console.print(Text(printable(line)), soft_wrap=True)


def _write(found: list[Lead], out: Path, images: Path | None) -> Path:
    """The page and its files."""
    from reports.compare.page import page
    from reports.writing.files import write_report

    return write_report(page(found, images), out, lambda line: click.secho(line, fg="yellow", err=True))
