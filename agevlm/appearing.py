"""Folders and files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder_appears(target: Path, needed: int = 0) -> Iterator[Path]:
    """A hidden folder to write into; it takes the name `target` once it is complete and on the disk.

    A folder that has the name already is replaced at that moment. A writer that is killed leaves `.NAME.unfinished-…`
    beside it.

    Args:
        target: the folder's name to be; folders above it are made.
        needed: bytes that it will take; less room is an error before anything is written.

    Raises:
        OSError: ENOSPC among others, with the path. Nothing is left behind, and what was there before stays.
    """
    hidden = target.with_name(f".{target.name}.unfinished-{_own()}")
    replaced = hidden.with_name(f"{hidden.name}-replaced")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(target.parent).free < needed:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed / 1e6:,.1f} MB are needed", str(target))
        hidden.mkdir()
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
