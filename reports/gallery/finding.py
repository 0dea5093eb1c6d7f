"""Finding the image file that a model saw, and saying what became of those that are not found."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from agevlm.data.images import EncodedFile, decode
from agevlm.errors import DataError
from reports.gallery.entries import Entry
from reports.gallery.pictures import LARGEST
from reports.gallery.sources import Sources
from reports.opened import Run
from reports.runs.files import printable

if TYPE_CHECKING:
    from PIL.Image import Image

Trouble = Literal["missing", "changed", "damaged", "unproven"]
SAID: dict[Trouble, str] = {
    "missing": "not found",
    "changed": "not shown, since the file is not the one that the model saw (its bytes differ)",
    "damaged": "cannot be opened",
    "unproven": "not shown, since nothing proves the file to be the one that the model saw (other bytes, or records of "
    "an older version)",
}
NAMES = 3
"""Of images that are told."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Finder:
    """Image files of a report's runs by what the model saw."""

    def __init__(self, sources: Sources, looks: bool = True) -> None:
        """With `looks` False nothing is looked for; identities are told apart all the same."""
        self.sources, self._looks = sources, looks
        self._named: dict[str, dict[str, None]] = {}
        self._places: dict[str, list[tuple[Run, str]]] = {}
        self._unseen: dict[tuple[Path, str], str | None] = {}
        self._there: dict[tuple[Path, str], bool] = {}
        self._trouble: dict[str, Trouble] = {}

    def know(self, entries: Sequence[Entry]) -> None:
        """Take in what images questions are about."""
        for entry in entries:
            if entry.identity is not None:
                place = (entry.run, entry.item.image)
                known = self._places.setdefault(entry.identity, [])
                if not known or (known[-1] != place and place not in known):
                    known.append(place)
                self._named.setdefault(PurePosixPath(entry.item.image).name, {})[entry.identity] = None

    def candidates(self, run: Run, name: str) -> Iterator[str]:
        """Identities that an image of this name may have: those of other runs' images, then those of the run's own."""
        yield from list(self._named.get(PurePosixPath(name).name, ()))
        if self._looks:
            yield from (file.sha256 for file in self._files(run, name))

    def identity(self, entry: Entry) -> str | None:
        """What its picture is kept under: the image's identity, or where no model saw it, that of the file there is."""
        if entry.identity is not None or entry.looked:
            return entry.identity
        key = (entry.run.folder, entry.item.image)
        if key not in self._unseen:
            file = next(self._files(entry.run, entry.item.image), None)
            self._unseen[key] = None if file is None else file.sha256
            if file is not None:
                self._places.setdefault(file.sha256, []).append((entry.run, entry.item.image))
        return self._unseen[key]

    def opened(self, identity: str) -> Image | None:
        """The image, decoded for a small copy; None where it cannot be, for which `notes` has the reason."""
        trouble: Trouble = "missing" if _SHA256.fullmatch(identity) else "damaged"
        for run, name in self._places.get(identity, ()):
            for file in self._files(run, name):
                if file.sha256 != identity:
                    trouble = "changed" if trouble == "missing" else trouble
                    continue
                try:
                    return decode(file, LARGEST)
                except DataError:
                    trouble = "damaged"
        self._trouble[identity] = trouble
        return None

    def _files(self, run: Run, name: str) -> Iterator[EncodedFile]:
        for _, source in self.sources.of(run):
            try:
                yield source.read(name)
            except DataError:
                continue

    def _unknown(self, entry: Entry) -> Trouble:
        """Why an image that no model is known to have seen is not shown."""
        key = (entry.run.folder, entry.item.image)
        if key not in self._there:
            self._there[key] = next(self._files(entry.run, entry.item.image), None) is not None
        return "unproven" if self._there[key] else "missing"

    def notes(self, entries: Sequence[Entry]) -> list[str]:
        """What is to be said of images without a picture, by run."""
        found: dict[tuple[str, Trouble], dict[str, None]] = {}
        counts: dict[str, dict[str, None]] = {}
        runs: dict[str, Run] = {}
        for entry in entries:
            label, name = entry.run.label, entry.item.image
            runs[label] = entry.run
            counts.setdefault(label, {})[name] = None
            identity = self.identity(entry)
            trouble = self._trouble.get(identity) if identity is not None else self._unknown(entry)
            if trouble is not None:
                found.setdefault((label, trouble), {})[name] = None
        lines = []
        for (label, trouble), names in found.items():
            shown = ", ".join(map(printable, list(names)[:NAMES])) + (", ..." if len(names) > NAMES else "")
            where = "; ".join(place for place, _ in self.sources.of(runs[label])) or "nowhere: the run names no place"
            lines.append(
                f"{label}: {len(names)} of {len(counts[label])} images {SAID[trouble]}: {shown} (looked in {where})"
            )
        return lines
