"""The options of commands that can have answers read by a judge. Imports are light."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from benchmarks.judge.backends import JudgeChoice

Command = TypeVar("Command", bound=Callable[..., Any])

SUGGESTED = "Qwen/Qwen2.5-7B-Instruct"
JUDGE = click.option(
    "--judge",
    metavar="openai:URL#NAME|FOLDER|ORG/NAME|rules",
    help=f"Language model that reads answers: a served one, or one that runs here ({SUGGESTED}, say).  [rules: none]",
)
JUDGE_DTYPE = click.option(
    "--judge-dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16", "float16"])
)
JUDGE_DEVICE = click.option("--judge-device", default="auto", show_default=True, help="Of a judge that runs here.")
JUDGE_LOG = click.option(
    "--judge-log",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where its calls are kept.  [judge.jsonl in the run folder]",
)
JUDGE_MAX_CALLS = click.option(
    "--judge-max-calls",
    type=click.IntRange(0),
    help="Most calls, those in the log included; answers beyond stay undecided.  [as many as it takes]",
)
JUDGE_WHICH = click.option(
    "--judge-which",
    default="unread",
    show_default=True,
    type=click.Choice(["unread", "all"]),
    help="Answers that it reads: those that the rules cannot, or all.",
)


@dataclass(frozen=True)
class JudgeSettings:
    """What a judge is to read, and where its calls are kept."""

    choice: JudgeChoice
    which: str
    """unread or all."""
    max_calls: int | None
    log: Path | None
    """None: in the run folder."""


def judge_options(command: Command) -> Command:
    """Which judge, which answers, at most how many calls."""
    for option in (JUDGE_LOG, JUDGE_DEVICE, JUDGE_DTYPE, JUDGE_MAX_CALLS, JUDGE_WHICH, JUDGE):
        command = option(command)
    return command


def judge_settings(options: Mapping[str, Any]) -> JudgeSettings | None:
    """The judge of a command's options; None where there is none. Raises DataError, EndpointError: an unusable name."""
    from benchmarks.judge.backends import RULES, JudgeChoice

    if options["judge"] in (None, RULES):
        return None
    choice = JudgeChoice(options["judge"], options["judge_dtype"], options["judge_device"])
    which = options.get("judge_which", "unread")
    return JudgeSettings(choice, which, options["judge_max_calls"], options["judge_log"])
