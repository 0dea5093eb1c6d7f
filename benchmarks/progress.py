"""Progress on a terminal, and ends that a user or a scheduler brings about."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from benchmarks.plan import Group
from benchmarks.run import Tally
from benchmarks.run_folder import RunFolder


class Rate(ProgressColumn):
    """Images per second so far."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.completed / task.elapsed:.2f} images/s" if task.elapsed else "– images/s")


@contextlib.contextmanager
def progress(notes: Console, total: int, processes: int, *, show: bool) -> Iterator[Callable[[Group, Tally], None]]:
    """A bar over so many image groups of this process; gives what to call after each."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=notes, disable=not show) as bar:
        name = "images" if processes == 1 else f"images (process 1 of {processes})"
        task = bar.add_task(name, total=total)

        def advance(_: Group, tally: Tally) -> None:
            bar.advance(task)
            if tally.errors:
                bar.update(task, description=f"{name}, [red]{tally.errors} errors[/red]")

        yield advance


@contextlib.contextmanager
def told_on_interrupt(folder: RunFolder, notes: Console) -> Iterator[None]:
    """On Ctrl-C say what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        kept = sum(r.error is None for r in folder.answers().values())
        what = f"interrupted: {kept} answers are safe in {folder.path}; the same command goes on from there"
        notes.print(what)
        raise


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 0.95:
        return "under a second"
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
