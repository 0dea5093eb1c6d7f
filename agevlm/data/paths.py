"""Joining a folder and a name that came from a data file, without leaving the folder."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from agevlm.errors import DataError

_DRIVE = re.compile(r"^[A-Za-z]:")


def inside(folder: str | Path, name: str) -> Path:
    """The path of `name` (a relative POSIX path from a data file) in `folder`.

    The check is lexical: `a/../b` is `b`, and symbolic links within the folder are followed as the user set them.

    Raises:
        DataError: the name is empty, absolute, has a drive or a backslash, or leads out of the folder.
    """
    if "\0" in name or "\\" in name or _DRIVE.match(name):
        problem = "is not a relative path with forward slashes"
    elif name.startswith("/"):
        problem = "is absolute"
    else:
        # normalised before joining: with a linked `a`, the system would take `a/../b` to another place than it reads
        normal = posixpath.normpath(name) if name else "."
        if normal == ".":
            problem = "names no file"
        elif normal == ".." or normal.startswith("../"):
            problem = "leads out of the folder"
        else:
            return Path(folder, normal)
    raise DataError(f"file name {name!r} {problem}; names must be relative to {folder} and stay in it")
