"""A file that one process appends to and that no kill, no second command and no full disk can spoil."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from agevlm.errors import RunFolderError


class InUse(RunFolderError):
    """Another process is writing the file."""


class AppendOnly:
    """The one writer of a file of lines.

    Opening takes an exclusive lock on it and cuts off what a killed writer left half written at its end.

    Args:
        path: made if it is not there.
        whole: gives the length in bytes of what is whole; called under the lock. May raise RunFolderError (damage).
        holds: what is in it, for messages.
        option: the command's option that puts it elsewhere.

    Raises:
        RunFolderError: it cannot be written.
        InUse: another process is writing it.
    """

    def __init__(self, path: Path, whole: Callable[[Path], int], *, holds: str, option: str) -> None:
        self.path, self._holds = path, holds
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be written: {error.strerror}; give another {option}") from None
        try:
            if not lock(self._fd, option):
                raise InUse(f"{path}: another process is writing it; wait for it or give another {option}")
            self._size = whole(path)
            os.ftruncate(self._fd, self._size)
        except BaseException:
            os.close(self._fd)
            raise

    def append(self, data: bytes) -> None:
        """Write and sync, so that a kill finds all of it or a torn end that the next writer cuts off.

        Raises:
            RunFolderError: the disk is full or failing; what was appended before is intact.
        """
        try:
            # What an earlier append left when even cutting it off had failed.
            os.ftruncate(self._fd, self._size)
            written = 0
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], self._size + written)
            os.fsync(self._fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise RunFolderError(
                f"{self.path}: {'the disk is full' if full else error.strerror}; all earlier {self._holds} are safe. "
                "Make room and give the same command again"
            ) from error
        self._size += len(data)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._fd)


def lock(fd: int, option: str = "--out") -> bool:
    """Take an exclusive advisory lock without waiting; False if another process holds it.

    Raises:
        RunFolderError: the file system has no locks.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN):
            return False
        raise RunFolderError(
            f"files here cannot be locked against a second command: {error.strerror}; give another {option}"
        ) from error
    return True
