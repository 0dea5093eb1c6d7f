"""Where a benchmark's images come from: a folder, or the container that holds the questions too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from agevlm.data.images import EncodedFile, read_file
from agevlm.data.paths import inside
from agevlm.errors import DataError


class ImageSource(Protocol):
    """Image files by the name that questions use."""

    def read(self, name: str) -> EncodedFile:
        """The file's bytes. Raises DataError if there is none."""

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of the names for which there is no image, in order."""


class FolderImages:
    """Image files below one folder; names that would leave it are refused."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"image folder {folder}: {'not a folder' if folder.exists() else 'no such folder'}")
        self.folder = folder

    def read(self, name: str) -> EncodedFile:
        return read_file(inside(self.folder, name), name)

    def missing(self, names: Iterable[str]) -> list[str]:
        return [n for n in names if not inside(self.folder, n).is_file()]


class ContainerImages:
    """Images that a parquet file or hub data set carries beside its questions."""

    def __init__(self, images: Mapping[str, bytes]) -> None:
        self._images = images

    def read(self, name: str) -> EncodedFile:
        try:
            return EncodedFile(name, self._images[name])
        except KeyError:
            raise DataError(f"image {name}: not in the question file's own images") from None

    def missing(self, names: Iterable[str]) -> list[str]:
        return [n for n in names if n not in self._images]


def require_images(source: ImageSource, names: Iterable[str]) -> None:
    """Raise DataError with the count and the first names if any image is missing."""
    wanted = sorted(set(names))
    lacking = source.missing(wanted)
    if lacking:
        where = source.folder if isinstance(source, FolderImages) else "the question file"
        shown = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
        raise DataError(
            f"{len(lacking)} of {len(wanted)} images are missing from {where}: {shown}. "
            "Give the folder that holds them with --images DIR"
        )
