"""What share of a score a judge decided: a table for POPE and CV-Bench alike, from the scores of judged runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reports.document import Cell, Column, Table, number
from reports.opened import Run, reading
from reports.runs.headline import benchmark_name

COUNTS = {
    "answers": "answers",
    "to_judge": "for the judge",
    "named": "read as an option",
    "none": "read as none",
    "undecided": "undecided",
    "over_cap": "over the cap",
    "failed": "judge failed",
    "right": "right",
    "right_by_judge_alone": "right by the judge alone",
    "wrong_by_judge_alone": "wrong by the judge alone",
}


def share_table(runs: Sequence[Run], id: str) -> Iterator[Table]:
    """One table of all judged runs; none where no run has a judge.

    Args:
        runs: of one benchmark.
        id: of the benchmark; the table's begins with it.

    Raises:
        DataError: a run's scores are not as the benchmark writes them.
    """
    rows, prompts = [], set()
    for run in runs:
        with reading(run):
            for judge in _judges(run.scores):
                prompts.add(str(judge["prompt_version"]))
                rows += [_row(run, judge, share) for share in judge["shares"]]
    if not rows:
        return
    columns = [Column(name, False) for name in ("model", "judge", "protocol or reading", "condition")]
    columns += [Column(name) for name in COUNTS.values()]
    columns += [Column("judge's share of the answers, %"), Column("judge's share of the right ones, %")]
    columns += [Column("same as by rules, %"), Column("Cohen's kappa")]
    notes = (
        "A language model read these answers. for the judge: answers it was to read, all of them or (`judged`) "
        "those that the rules cannot read. Its share of the right ones: right answers that the rules read otherwise "
        "or not at all, over all right ones. Undecided, over the cap and judge failed: without verdict, neither "
        "right nor wrong.",
        "same as by rules: of the answers that both the judge and the rules read as an option. A judge need not be "
        f"right: see its audit. Judge's prompt {', '.join(sorted(prompts))}.",
    )
    yield Table(f"{id}-judge", f"{benchmark_name(id, '')}, the judge's share; numbers of answers", columns, rows, notes)


def _judges(scores: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """One of a CV-Bench run, one for each data set of a POPE run."""
    found = (scores or {}).get("judge") or []
    return found if isinstance(found, list) else [found]


def _row(run: Run, judge: Mapping[str, Any], share: Mapping[str, Any]) -> list[Cell]:
    cells = [Cell(run.label), Cell(str(judge["judge"])), Cell(str(judge["reading"])), Cell(str(share["condition"]))]
    cells += [number(share[name], unit="count") for name in COUNTS]
    parts = (("to_judge", "answers"), ("right_by_judge_alone", "right"), ("alike", "both"))
    cells += [number(share[part] / share[of] if share[of] else None) for part, of in parts]
    return [*cells, number(share["kappa"], unit="number")]
