"""The report as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.speed.overhead import AIM_FIRST_SECONDS, AIM_SHARE
from benchmarks.speed.questions import PER_IMAGE
from benchmarks.speed.scoring import SCORING_AIM_SECONDS, SCORING_KINDS
from benchmarks.speed.sides import PLAIN

if TYPE_CHECKING:
    from rich.console import Console


def print_report(console: Console, report: dict[str, Any]) -> None:
    """Print what the JSON file holds: the machine, the sides, the answers that differ and scoring."""
    from rich.table import Table

    equal = report["answers"]
    _print_subject(console, report)
    table = Table(
        title=f"{report['images']} images x {PER_IMAGE} questions; ratios: median (lowest - highest) by image"
    )
    for column in ("", "questions/s", "wall ratio", "CPU ratio", "vision calls/q", "language positions/q", "differ"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in report["sides"].items():
        table.add_row(
            name,
            f"{row['questions_per_second']:.2f}",
            *(f"{r['median']:.1f} ({r['low']:.1f} - {r['high']:.1f})" for r in (row["ratio"], row["cpu_ratio"])),
            f"{row['vision_calls_per_question']:.3f}",
            f"{row['language_positions_per_question']:.1f}",
            "-" if name == PLAIN else f"{equal['differing'][name]} of {equal['questions']}",
        )
    console.print(table)
    console.print(
        f"{equal['questions']} questions, {equal['distinct_questions']} distinct (image, question) pairs; "
        f"plain answers: {equal['yes']} yes, {equal['no']} no"
    )
    for flip in equal["flips"]:
        console.print(
            f"flip: {flip['side']}, image {flip['image']}, {flip['question']!r}: {flip['ours']!r} for "
            f"{flip['plain']!r}, margin {flip['margin']:.3g}",
            markup=False,
        )
    if not report["scoring"]:
        return
    first = next(iter(report["scoring"].values()))
    table = Table(
        title=f"Scoring {first['answers']} answers under {first['protocols']} protocols with {first['draws']} draws, "
        f"median of {len(first['runs'])} fresh processes (aim: under {SCORING_AIM_SECONDS:g} s)"
    )
    for column in ("answers", "distinct texts", "wall s", "CPU s", "aim met"):
        table.add_column(column, justify="left" if column == "answers" else "right")
    for kind, row in report["scoring"].items():
        met = "yes" if row["wall"] < SCORING_AIM_SECONDS else "no"
        table.add_row(SCORING_KINDS[kind], str(row["distinct_texts"]), f"{row['wall']:.2f}", f"{row['cpu']:.2f}", met)
    console.print(table)


def print_beside(console: Console, report: dict[str, Any]) -> None:
    """Print the figures of both harnesses."""
    from rich.table import Table

    peer, equal = report["peer"], report["equality"]
    _print_subject(console, report)
    table = Table(
        title=f"beside {peer['name']} {peer['version']} ({peer['wrapper']}): {report['images']} images x {PER_IMAGE} "
        "questions; its time over ours, median (lowest - highest) by image"
    )
    for column in ("", "questions/s", "wall ratio", "CPU ratio", "vision calls/q", "language positions/q", "differ"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in report["sides"].items():
        table.add_row(
            name,
            f"{row['questions_per_second']:.2f}",
            *(f"{r['median']:.1f} ({r['min']:.1f} - {r['max']:.1f})" for r in (row["wall_ratio"], row["cpu_ratio"])),
            f"{row['vision_calls_per_question']:.3f}",
            f"{row['language_positions_per_question']:.1f}",
            f"{equal['differing'][name]} of {report['questions']}" if name in equal["differing"] else "-",
        )
    console.print(table)
    console.print(
        f"{report['questions']} questions, {report['distinct_questions']} distinct (image, question) pairs, token ids "
        f"of all prompts equal; its answers: {equal['yes']} yes, {equal['no']} no"
    )
    for flip in equal["flips"]:
        console.print(
            f"flip: {flip['side']}, {flip['task']}, {flip['question']!r}: {flip['ours']!r} for {flip['plain']!r}, "
            f"margin {flip['margin']:.3g}",
            markup=False,
        )


def print_overhead(console: Console, report: dict[str, Any]) -> None:
    """Print what a run spends beside the model."""
    from rich.table import Table

    _print_subject(console, report)
    table = Table(
        title=f"agevlm-eval pope on {report['planned_questions']} questions, up to {report['asked_questions']} of "
        f"{report['images']} images: ms per question and share of the model's time (aim: under {AIM_SHARE:.0%} in all)"
    )
    for column in ("", "wall ms", "share", "CPU ms", "share"):
        table.add_column(column, justify="right" if column else "left")
    wall, cpu = report["wall"], report["cpu"]
    rows = {name: [clock["seconds_per_question"][name] for clock in (wall, cpu)] for name in wall["shares"]}
    rows["in all"] = [sum(clock["seconds_per_question"].values()) for clock in (wall, cpu)]
    rows["the model"] = [clock["model_seconds_per_question"] for clock in (wall, cpu)]
    for name, seconds in rows.items():
        shares = [s / clock["model_seconds_per_question"] for s, clock in zip(seconds, (wall, cpu), strict=True)]
        cells = [text for s, share in zip(seconds, shares, strict=True) for text in (f"{1e3 * s:.3f}", f"{share:.2%}")]
        table.add_row(name, *cells)
    console.print(table)
    first_image, first_question = (report[f"seconds_from_load_to_first_{what}"] for what in ("image", "question"))
    console.print(
        f"Opening, decoding and preprocessing images in a thread beside the model: {report['other_threads_share']:.2%} "
        f"of its CPU time. From loaded weights to the first image {first_image:.3f} s, to the first question "
        f"{first_question:.3f} s (aim: {AIM_FIRST_SECONDS:g} s)"
    )


def print_memory(console: Console, report: dict[str, Any]) -> None:
    """Print a run's peaks."""
    from rich.table import Table

    table = Table(title="peak resident memory of a whole POPE run (plan, ask, score) without a model")
    for column in ("questions", "asked", "before MB", "peak MB"):
        table.add_column(column, justify="right")
    for run in report["runs"]:
        table.add_row(str(run["rows"]), str(run["asks"]), f"{run['before'] / 1e6:.0f}", f"{run['peak'] / 1e6:.0f}")
    console.print(table)
    console.print(f"{report['bytes_per_further_row']:.0f} bytes for each further question")


def _print_subject(console: Console, report: dict[str, Any]) -> None:
    machine = report["machine"]
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} thread(s); {report['model']}, on "
        f"{machine['device']}, {machine['dtype']}, {machine['parameters'] / 1e6:.1f} M parameters; "
        + ", ".join(f"{k} {v}" for k, v in {"Python": machine["python"], **machine["packages"]}.items()),
        markup=False,
    )
