"""`agevlm-eval baselines` and `agevlm-eval ablation`. Heavy imports happen inside them, and none is of a model's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from agevlm.terminal import JSON, consoles, write_json

if TYPE_CHECKING:
    from reports.document import Section

FOLDERS = click.Path(path_type=Path)
OUT = click.option(
    "--out", type=FOLDERS, metavar="DIR", help="Also write the tables there, as a page, LaTeX, Markdown and CSV."
)
NAMES = {"pope": "POPE", "repope": "RePOPE", "cvbench": "CV-Bench"}


@click.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1, type=FOLDERS)
@click.option(
    "--benchmark",
    "benchmarks",
    multiple=True,
    type=click.Choice(list(NAMES)),
    help="Of this benchmark alone; repeatable.  [all; with runs, what they measured]",
)
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="This metric alone; repeatable.")
@click.option(
    "--size",
    metavar="0-3B",
    help="Published models of so many parameters alone; those that do not state how many are left out.",
)
@click.option(
    "--published",
    "files",
    multiple=True,
    type=FOLDERS,
    metavar="FILE",
    help="Published results of your own, in the columns of docs/published.md; repeatable.",
)
@JSON
@click.option(
    "--csv", "csv_out", type=FOLDERS, metavar="FILE", help="Write all rows as one CSV, prompts and addresses in full."
)
@OUT
def baselines(
    runs: tuple[Path, ...],
    benchmarks: tuple[str, ...],
    metrics: tuple[str, ...],
    size: str | None,
    files: tuple[Path, ...],
    json_out: str | None,
    csv_out: Path | None,
    out: Path | None,
) -> None:
    """Set published results of POPE and CV-Bench beside those of runs, a table for each metric.

    RUN is a run folder, or a file that `agevlm-eval score pope|cvbench --json FILE` wrote of answers made elsewhere.
    Without a run, the published results alone. A run stands beside nothing if it is of rendered scenes, of a part of
    the questions or of one's own.

    \b
    agevlm-eval baselines
    agevlm-eval baselines runs/pope-A runs/cvbench-A --size 0-4B
    agevlm-eval baselines llava-1.5-13b.json --metric "F1 mean of three splits" --out tables
    """
    from reports.baselines.beside import Chosen, size_range
    from reports.baselines.finding import find
    from reports.baselines.tables import write_csv

    chosen = Chosen(
        tuple(NAMES[name] for name in benchmarks), _known_metrics(metrics), None if size is None else size_range(size)
    )
    found = find(runs, chosen, files)
    _, notes = consoles()
    for remark in found.remarks:
        notes.print(remark)
    write_json(found.rows, json_out)
    if csv_out is not None:
        write_csv(found.rows, csv_out)
    _show(found.printed, json_out)
    if found.unprinted and json_out != "-":
        notes.print(found.unprinted)
    _write(found.section, out)


def _known_metrics(names: tuple[str, ...]) -> tuple[str, ...]:
    from reports.published import METRICS, UNDEFINED

    known = list(dict.fromkeys([*(metric for metrics in METRICS.values() for metric in metrics), *sorted(UNDEFINED)]))
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r}; there are: {'; '.join(known)}", param_hint="--metric")
    return names


def _show(section: Section, json_out: str | None) -> None:
    """The tables on the terminal, unless rows go there."""
    if json_out != "-":
        from reports.document import Table
        from reports.writing.terminal import terminal_table

        console, _ = consoles()
        for item in section.items:
            if isinstance(item, Table):
                console.print(terminal_table(item))


def _write(section: Section, out: Path | None) -> None:
    """The tables in a folder, where one is given."""
    if out is not None:
        from benchmarks.run_folder import command_line
        from reports.document import Report, stamp
        from reports.writing.files import write_report

        page = write_report(Report(section.title, stamp(), command_line(), (), (section,)), out)
        click.echo(f"wrote {page}", err=True)


@click.command()
@click.argument("folders", metavar="FOLDER...", nargs=-1, required=True, type=FOLDERS)
@click.option(
    "--eval",
    "evaluations",
    multiple=True,
    type=FOLDERS,
    metavar="RUN",
    help="Run folder of an evaluation of one of the models; repeatable. They may stand among the folders as well.",
)
@click.option(
    "--by",
    multiple=True,
    metavar="SETTING",
    help="Make a row for each value of this setting, as guidance.form; repeatable.  [all that differ]",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="A column, as loss/text or pope/F1; repeatable.  [losses, attention/iou and all evaluations]",
)
@JSON
@OUT
def ablation(
    folders: tuple[Path, ...],
    evaluations: tuple[Path, ...],
    by: tuple[str, ...],
    metrics: tuple[str, ...],
    json_out: str | None,
    out: Path | None,
) -> None:
    """Compare training runs: a row for each setting, the mean over its seeds and how sure it is.

    FOLDERs are run folders of `agevlm-train run`, and of evaluations of their models, which are told by the bytes of
    the weights.

    \b
    agevlm-eval ablation runs/dice-*/seed-*/4-instruct
    agevlm-eval ablation runs/*/seed-*/4-instruct --eval runs/pope-A0 --eval runs/pope-A1 --by guidance.form
    """
    from reports.baselines.ablating import ablate
    from reports.baselines.ablation_tables import plain, section

    found = ablate(folders, evaluations, by, metrics)
    _, notes = consoles()
    for remark in found.remarks:
        notes.print(remark)
    write_json(plain(found), json_out)
    made = section(found)
    _show(made, json_out)
    _write(made, out)
