"""Rows that `agevlm-eval score --json` wrote: answers that were made elsewhere have no run folder."""

from __future__ import annotations

import json
from pathlib import Path

from agevlm.errors import RunFolderError
from benchmarks.cvbench.prompts import KNOWN
from benchmarks.prompts import DEFAULT, OFFICIAL
from reports.held import check_rows
from reports.opened import Run
from reports.published import NOT_STATED
from reports.runs.files import printable
from reports.runs.headline import FIELD

ASKED = {"pope": (DEFAULT, OFFICIAL), "cvbench": KNOWN}
UNKNOWN = (NOT_STATED, "mixed", "none")


def open_rows(path: Path) -> Run:
    """A file of rows as a run, named after the file. Which model answered, and when, rows do not say.

    Raises:
        RunFolderError: it cannot be read, or holds anything else.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        benchmarks = {row["benchmark"] for row in rows}
        if len(benchmarks) != 1 or not benchmarks <= set(FIELD):
            raise ValueError("its rows are not of one of pope and cvbench")
        (benchmark,) = benchmarks
        # Rows count an error of a model as a missing answer.
        scores = {"rows": rows, "missing": {}, "errors": {"image": 0}}
        check_rows(benchmark, scores)
        prompts = {row["prompt"] for row in rows if row["condition"] == "image"}
    except (OSError, ValueError, KeyError, TypeError, RunFolderError) as error:
        raise RunFolderError(
            f"{path}: neither a run folder nor rows of `agevlm-eval score pope|cvbench --json` ({error})"
        ) from None
    template = _template(benchmark, *prompts) if len(prompts) == 1 else None
    manifest = {"model": {"ckpt": path.stem, "fingerprint": ""}, "prompt": {"template": template}}
    return Run(path, printable(path.stem), benchmark, manifest, scores)


def _template(benchmark: str, name: str) -> str | None:
    """The words of a prompt that has a name here; of one's own its name alone is known."""
    words = {one.name: one.template for one in ASKED[benchmark]}
    return None if name in UNKNOWN else words.get(name, f"template {name}")
