"""A report as files."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from agevlm.appearing import folder_appears
from agevlm.errors import DataError
from reports.document import Report
from reports.writing.latex_tables import latex_document, latex_table
from reports.writing.page import page
from reports.writing.tables import csv_text, markdown, markdown_text
from reports.writing.visible import visible

PAGE = "report.html"
LIST = "files.json"
"""Names the files of a report: what the next one may replace."""
_KIND = "agevlm report"


def write_report(report: Report, folder: Path, say: Callable[[str], None] | None = None) -> Path:
    """Write the page and, beside it, tables and figures as files of their own; the folder appears whole or not at all.

    Files: `report.html`; `tables/ID.{tex,md,csv}`, all together `tables.md` and `tables.tex`; `figures/ID.{png,svg}`;
    `files.json`, their list. An earlier report in the folder is replaced; files that are not its own stay.

    Args:
        report: to write.
        folder: not there, empty, or an earlier report's.
        say: called with a line for everything that was left out of the page for its size.

    Returns:
        The page.

    Raises:
        DataError: the folder holds something else, or cannot be written; two tables or two figures have one id. What
            was there stays.
        OSError: there is no room. What was there stays, too.
    """
    # Another name for the folder, or `.`, is as good.
    folder = folder.resolve()
    own = _earlier(folder)
    files, left_out = _files(report)
    others = _others(folder, own)
    _check_apart(folder, set(files), others)
    with _appears(folder, sum(map(len, files.values()))) as new:
        for name in others:
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / name, new / name, follow_symlinks=False)
        for name, data in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes(data)
    for line in left_out:
        if say is not None:
            say(line)
    return folder / PAGE


def check_folder(folder: Path) -> None:
    """Whether a report could be written there, as far as that can be known before it is made.

    Raises:
        DataError: as `write_report`.
    """
    folder = folder.resolve()
    _earlier(folder)
    above = next(path for path in folder.parents if path.exists())
    if not above.is_dir():
        raise DataError(f"{folder}: cannot be written: {above} is no folder; choose another --out")
    if os.path.ismount(folder):
        raise DataError(f"{folder}: a mounted disk cannot be replaced as a whole; choose a folder in it as --out")
    if not os.access(above, os.W_OK | os.X_OK):
        raise DataError(f"{folder}: cannot be written: no permission in {above}; choose another --out")


@contextlib.contextmanager
def _appears(folder: Path, needed: int) -> Iterator[Path]:
    """`folder_appears` with errors that name the option; a full disk stays what it is."""
    try:
        with folder_appears(folder, needed) as new:
            yield new
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(error.errno, error.strerror, error.filename or str(folder)) from error
        raise DataError(
            f"{folder}: cannot be written: {error.strerror} ({error.filename}); choose another --out"
        ) from (error)


def _files(report: Report) -> tuple[dict[str, bytes], list[str]]:
    """All files by their names, and what was left out of the page."""
    _check_ids([table.id for table in report.tables], "tables")
    _check_ids([figure.id for figure in report.figures], "figures")
    text, left_out = page(report)
    files: dict[str, bytes] = {PAGE: text.encode()}
    for table in report.tables:
        files[f"tables/{table.id}.tex"] = latex_table(table).encode()
        files[f"tables/{table.id}.md"] = markdown(table).encode()
        files[f"tables/{table.id}.csv"] = csv_text(table).encode()
    for figure in report.figures:
        files[f"figures/{figure.id}.png"] = figure.png
        files[f"figures/{figure.id}.svg"] = figure.svg
    head = [f"# {markdown_text(visible(report.title))}\n"]
    if report.warnings:
        head += ["**Read this first**\n", *(f"- {markdown_text(visible(one))}" for one in report.warnings), ""]
    files["tables.md"] = "\n".join([*head, *(markdown(table, 2) for table in report.tables)]).encode()
    files["tables.tex"] = latex_document(report.title, report.tables, report.warnings).encode()
    files[LIST] = json.dumps({"kind": _KIND, "files": sorted([*files, LIST])}, indent=1).encode() + b"\n"
    return files, left_out


def _earlier(folder: Path) -> set[str]:
    """The files of the report that is there; none where the folder is not there or empty."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return set()
    try:
        found = json.loads((folder / LIST).read_text(encoding="utf-8"))
        if found["kind"] == _KIND:
            return set(map(str, found["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise DataError(f"{folder}: holds something that is no report; choose another --out, or empty it")


def _others(folder: Path, own: set[str]) -> list[str]:
    """What lies in the folder and is not the report's: a PDF made of the tables, say."""
    if not folder.exists():
        return []
    names = (
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    )
    return sorted(name for name in names if name not in own)


def _check_apart(folder: Path, new: set[str], others: list[str]) -> None:
    for name in others:
        if name in new:
            raise DataError(
                f"{folder / name}: is not the earlier report's, and this one has a file of that name; move it"
            )


def _check_ids(ids: list[str], what: str) -> None:
    twice = sorted({one for one in ids if ids.count(one) > 1})
    if twice:
        raise DataError(f"two {what} have the id {twice[0]!r}")
