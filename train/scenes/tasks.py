"""Work that depends on other work, each piece a process of its own, as many at once as there are cores to spare."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from agevlm.errors import TrainError

TAIL = 12
"""Lines of a failed task's log that are shown."""


@dataclass(frozen=True)
class Task:
    """A command that makes something."""

    name: str
    command: tuple[str, ...]
    """Arguments of the Python interpreter."""
    done: Path
    """Exists exactly when the task is done: the command must make it appear at its very end."""
    needs: tuple[str, ...] = ()
    """Names of tasks that must be done before."""
    again: tuple[str, ...] = ()
    """The command where `started` exists already: how an interrupted task goes on; the same command if empty."""
    started: Path | None = None


def run_tasks(tasks: Sequence[Task], logs: Path, workers: int, say: Callable[[str], None]) -> None:
    """Do all tasks that are not done yet, in an order that their needs allow.

    Each runs with one thread and writes its output to `logs`/NAME.log. What is done stays done: after an interruption
    the same call goes on.

    Raises:
        TrainError: `logs` cannot be made, or a task failed: its log's end is shown. Tasks beside it are stopped.
        KeyboardInterrupt: all tasks are stopped first.
    """
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError) as error:
        raise TrainError(f"{logs}: cannot be written: {error.strerror}; give another --out") from None
    waiting = [task for task in tasks if not task.done.exists()]
    finished = {task.name for task in tasks if task.done.exists()}
    running: dict[str, tuple[Task, subprocess.Popen[bytes], float]] = {}
    if finished:
        say(f"{len(finished)} of {len(tasks)} tasks were done before")
    try:
        while waiting or running:
            for task in list(waiting):
                if len(running) < workers and set(task.needs) <= finished:
                    waiting.remove(task)
                    running[task.name] = task, _start(task, logs), time.monotonic()
                    say(f"{task.name}: started")
            if not running:
                raise TrainError(_stuck(waiting, finished))
            time.sleep(0.2)
            for name, (task, process, since) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                if process.returncode != 0 or not task.done.exists():
                    raise TrainError(_failure(task, process.returncode, logs))
                finished.add(name)
                say(f"{name}: done after {time.monotonic() - since:.0f} s")
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _start(task: Task, logs: Path) -> subprocess.Popen[bytes]:
    command = task.again if task.again and task.started is not None and task.started.exists() else task.command
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (logs / f"{task.name.replace('/', '-')}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *command], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )


def _stuck(waiting: Sequence[Task], finished: Collection[str]) -> str:
    names = [task.name for task in waiting]
    for task in waiting:
        if nowhere := [need for need in task.needs if need not in finished and need not in names]:
            return f"{task.name} waits for what nothing makes: {', '.join(nowhere)}"
    return f"{', '.join(names)}: each waits for another, in a circle"


def _failure(task: Task, code: int, logs: Path) -> str:
    path = logs / f"{task.name.replace('/', '-')}.log"
    end = "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:])
    ended = f"ended with code {code}" if code else f"left no {task.done}"
    return f"{task.name} {ended}; {path} says:\n{end}\nGive the same command again to go on from what is done"
