"""What a POPE command says at its end: tables or JSON, warnings, the exit code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from agevlm.errors import DataError
from benchmarks.pope.protocols import Protocol
from benchmarks.pope.score import IMAGE, Scores

HIGH_UNPARSED = 0.2
"""Share of unreadable answers above which a warning is due."""
ANSWERS_MISSING = 3
"""Exit code where not every question has an answer."""


def print_result(scores: Scores, protocols: Sequence[Protocol], json_out: str | None, console: Console) -> None:
    """Tables on stdout, or (`--json -`) the rows as one JSON array and nothing else; `--json FILE` does both."""
    text = json.dumps([r.to_json() for r in scores.rows], indent=1) + "\n"
    if json_out == "-":
        click.echo(text, nl=False)
        return
    if json_out is not None:
        try:
            Path(json_out).write_text(text, encoding="utf-8")
        except OSError as error:
            raise DataError(f"--json {json_out}: cannot write: {error.strerror}") from None
    from benchmarks.pope.table import print_scores

    print_scores(console, scores, [p.name for p in protocols])


def check_result(scores: Scores, allow_partial: bool, notes: Console) -> int:
    """Remarks on doubtful results; the exit code: 3 if answers are missing and that was not allowed."""
    main = [r for r in scores.rows if not r.condition.startswith("floor:") and r.split not in ("pooled", "mean")]
    for row in main:
        if row.protocol == "default" and row.condition == IMAGE and row.n:
            if row.counts["unparsed"] > HIGH_UNPARSED * row.n:
                unread = f"{row.counts['unparsed']} of {row.n} answers could not be read as yes or no"
                advice = "look at the prompt and the answers before trusting any score"
                notes.print(f"warning: {row.split}: {unread}; {advice}", style="yellow", soft_wrap=True)
            if row.scores["accuracy"].high < 0.5:
                notes.print(f"warning: {row.split}: accuracy is below chance", style="yellow")
    missing = {(r.dataset, r.data_version, r.split, r.condition): r.missing for r in main if r.missing}
    if not missing:
        return 0
    total = sum(missing.values())
    notes.print(f"{total} answers are missing; scores are over those that are there", style="yellow")
    return 0 if allow_partial else ANSWERS_MISSING
