"""What commands share: options of the model and --json, consoles, signals, writing rows. Imports are light."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from agevlm.errors import DataError

Command = TypeVar("Command", bound=Callable[..., Any])

TABLE_WIDTH = 400
"""More than any table needs: each takes its own width, and none is cut."""


def _json_target(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Refuse a file that cannot be written before any work is done for it."""
    if value is not None and value != "-" and (not value or Path(value).is_dir() or not Path(value).parent.is_dir()):
        raise click.BadParameter(f"{value!r} is no file in an existing folder")
    return value


CKPT = click.option(
    "--ckpt",
    default="scenes/age-vlm",
    show_default=True,
    metavar="scenes/NAME|FOLDER|ORG/NAME|openai:URL#NAME|lmms:NAME?ARGS",
    help="The model: one that comes with the package, a checkpoint folder, a hub id, a served model, or a wrapper of "
    "lmms-eval.",
)
CKPTS = click.option(
    "--ckpt",
    "ckpts",
    multiple=True,
    default=("scenes/age-vlm",),
    show_default=True,
    metavar="scenes/NAME|FOLDER|ORG/NAME",
    help="A model that runs here, repeatable: all are looked into on the same images and compared.",
)
DTYPE = click.option(
    "--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16", "float16"])
)
DEVICE = click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
DEVICE_MAP = click.option(
    "--device-map",
    metavar="auto",
    help="Spread one model over all devices, then host memory: auto, balanced, ... as transformers takes it.",
)
BATCH_SIZE = click.option(
    "--batch-size",
    type=click.IntRange(1),
    help="Most questions in one pass.  [many; halved when memory runs out, and remembered]",
)
CHAT_TEMPLATE = click.option(
    "--chat-template", type=click.Path(path_type=Path), help="Jinja file to use instead of the checkpoint's own."
)
CONCURRENCY = click.option(
    "--concurrency", default=32, show_default=True, type=click.IntRange(1, 1024), help="Served models: most requests."
)
TIMEOUT = click.option(
    "--timeout",
    default=120.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Served models: for each request.",
)
CHECKPOINT = (DTYPE, DEVICE, DEVICE_MAP, CHAT_TEMPLATE)
"""How to load a checkpoint, beside its name."""
MODEL = (*CHECKPOINT, BATCH_SIZE, CONCURRENCY, TIMEOUT)
"""How to run any model, beside its name."""
JSON = click.option(
    "--json",
    "json_out",
    metavar="FILE|-",
    callback=_json_target,
    help="Write the rows as one JSON array; - for stdout alone.",
)


def with_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """A decorator that adds these options to a command, in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """A polite kill (SIGTERM from a scheduler, SIGHUP from a closed terminal) ends the work like Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    # Under nohup a hang-up is ignored, and stays so.
    signals = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) != signal.SIG_IGN]
    previous = {s: signal.signal(s, interrupt) for s in signals}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def consoles() -> tuple[Any, Any]:
    """Tables to stdout, in the width they need; remarks to stderr."""
    from rich.console import Console

    class Tables(Console):
        def on_broken_pipe(self) -> None:
            # The reader has gone (| head): say no more, but go on to the end and its exit code.
            self.quiet = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return Tables(highlight=False, width=TABLE_WIDTH), Console(
        stderr=True, highlight=False, markup=False, soft_wrap=True
    )


def write_json(rows: Sequence[Mapping[str, Any]], json_out: str | None) -> None:
    """Write rows as one JSON array to a file, or to stdout for "-"; nothing for None.

    Raises:
        DataError: the file cannot be written.
    """
    text = json.dumps(rows, indent=1) + "\n"
    if json_out == "-":
        click.echo(text, nl=False)
    elif json_out is not None:
        try:
            Path(json_out).write_text(text, encoding="utf-8")
        except OSError as error:
            raise DataError(f"--json {json_out}: cannot write: {error.strerror}") from None


def chat_template_text(path: str | Path | None) -> str | None:
    """The text of a --chat-template file; None where none was given. Raises DataError if it cannot be read."""
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--chat-template {path}: cannot read: {error}") from None
