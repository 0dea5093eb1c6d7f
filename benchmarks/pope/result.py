"""What a POPE command says at its end: tables or JSON, warnings, the exit code."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from agevlm.terminal import write_json
from benchmarks.pope.protocols import Protocol
from benchmarks.pope.rows import FLOOR, IMAGE, MEAN, POOLED, Row, Scores
from benchmarks.remarks import ANSWERS_MISSING, FEW_IMAGES, HIGH_UNPARSED


def print_result(scores: Scores, protocols: Sequence[Protocol], json_out: str | None, console: Console) -> None:
    """Tables on stdout, or (`--json -`) the rows as one JSON array and nothing else; `--json FILE` does both."""
    write_json([r.to_json() for r in scores.rows], json_out)
    if json_out != "-":
        from benchmarks.pope.table import print_scores

        print_scores(console, scores, [p.name for p in protocols])


def check_result(scores: Scores, allow_partial: bool, notes: Console) -> int:
    """Remarks on doubtful results; the exit code: 3 if answers are missing and that was not allowed."""
    main = [r for r in scores.rows if not r.is_floor and r.split not in (POOLED, MEAN)]
    for row in main:
        if row.protocol == "default" and row.condition == IMAGE and row.n:
            if row.counts["unparsed"] > HIGH_UNPARSED * row.n:
                unread = f"{row.counts['unparsed']} of {row.n} answers could not be read as yes or no"
                advice = "look at the prompt and the answers before trusting any score"
                notes.print(f"warning: {row.split}: {unread}; {advice}", style="yellow")
            constant = max(r.scores["accuracy"].value for r in scores.rows if _is_constant_floor_of(r, row))
            if row.scores["accuracy"].high < constant:
                worse = f"accuracy is below the {100 * constant:.1f}% of a constant answer"
                notes.print(f"warning: {row.split}: {worse}", style="yellow")
    few = min((r.images for r in main if r.condition == IMAGE and r.n), default=FEW_IMAGES)
    if few < FEW_IMAGES:
        notes.print(f"warning: only {few} images: intervals over so few are rough", style="yellow")
    missing = {(r.dataset, r.data_version, r.split, r.condition): r.missing for r in main if r.missing}
    if not missing:
        return 0
    total = sum(missing.values())
    notes.print(f"{total} answers are missing; scores are over those that are there", style="yellow")
    return 0 if allow_partial else ANSWERS_MISSING


def _is_constant_floor_of(floor: Row, row: Row) -> bool:
    same = (floor.dataset, floor.data_version, floor.split) == (row.dataset, row.data_version, row.split)
    return same and floor.condition in (f"{FLOOR}always-yes", f"{FLOOR}always-no")
