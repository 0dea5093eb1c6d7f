"""The faces of the house: `agevlm-eval` and `agevlm-train`.

Commands are named here as strings and loaded when they are called, so that help is instant and the face needs no import
of the floors above it.
"""

from __future__ import annotations

import errno
import importlib
import io
import sys
from collections.abc import Mapping
from typing import Any

import click

from agevlm import __version__
from agevlm.errors import AgeVlmError

EVAL_COMMANDS = {
    "pope": ("benchmarks.commands:pope", "Ask a model POPE's yes/no questions and score its answers."),
    "cvbench": (
        "benchmarks.cvbench.commands:cvbench",
        "Ask a model CV-Bench's questions and score its answers in every reading.",
    ),
    "score": ("benchmarks.commands:score", "Score answers that already exist."),
    "judge": ("benchmarks.judge.commands:judge", "Have a run's answers read by a judge, or finish doing so."),
    "judge-audit": ("benchmarks.judge.commands:judge_audit", "Check a judge on a run's answers and on a gold set."),
    "lmms": ("benchmarks.lmms.commands:lmms", "Run lmms-eval's tasks on a model and file the results."),
    "look": ("analysis.commands:look", "Ask one question and show where the model looked."),
    "similarity": (
        "analysis.similarity.commands:similarity",
        "Measure whether matching pairs differ from others inside models.",
    ),
    "grounding": (
        "analysis.grounding.commands:grounding",
        "Measure whether a model's attention lies on what is asked about.",
    ),
    "padding": ("analysis.padding.commands:padding", "Measure attention on padding, and what padding does to answers."),
    "linkage": ("analysis.linkage.commands:linkage", "Say whether looking explains answering, and what hiding does."),
    "failure-signs": (
        "analysis.failure_signs.commands:failure_signs",
        "The paper's failure signatures as one table with verdicts.",
    ),
    "report": ("reports.evidence.commands:report", "One page of evidence from run folders, with tables and figures."),
    "compare": ("reports.compare.commands:compare", "Is A really better than B? Paired, on the questions of both."),
    "baselines": ("reports.baselines.commands:baselines", "Published results beside measured ones of the same metric."),
    "ablation": (
        "reports.baselines.commands:ablation",
        "Tables over training runs: stages, guidance, Dice form, seeds.",
    ),
    "runs": ("reports.runs.commands:runs", "List run folders: what they are of, state, headline, age."),
    "show": ("reports.runs.commands:show", "Print questions of a run with the model's answers."),
    "build-pope": ("benchmarks.commands:build_pope", "Build POPE questions from COCO-style annotations."),
    "build-scenes": ("agevlm.scenes.commands:build_scenes", "Render scenes with exact annotations, COCO-style."),
}
TRAIN_COMMANDS = {
    "assemble": ("train.commands:assemble", "Join a LLaMA and a ConvNeXt into an untrained AGE-VLM (stage 0)."),
    "describe": ("train.commands:describe", "Say what an AGE-VLM costs: parameters, operations, cache."),
    "masks": ("train.teacher.commands:masks", "Find the regions of phrases that teach where to look."),
    "plan": ("train.plan_commands:plan", "Say what training stages train and take: parameters, memory, time."),
    "run": ("train.stage_commands:run", "Train one stage."),
    "resume": ("train.stage_commands:resume", "Go on with a stage that was interrupted."),
    "export": ("train.stage_commands:export", "Write a model folder from a training checkpoint."),
    "scenes": ("reports.scenes.commands:scenes", "Train every arm from nothing in the rendered world, and measure it."),
    "scenes-ablate": ("reports.scenes.commands:scenes_ablate", "Train variants of AGE-VLM there, and measure them."),
}


REASONS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "no room to write the output"),
    errno.EFBIG: "the output is larger than a file may be here",
    errno.ENAMETOOLONG: "a name is too long for the file system",
}
"""Troubles of the operating system that are the user's to mend, wherever they arise."""


class LazyGroup(click.Group):
    """A group whose commands are imported when called; their one-line help stands in the table."""

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = dict(table or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        module_name, _, attribute = self.table[cmd_name][0].partition(":")
        command: click.Command = getattr(load_room(module_name), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.table:
            with formatter.section("Commands"):
                formatter.write_dl([(name, text) for name, (_, text) in self.table.items()])


def load_room(module_name: str) -> Any:
    """Import a module of one of our top-level packages.

    Their names are generic; where another package of that name stands first on the path, say so.
    """
    package_name = module_name.partition(".")[0]
    package = importlib.import_module(package_name)
    if getattr(package, "__part_of__", None) != "agevlm":
        where = getattr(package, "__file__", None) or next(iter(getattr(package, "__path__", ["?"])))
        raise AgeVlmError(
            f"the package {package_name!r} found at {where} is not AGE-VLM's: it hides ours. "
            "Run from another folder, or rename that package"
        )
    return importlib.import_module(module_name)


@click.group(cls=LazyGroup, table=EVAL_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="agevlm-eval")
def eval_group() -> None:
    """Does my vision-language model hallucinate, where does it look, and why?"""


@click.group(cls=LazyGroup, table=TRAIN_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="agevlm-train")
def train_group() -> None:
    """Make AGE-VLM: join its pretrained parts, see what it costs, and train it in four stages."""


def run(group: click.Command) -> None:
    """Run a command or a group; our errors are one clear line and their exit code, Ctrl-C is 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character shows another one; a table is no reason to fail.
            stream.reconfigure(errors="replace")
    try:
        group.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except AgeVlmError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone (| head); nothing is wrong.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        reason = REASONS.get(error.errno or 0)
        if reason is None:
            raise
        click.echo(f"error: {reason}: {error}", err=True)
        sys.exit(AgeVlmError.exit_code)


def eval_main() -> None:
    """Entry point of `agevlm-eval`."""
    run(eval_group)


def train_main() -> None:
    """Entry point of `agevlm-train`."""
    run(train_group)
