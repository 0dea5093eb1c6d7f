"""The options of commands that can have answers read by a judge. Imports are light."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from agevlm.errors import DataError, RunFolderError

if TYPE_CHECKING:
    from benchmarks.judge.backends import JudgeChoice
    from benchmarks.run_folder import RunFolder

Command = TypeVar("Command", bound=Callable[..., Any])

FILE = "judge.json"
"""In a run folder: the judge of its last judging, so that `agevlm-eval judge RUN` goes on with it."""
DEFAULT = "Qwen/Qwen2.5-7B-Instruct"
WHICH = ("unread", "all")
JUDGE = click.option(
    "--judge",
    metavar="all|unread|openai:URL#NAME|FOLDER|ORG/NAME|rules",
    help=f"Language model that reads answers: a served one, or one that runs here; `all` and `unread`: {DEFAULT} here, "
    "reading these.  [rules: none]",
)
JUDGE_MODEL = (
    click.option("--judge-dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="[float32]"),
    click.option("--judge-device", help="Of a judge that runs here.  [auto]"),
    click.option("--judge-batch-size", type=click.IntRange(1), help="Likewise: most answers in one pass.  [many]"),
    click.option(
        "--judge-concurrency", type=click.IntRange(1, 1024), help="Of a served judge: most calls under way.  [32]"
    ),
    click.option(
        "--judge-timeout",
        type=click.FloatRange(0, min_open=True),
        metavar="SECONDS",
        help="Likewise: for each call.  [120]",
    ),
)
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
    type=click.Choice(WHICH),
    help="Answers that it reads: those that the rules cannot, or all (the paper's way).  [unread]",
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

    def to_json(self) -> dict[str, Any]:
        """The options' values by their names, for judge.json."""
        return {
            "judge": self.choice.name,
            "judge_which": self.which,
            "judge_max_calls": self.max_calls,
            "judge_dtype": self.choice.dtype,
            "judge_device": self.choice.device,
            "judge_batch_size": self.choice.batch_size,
            "judge_concurrency": self.choice.concurrency,
            "judge_timeout": self.choice.timeout,
            "judge_log": None if self.log is None else str(self.log.absolute()),
        }


def judge_options(command: Command) -> Command:
    """Which judge, which answers, at most how many calls, how it is run."""
    for option in (JUDGE_LOG, *reversed(JUDGE_MODEL), JUDGE_MAX_CALLS, JUDGE_WHICH, JUDGE):
        command = option(command)
    return command


def judge_settings(options: Mapping[str, Any], kept: Mapping[str, Any] | None = None) -> JudgeSettings | None:
    """The judge of a command's options; None where there is none.

    Args:
        options: as click gives them.
        kept: what stands where an option was not given: see `kept_options`.

    Raises:
        DataError: options of a judge without one, or that contradict each other.
        EndpointError: an unusable address.
    """
    from benchmarks.judge.backends import RULES, JudgeChoice

    given = {name: value for name, value in options.items() if name.startswith("judge") and value is not None}
    if given.get("judge") in WHICH:
        if given.get("judge_which", given["judge"]) != given["judge"]:
            raise DataError(f"--judge {given['judge']} and --judge-which {given['judge_which']}: give one of them")
        given |= {"judge": DEFAULT, "judge_which": given["judge"]}
    merged = {**(kept or {}), **given}
    name = merged.get("judge", RULES)
    if name == RULES:
        if useless := sorted(set(given) - {"judge"}):
            option = "--" + useless[0].replace("_", "-")
            raise DataError(f"{option} is for a judge, and none is named; add --judge (openai:URL#NAME, a folder, all)")
        return None
    own = ("dtype", "device", "batch_size", "concurrency", "timeout")
    run = {key: merged[f"judge_{key}"] for key in own if merged.get(f"judge_{key}") is not None}
    log = merged.get("judge_log")
    return JudgeSettings(
        JudgeChoice(name, **run),
        merged.get("judge_which") or WHICH[0],
        merged.get("judge_max_calls"),
        None if log is None else Path(log),
    )


def keep_options(run: RunFolder, settings: JudgeSettings) -> None:
    """Write down with which judge the run is read. Raises RunFolderError."""
    run.write_json(FILE, settings.to_json())


def kept_options(run: RunFolder) -> dict[str, Any]:
    """What `keep_options` wrote; empty where it wrote nothing. Raises RunFolderError if it is damaged."""
    import json

    path = run.path / FILE
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        kept = None
    if not isinstance(kept, dict):
        raise RunFolderError(f"{path}: damaged; remove it and name the judge again with --judge")
    return kept
