"""The judge's own command. Heavy imports happen inside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agevlm.terminal import JSON, consoles, write_json
from benchmarks.judge.options import JUDGE, JUDGE_DEVICE, JUDGE_DTYPE, JUDGE_LOG, JUDGE_MAX_CALLS, judge_settings
from benchmarks.options import PARTIAL

if TYPE_CHECKING:
    from rich.console import Console

    from benchmarks.judge.audit import Audit, Stability

FILE = "judge-audit.json"


@click.command("judge-audit")
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@JUDGE
@JUDGE_MAX_CALLS
@JUDGE_DTYPE
@JUDGE_DEVICE
@JUDGE_LOG
@click.option("--answers", default=100, show_default=True, type=click.IntRange(1), help="Distinct answers to draw.")
@click.option("--orders", default=1, show_default=True, type=click.IntRange(0), help="Other orders of the options.")
@click.option("--repeats", default=1, show_default=True, type=click.IntRange(0), help="Repetitions of each call.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the draw and the orders.")
@JSON
@PARTIAL
def judge_audit(run: Path, **options: Any) -> None:
    """Check a judge on a CV-Bench run's answers, whether the rules can read them or not, and on a gold set.

    \b
    agevlm-eval judge-audit runs/cvbench-... --judge openai:http://localhost:8000/v1#NAME
    """
    from agevlm.errors import DataError
    from benchmarks.cvbench.answers import load_run
    from benchmarks.cvbench.judged import rules_of
    from benchmarks.judge.asking import check_judged
    from benchmarks.judge.audit import audit
    from benchmarks.judge.log import FILE as LOG
    from benchmarks.judge.log import JudgeLog
    from benchmarks.run_folder import RunFolder

    settings = judge_settings(options)
    if settings is None:
        raise DataError("name the judge to check: --judge openai:URL#NAME, a folder or a hub id")
    console, notes = consoles()
    rules = rules_of(load_run(run))
    with JudgeLog(settings.log or run / LOG) as log:
        made, judged = audit(
            rules,
            settings.choice,
            log,
            sample=options["answers"],
            orders=options["orders"],
            repeats=options["repeats"],
            seed=options["seed"],
            max_calls=settings.max_calls,
            say=notes.print,
        )
    RunFolder(run).write_json(FILE, made.to_json())
    write_json([made.to_json()], options["json_out"])
    if options["json_out"] != "-":
        _print(made, console)
    sys.exit(check_judged(judged, options["allow_partial"], notes))


def _print(made: Audit, console: Console) -> None:
    from rich.markup import escape

    from benchmarks.tables import empty_table

    title = escape(f"Audit of {made.judge} · {made.answers} answers · prompt {made.prompt_version}")
    table = empty_table(title, "check", "answers", "result", "without verdict")
    table.min_width = len(title)
    agreed, gold = made.agreement, made.gold
    kappa = "not defined" if agreed.kappa is None else f"{agreed.kappa:.3f}"
    alike = f"{agreed.alike} alike, Cohen's kappa {kappa}"
    table.add_row("rules and judge both find an option", str(agreed.both), alike, str(agreed.without_verdict))
    table.add_row("  only the rules do", str(agreed.rules_alone), "", "")
    table.add_row("  only the judge does", str(agreed.judge_alone), "", "")
    table.add_row("  neither does", str(agreed.neither), "", "")
    for name, one in (("options in another order", made.order), ("asked again", made.repeats)):
        table.add_row(name, str(one.cases), _changed(one), str(one.without_verdict))
    table.add_row("gold set", str(gold.rows), f"{gold.right} right", str(gold.without_verdict))
    console.print(table)
    for row in gold.wrong:
        console.print(escape(f"gold set: {row['answer']!r} names {row['verdict']}, the judge says {row['judge']}"))


def _changed(one: Stability) -> str:
    share = f" ({100 * one.differ / one.cases:.1f}%)" if one.cases else ""
    return f"{one.differ} change the verdict{share}"
