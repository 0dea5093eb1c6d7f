"""`agevlm-eval compare`. Heavy imports happen inside it, and none is of a model's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agevlm.errors import DataError
from agevlm.terminal import JSON, consoles, write_json

if TYPE_CHECKING:
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
@click.option("--flips", default=5, show_default=True, type=click.IntRange(0), help="Print so many of either kind.")
@click.option("--fail-below", type=float, metavar="X", help=f"Exit with {BELOW} if a headline is below A's by more.")
@click.option("--established", is_flag=True, help="With --fail-below: only where the whole interval is below it.")
@click.option("--draws", default=2000, show_default=True, type=click.IntRange(100), help="Bootstrap draws.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@JSON
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for a page with the flips, and the tables as files."
)
@click.option("--images", type=click.Path(path_type=Path), help="Folder of the image files.  [where the runs had them]")
def compare(runs: tuple[Path, ...], **options: Any) -> None:
    """Is B better than A? POPE or CV-Bench runs, paired on the questions that both answered.

    The first run is A; every other one is compared with it, and every difference is that run less A.

    \b
    agevlm-eval compare runs/pope-A runs/pope-B
    agevlm-eval compare runs/pope-A runs/pope-B runs/pope-C --out compared
    agevlm-eval compare runs/pope-main runs/pope-branch --fail-below -0.01 --established
    """
    from dataclasses import replace

    from reports.compare.comparison import below, leads
    from reports.compare.comparison import compare as compare_sides
    from reports.compare.plain import to_json
    from reports.compare.sides import open_sides
    from reports.compare.tables import overview, pair_tables
    from reports.runs.printing import remark_lines
    from reports.writing.terminal import terminal_table

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
        said: set[str] = set()
        # The overview last, so that it stands above the prompt.
        tables = [table for lead in found for table in pair_tables(lead.comparison, options["flips"])]
        for table in [*tables, overview(found)]:
            # Files need every note below every table; one screen needs it once.
            console.print(terminal_table(replace(table, notes=[note for note in table.notes if note not in said])))
            console.print()
            said.update(table.notes)
    if options["out"] is not None:
        page = _write(found, options["out"], options["images"])
        click.echo(f"the page: {page}", err=True)
    if limit is not None:
        failed = [why for lead in found if (why := below(lead, limit, options["established"])) is not None]
        for why in failed:
            click.secho(f"--fail-below: {why}", fg="red", err=True)
        if failed:
            sys.exit(BELOW)


def _write(found: list[Lead], out: Path, images: Path | None) -> Path:
    """The page and its files."""
    from reports.compare.page import page
    from reports.writing.files import write_report

    return write_report(page(found, images), out, lambda line: click.secho(line, fg="yellow", err=True))
