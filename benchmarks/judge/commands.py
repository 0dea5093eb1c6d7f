"""The judge's own command. Heavy imports happen inside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agevlm.terminal import JSON, consoles, stoppable, with_options, write_json
from benchmarks.judge.options import (
    JUDGE,
    JUDGE_LOG,
    JUDGE_MAX_CALLS,
    JUDGE_MODEL,
    JudgeSettings,
    judge_options,
    judge_settings,
    kept_options,
)
from benchmarks.options import PARTIAL

if TYPE_CHECKING:
    from rich.console import Console

    from benchmarks.judge.audit import Audit, Stability
    from benchmarks.judge.cases import Case
    from benchmarks.run_folder import RunFolder

FILE = "judge-audit.json"
RUN = click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))


def _opened(run: Path, options: dict[str, Any]) -> tuple[RunFolder, str, JudgeSettings]:
    """A run folder, its benchmark, and the judge: as given, else as the folder's last judging had it.

    Raises:
        DataError: no run folder of POPE or CV-Bench, or no judge.
        EndpointError: an unusable address.
    """
    from agevlm.errors import DataError
    from benchmarks.run_folder import RunFolder

    folder = RunFolder(run)
    benchmark = folder.manifest().get("benchmark")
    if benchmark not in ("pope", "cvbench"):
        raise DataError(f"{run}: no run of pope or cvbench (its run.json says {benchmark}); a judge reads no others")
    settings = judge_settings(options, kept_options(folder))
    if settings is None:
        raise DataError("name the judge: --judge openai:URL#NAME, a folder or a hub id; no judge has read this run yet")
    return folder, benchmark, settings


@click.command()
@RUN
@judge_options
@JSON
@PARTIAL
def judge(run: Path, **options: Any) -> None:
    """Have the answers of a finished POPE or CV-Bench run read by a judge, or finish a judging that was cut short.

    Scores are written into the folder as by the benchmark's own --judge. Options that are not given are those of the
    folder's last judging; verdicts that are there are not asked for again.

    \b
    agevlm-eval judge runs/cvbench-...
    agevlm-eval judge runs/pope-... --judge openai:http://localhost:8000/v1#NAME --judge-which all
    """
    from benchmarks.cvbench.readers import chosen_readers
    from benchmarks.cvbench.report import report as report_cvbench
    from benchmarks.pope.protocols import chosen_protocols
    from benchmarks.pope.report import report as report_pope
    from benchmarks.run import Tally

    folder, benchmark, settings = _opened(run, options)
    console, notes = consoles()
    folder.own()
    try:
        with stoppable():
            common = {
                "draws": 2000,
                "seed": 0,
                **folder.scoring_settings(),
                "json_out": options["json_out"],
                "allow_partial": options["allow_partial"],
                "console": console,
                "notes": notes,
                "total": Tally(),
            }
            if benchmark == "pope":
                code = report_pope(folder, chosen_protocols(folder.last_scored("protocols")), settings, **common)
            else:
                code = report_cvbench(folder, chosen_readers(folder.last_scored("readings")), settings, **common)
    finally:
        folder.release()
    sys.exit(code)


@click.command("judge-audit")
@RUN
@with_options(JUDGE, JUDGE_MAX_CALLS, *JUDGE_MODEL, JUDGE_LOG)
@click.option("--answers", default=100, show_default=True, type=click.IntRange(1), help="Distinct answers to draw.")
@click.option("--orders", default=1, show_default=True, type=click.IntRange(0), help="Other orders of the options.")
@click.option("--repeats", default=1, show_default=True, type=click.IntRange(0), help="Repetitions of each call.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the draw and the orders.")
@JSON
@PARTIAL
def judge_audit(run: Path, **options: Any) -> None:
    """Check a judge on a POPE or CV-Bench run's answers, whether the rules can read them or not, and on a gold set.

    \b
    agevlm-eval judge-audit runs/cvbench-... --judge openai:http://localhost:8000/v1#NAME
    """
    from benchmarks.judge.asking import check_judged, judging_progress
    from benchmarks.judge.audit import audit
    from benchmarks.judge.log import FILE as LOG
    from benchmarks.judge.log import JudgeLog

    folder, benchmark, settings = _opened(run, options)
    console, notes = consoles()
    rules = _rules_of(run, benchmark)
    with JudgeLog(settings.log or run / LOG) as log, judging_progress(notes) as advance:
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
            advance=advance,
        )
    folder.write_json(FILE, made.to_json())
    write_json([made.to_json()], options["json_out"])
    if options["json_out"] != "-":
        _print(made, console)
    sys.exit(check_judged(judged, options["allow_partial"], notes))


def _rules_of(run: Path, benchmark: str) -> dict[Case, int | None]:
    """The run's distinct answers about the own image, with the option that the rules find in each."""
    if benchmark == "pope":
        from benchmarks.pope.answers import load_run as load_pope
        from benchmarks.pope.judged import rules_of as rules_of_pope

        return rules_of_pope(load_pope(run))
    from benchmarks.cvbench.answers import load_run
    from benchmarks.cvbench.judged import rules_of

    return rules_of(load_run(run))


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
