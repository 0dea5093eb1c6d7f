"""The command that renders scenes. Heavy imports happen inside it."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from agevlm.scenes.types import SPLIT_STARTS, split_seeds

SHEET_SCENES = 32


def _sheet_file(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    """Refuse a file that cannot be written before any work is done for it."""
    if value is not None and (value.suffix.lower() != ".png" or value.is_dir() or not value.parent.is_dir()):
        raise click.BadParameter(f"{str(value)!r} is no .png file in an existing folder")
    return value


@click.command("build-scenes")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for images and instances.json.")
@click.option("--n", "count", required=True, type=click.IntRange(1), help="How many scenes.")
@click.option(
    "--split",
    default="test",
    show_default=True,
    type=click.Choice(list(SPLIT_STARTS)),
    help="Which seeds: splits share no scene.",
)
@click.option("--start", default=0, show_default=True, type=click.IntRange(0), help="First scene of the split.")
@click.option(
    "--size", default=96, show_default=True, type=click.IntRange(96, 4096), help="Long side of the images in pixels."
)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 256), help="Processes to render with.")
@click.option(
    "--sheet",
    type=click.Path(path_type=Path),
    callback=_sheet_file,
    metavar="FILE.png",
    help=f"Also put the first {SHEET_SCENES} scenes into one picture.",
)
@click.option("--force", is_flag=True, help="Replace rendered scenes that stand at --out.")
def build_scenes(
    out: Path, count: int, split: str, start: int, size: int, workers: int, sheet: Path | None, force: bool
) -> None:
    """Render scenes with exact annotations, COCO-style.

    Everyday objects in street, kitchen, beach and other settings, with masks, boxes, colours and depth of every object
    (instances.json), questions in CV-Bench's form (cv-scenes.jsonl), captions that match and that do not, and
    statements (captions.jsonl, statements.jsonl) with the words that name objects.
    A scene is a function of its number in the split, so the same command gives the same bytes.

    \b
    agevlm-eval build-scenes --out scenes-test --n 1000
    agevlm-eval build-pope --annotations scenes-test/instances.json --out scenes-test-pope
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from agevlm.scenes.coco import INSTANCES, check_target, file_name, write_coco
    from agevlm.scenes.sheet import write_sheet
    from agevlm.scenes.texts import CAPTIONS, CV_SCENES, STATEMENTS

    try:
        seeds = split_seeds(split, count, start)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    check_target(out, force)
    columns = (TextColumn("scenes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    notes = Console(stderr=True)
    with Progress(*columns, console=notes, disable=not notes.is_terminal) as bar:
        task = bar.add_task("scenes", total=count)
        made = write_coco(out, seeds, size, split=split, workers=workers, force=force, done=lambda: bar.advance(task))
    if sheet is not None:
        write_sheet(sheet, [made.out / file_name(seed) for seed in seeds[:SHEET_SCENES]], size)
    click.echo(f"{'category':<12}{'images':>8}{'share':>9}{'objects':>9}")
    for name, images in made.images_with.items():
        click.echo(f"{name:<12}{images:>8}{images / made.images:>9.1%}{made.objects_of[name]:>9}")
    click.echo(f"{made.images} images with {made.instances} objects, {made.instances / made.images:.2f} each")
    for name in (INSTANCES, CV_SCENES, CAPTIONS, STATEMENTS):
        click.echo(f"wrote {out / name}")
    if sheet is not None:
        click.echo(f"wrote {sheet}")
    annotations, questions = shlex.quote(str(out / "instances.json")), shlex.quote(f"{out}-pope")
    click.echo(f"next: agevlm-eval build-pope --annotations {annotations} --out {questions}")
