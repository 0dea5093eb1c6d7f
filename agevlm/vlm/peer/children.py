"""What processes that run lmms-eval have in common: finding it, starting one, and not outliving the one who did.

lmms-eval is never imported into the caller's process: doing so takes the host's loguru handlers away, patches
`filelock` and `ssl`, lets Pillow accept truncated images, and takes about fifteen seconds.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO

import agevlm
from agevlm.errors import CheckpointError

INSTALL = 'lmms-eval is not installed: pip install "agevlm[lmms]"'
LAUNCHER = re.compile(
    r"(?:LOCAL_|GROUP_|ROLE_)?(?:RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(?:ADDR|PORT)|CROSS_RANK"
    r"|(?:TORCHELASTIC|PMI|OMPI_COMM_WORLD|MV2_COMM_WORLD)_.*"
)
"""Variables by which torchrun, accelerate and MPI tell a process its place among others."""
TAIL = 6
"""Lines of a child's log that a message quotes."""


def lmms_eval_version() -> str:
    """The installed version. Raises CheckpointError, which says how to install it, if there is none."""
    try:
        return metadata.version("lmms-eval")
    except metadata.PackageNotFoundError:
        raise CheckpointError(INSTALL) from None


def environment() -> dict[str, str]:
    """This process's environment, with this package on the path: the child must run the code that its parent runs."""
    root = str(Path(agevlm.__file__).parents[1])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def alone(variables: Mapping[str, str], device: str) -> tuple[dict[str, str], str]:
    """An environment, and the device's name in it, for a child that is no rank of the launch that its parent is in.

    A wrapper's `Accelerator()` would join the parents' rendezvous and wait there for ever. Of the GPUs it is shown the
    parent's own: wrappers that are alone take the first they see, or spread over all, whatever device they are given.
    """
    kept = {name: value for name, value in variables.items() if not LAUNCHER.fullmatch(name)}
    kind, _, index = device.partition(":")
    if int(variables.get("WORLD_SIZE") or 1) < 2 or kind != "cuda" or not index.isdecimal():
        return kept, device
    visible = [name.strip() for name in variables.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if visible and int(index) >= len(visible):
        raise CheckpointError(f"{device}: only {len(visible)} GPUs are visible (CUDA_VISIBLE_DEVICES)")
    return {**kept, "CUDA_VISIBLE_DEVICES": visible[int(index)] if visible else index}, kind


def start(
    module: str,
    arguments: Sequence[str],
    log: IO[bytes],
    pass_fds: Sequence[int] = (),
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Run a module of ours as a process group whose output goes to a log; a terminal's Ctrl-C does not reach it.

    Its environment is `environment()` where no variables are given.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, str(os.getpid()), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment() if variables is None else variables,
        pass_fds=pass_fds,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[bytes], grace: float) -> None:
    """Give a started child so many seconds to end, then end it and all that it has started (engines, say)."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end_with(parent: int) -> None:
    """In the child: end when the parent does, however it ends, with all that this process has started."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def ended(process: subprocess.Popen[bytes]) -> str:
    """How a child ended, in words."""
    code = process.wait()
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def tail(log: Path) -> str:
    """The last lines of a log, in one."""
    try:
        lines = log.read_bytes().decode("utf-8", "replace").replace("\r", "\n").splitlines()
    except OSError:
        return ""
    return " | ".join(line.strip() for line in [x for x in lines if x.strip()][-TAIL:])
