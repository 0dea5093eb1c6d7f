"""What a wrapper's arguments point to on this machine, by content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from agevlm.errors import CheckpointError
from agevlm.vlm.fingerprint import HashCache, part_of, shared_weights

OTHER = "other files"
DERIVED = "__pycache__"


def content_parts(arguments: Mapping[str, str], cache: HashCache | None = None) -> dict[str, str]:
    """Digests of the files and folders that arguments name: `KEY` for a file, `KEY PART` for the parts of a folder.

    A wrapper may read anything in its folder (its own code, `.bin` weights, a quantised copy in a folder below), so all
    of it counts: every file at any depth, and files outside that its weight index names. Hidden files and folders
    (`.git`, `.cache`) and compiled Python are no part of a model.

    Raises:
        CheckpointError: a file cannot be read.
    """
    cache = cache or HashCache()
    parts = {}
    try:
        for key, value in arguments.items():
            if os.path.isfile(value):
                parts[key] = cache.sha256(Path(value))
            elif value and os.path.isdir(value):
                parts |= {f"{key} {part}": digest for part, digest in _folder_parts(Path(value), cache).items()}
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror}") from None
    cache.save()
    return parts


def _folder_parts(folder: Path, cache: HashCache) -> dict[str, str]:
    names = sorted({*_files(folder), *shared_weights(folder)})
    lines: dict[str, list[str]] = {}
    for name in names:
        part = part_of(Path(name).name) or OTHER
        lines.setdefault(part, []).append(f"{name} {cache.sha256(folder / name)}")
    return {part: hashlib.sha256("\n".join(found).encode()).hexdigest() for part, found in lines.items()}


def _files(folder: Path) -> Iterator[str]:
    """Names of a folder's files, relative to it; links are followed, but into no folder twice."""

    def unreadable(error: OSError) -> None:
        raise error

    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != DERIVED)
        for name in files:
            path = Path(place, name)
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(folder).as_posix()
