"""What a CV-Bench command says at its end: tables or JSON, warnings, the exit code."""

from __future__ import annotations

from rich.console import Console

from agevlm.terminal import write_json
from benchmarks.controls import IMAGE
from benchmarks.cvbench.results import ResultRow, Results
from benchmarks.cvbench.score import OFFICIAL, ROW_MEAN
from benchmarks.cvbench.types import SOURCES
from benchmarks.remarks import ANSWERS_MISSING, FEW_IMAGES, HIGH_UNPARSED


def print_result(results: Results, main: str, json_out: str | None, console: Console) -> None:
    """Tables on stdout, or (`--json -`) the rows as one JSON array and nothing else; `--json FILE` does both."""
    write_json(results.json_rows(), json_out)
    if json_out != "-":
        from benchmarks.cvbench.table import print_results

        print_results(console, results, main)


def check_result(results: Results, main: str, allow_partial: bool, notes: Console) -> int:
    """Remarks on doubtful results; the exit code: 3 if answers are missing and that was not allowed."""
    for remark in _remarks(results, main):
        notes.print(remark, style="yellow")
    if not (total := sum(results.missing.values())):
        return 0
    notes.print(f"{total} answers are missing; scores are over those that are there", style="yellow")
    return 0 if allow_partial else ANSWERS_MISSING


def _remarks(results: Results, main: str) -> list[str]:
    lead = {r.score.name: r for r in results.rows if r.reading == main and r.condition == IMAGE}
    said = []
    if not lead:
        said.append(f"warning: no answers about images that {main} can read: no leading scores")
    if ROW_MEAN in lead:
        said += _about_main(lead)
    lacking: dict[tuple[str, int], list[str]] = {}
    for (condition, reading), count in results.absent.items():
        lacking.setdefault((condition, count), []).append(reading)
    for (condition, count), readings in lacking.items():
        said.append(
            f"no scores by {', '.join(readings)} under {condition}: {count} records hold no log-probabilities of all "
            "options (a model that cannot rank, --no-rank, or answers from elsewhere)"
        )
    return said


def _about_main(lead: dict[str, ResultRow]) -> list[str]:
    said = []
    whole = lead[ROW_MEAN].score
    if whole.unparsed > HIGH_UNPARSED * whole.n:
        said.append(
            f"warning: {whole.unparsed} of {whole.n} answers name no option; look at the prompt and the answers before "
            "trusting any score"
        )
    below = [name for name, row in lead.items() if row.score.below_chance]
    if below:
        said.append(f"warning: below chance: {', '.join(below)}; the answers are worse than guesses or were not read")
    if whole.images < FEW_IMAGES:
        said.append(f"warning: only {whole.images} images: intervals over so few are rough")
    sources = {name.removeprefix("source ") for name in lead if name.startswith("source ")}
    if OFFICIAL not in lead and sources & set(SOURCES):
        wrong = {"not there": set(SOURCES) - sources, "none of these": sources - set(SOURCES)}
        what = "; ".join(f"{why}: {', '.join(sorted(names))}" for why, names in wrong.items() if names)
        said.append(f"no official number: it needs {', '.join(SOURCES)} and no other source; {what}")
    return said
