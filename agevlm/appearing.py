"""Folders and files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OWN = re.compile(r"\d+-[0-9a-f]{8}(-replaced)?")
"""What `_own` makes; other names are left alone."""


@contextmanager
def folder_appears(target: Path, needed: int = 0) -> Iterator[Path]:
    """A hidden folder to write into; it takes the name `target` once it is complete and on the disk.

    A folder that has the name already is replaced at that moment. A writer that is killed leaves `.NAME.unfinished-…`
    beside it, which the next writer removes; what it was about to replace stays, or is put back then.

    Args:
        target: the folder's name to be; folders above it are made.
        needed: bytes that it will take; less room is an error before anything is written.

    Raises:
        OSError: ENOSPC among others, with the path. Nothing is left behind, and what was there before stays.
    """
    hidden = target.with_name(f".{target.name}.unfinished-{_own()}")
    replaced = hidden.with_name(f"{hidden.name}-replaced")
    lock = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear(target)
        if shutil.disk_usage(target.parent).free < needed:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed / 1e6:,.1f} MB are needed", str(target))
        hidden.mkdir()
        lock = _locked(hidden)
        yield hidden
        for path in [*hidden.rglob("*"), hidden]:
            _sync(path)
        if target.exists():
            target.rename(replaced)
        hidden.rename(target)
        _sync(target.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        if lock is not None:
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """Take a folder's lock, which goes with the process; None where another has it, or there are no locks."""
    fd = None
    try:
        fd = os.open(folder, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if fd is not None:
            os.close(fd)
        return None
    return fd


def _clear(target: Path) -> None:
    """Remove what killed writers of this folder left; put back what one had just taken away."""
    for left in sorted(target.parent.glob(f".{glob.escape(target.name)}.unfinished-*")):
        if not _OWN.fullmatch(left.name.rpartition(".unfinished-")[2]):
            continue
        writer = left.with_name(left.name.removesuffix("-replaced"))
        if writer.exists():
            lock = _locked(writer)
            if lock is None:
                continue  # it is at work
            os.close(lock)
        if left.name.endswith("-replaced") and not target.exists():
            left.rename(target)
        else:
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def file_appears(target: Path) -> Iterator[Path]:
    """A hidden file to write in `target`'s folder; it takes that name once it is written, and goes if anything fails.

    Raises:
        OSError: with the path; what was there before stays.
    """
    hidden = target.with_name(f".{target.name}.{_own()}.part")
    try:
        yield hidden
        hidden.replace(target)
    finally:
        with contextlib.suppress(OSError):
            hidden.unlink()


def _own() -> str:
    """Nobody else's: processes of several machines on one disk may have the same number."""
    return f"{os.getpid()}-{secrets.token_hex(4)}"


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
