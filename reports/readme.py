"""`python -m reports.readme REPORT`: show a demo's tables and figures in the README, of that very run.

Between `<!-- demo table NAME -->` and `<!-- end -->` stands the report's table of that name; figures are copied into
the folder that their links name (`docs/demo/NAME.png`).
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import click

from agevlm.appearing import file_appears

TABLE = re.compile(r"(?P<begin><!-- demo table (?P<name>[a-z0-9-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
FIGURE = re.compile(r"\((?P<path>docs/demo/(?P<name>[a-z0-9-]+\.png))\)")


@click.command()
@click.argument("report", type=click.Path(path_type=Path))
@click.option("--readme", type=click.Path(path_type=Path), default=Path("README.md"), show_default=True)
def refresh(report: Path, readme: Path) -> None:
    """Show the tables and figures of REPORT, a folder that `agevlm-eval report` wrote."""
    text = readme.read_text(encoding="utf-8")
    if not TABLE.search(text):
        raise click.ClickException(
            f"{readme}: no place for a table; mark one by <!-- demo table NAME --> and <!-- end -->"
        )
    changed = TABLE.sub(lambda place: place["begin"] + _table(report, place["name"]) + "\n" + place["end"], text)
    for figure in FIGURE.finditer(text):
        source, target = report / "figures" / figure["name"], readme.parent / figure["path"]
        if not source.is_file():
            raise click.ClickException(f"{source}: the report has no such figure; {readme} links to {figure['path']}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    with file_appears(readme) as unfinished:
        unfinished.write_text(changed, encoding="utf-8")


def _table(report: Path, name: str) -> str:
    """The rows alone: a report's Markdown has the title above and notes below."""
    path = report / "tables" / f"{name}.md"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}; make the report first") from None
    return "\n".join(line for line in lines if line.startswith("|"))


if __name__ == "__main__":
    refresh()
