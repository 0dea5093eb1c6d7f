"""`agevlm-eval runs` and `agevlm-eval show`. Heavy imports happen inside them, and none is of a model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from agevlm.terminal import JSON, consoles, write_json


@click.command()
@click.argument("directory", metavar="[DIR]", default="runs", type=click.Path(path_type=Path))
@JSON
def runs(directory: Path, json_out: str | None) -> None:
    """List the run folders below DIR (runs), the latest first: what they are of, state, headline, age.

    \b
    agevlm-eval runs
    agevlm-eval runs /data/runs --json -
    """
    from datetime import UTC, datetime

    from reports.runs.listing import list_runs
    from reports.runs.table import runs_table

    found = list_runs(directory)
    now = datetime.now(UTC)
    write_json([run.to_json(now) for run in found], json_out)
    console, notes = consoles()
    if not found:
        notes.print(f"no run folder below {directory}")
    elif json_out != "-":
        console.print(runs_table(found, directory, now))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--wrong", is_flag=True, help="Answers that count as wrong; several of these three: either.")
@click.option("--right", is_flag=True, help="Answers that count as right.")
@click.option("--unparsed", is_flag=True, help="Answers that were not read as any of the options.")
@click.option("--split", metavar="NAME", help="Of POPE's splits; of CV-Bench 2D or 3D.")
@click.option("--category", metavar="NAME", help="The object that POPE asks about; CV-Bench's task.")
@click.option("--search", metavar="TEXT", help="Questions or answers that hold the text, in any case.")
@click.option("--condition", default="image", show_default=True, metavar="NAME", help="The image, or a control.")
@click.option("--protocol", metavar="NAME", help="How POPE's answers are read.  [the run's first]")
@click.option("--reading", metavar="NAME", help="How CV-Bench's answers are read.  [the run's first]")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="Print so many.")
@click.option("--seed", type=click.IntRange(0), help="Draw them by this seed.  [the first ones]")
def show(run: Path, **options: Any) -> None:
    """Print questions of a POPE or CV-Bench run with the model's answers, from the run folder alone.

    \b
    agevlm-eval show runs/pope-... --wrong
    agevlm-eval show runs/pope-... --wrong --split adversarial --category chair --seed 1
    agevlm-eval show runs/cvbench-... --unparsed --reading strict
    """
    from reports.runs.printing import lines, remark_lines
    from reports.runs.showing import Choice, open_run

    opened = open_run(run, options.pop("protocol"), options.pop("reading"), options["condition"])
    for line in remark_lines(opened.remarks):
        click.secho(line, fg="yellow", err=True)
    del options["condition"]
    for line in lines(opened, Choice(**options)):
        click.echo(line)
