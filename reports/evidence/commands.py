"""`agevlm-eval report`. Heavy imports happen inside it, and none is of a model's."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from agevlm.errors import DataError
from benchmarks.remarks import ANSWERS_MISSING


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path, readable=False))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("report"),
    show_default=True,
    help="Folder for what it makes.",
)
@click.option("--title", help="Of the page.  [the models' names]")
@click.option("--images", type=click.Path(path_type=Path), help="Folder of the image files.  [where the runs had them]")
@click.option("--no-pictures", is_flag=True, help="Questions without pictures: a small file.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the order `random`.")
@click.option("--allow-partial", is_flag=True, help=f"Exit with 0, not {ANSWERS_MISSING}, if the page has warnings.")
def report(
    runs: tuple[Path, ...],
    out: Path,
    title: str | None,
    images: Path | None,
    no_pictures: bool,
    seed: int,
    allow_partial: bool,
) -> None:
    """Make one page of evidence out of run folders, with its tables and figures as files beside it.

    \b
    agevlm-eval report runs/pope-A runs/pope-B runs/grounding-... --out report
    agevlm-eval report runs/* --title "AGE-VLM against its baselines" --images val2014
    """
    from benchmarks.run_folder import command_line
    from reports.document import stamp
    from reports.evidence.assemble import assemble
    from reports.gallery.making import Wanted, gallery_of
    from reports.writing.files import check_folder, write_report

    if images is not None and not images.is_dir():
        raise DataError(f"--images {images}: no such folder")
    check_folder(out)
    wanted = Wanted(images=images, pictures=not no_pictures, seed=seed)
    made = assemble(
        runs, title=title, made=stamp(), command=command_line(), gallery=lambda opened: gallery_of(opened, wanted)
    )
    page = write_report(made, out, say=lambda line: click.secho(line, fg="yellow", err=True))
    for warning in made.warnings:
        click.secho(warning, fg="yellow", err=True)
    click.echo(f"{len(made.tables)} tables and {len(made.figures)} figures in {out}; the page:\n{page}")
    if made.warnings and not allow_partial:
        sys.exit(ANSWERS_MISSING)
