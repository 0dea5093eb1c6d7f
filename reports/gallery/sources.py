"""Where the images of runs are: the folder that the user names, or what each run's manifest says.

An image counts as found only if its bytes are those that the model saw, so that it does no harm to look in many places.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol

from agevlm.data.images import EncodedFile
from agevlm.data.sources import ContainerImages, FolderImages
from agevlm.errors import AgeVlmError, DataError
from agevlm.scenes.selection import is_selector
from reports.opened import Run

_FILES = (".json", ".jsonl", ".parquet")
IN_QUESTIONS = "in the question files"
"""What a manifest says of images that no folder was named for."""


class Reader(Protocol):
    """Image files by the name that questions use."""

    def read(self, name: str) -> EncodedFile:
        """The file's bytes. Raises DataError if there is none."""


class RenderedImages:
    """The rendered test scenes, each drawn when it is asked for."""

    def __init__(self, selector: str) -> None:
        """Raises DataError: no such selector."""
        from agevlm.scenes.selection import selected

        self.size = selected(selector, 2)[1]

    def read(self, name: str) -> EncodedFile:
        """The PNG file of the scene with this file name. Raises DataError if there is none."""
        from agevlm.scenes.coco import file_name
        from agevlm.scenes.selection import png
        from agevlm.scenes.world import render

        stem = PurePosixPath(name).stem
        if not (stem.isascii() and stem.isdigit() and file_name(int(stem)) == name):
            raise DataError(f"image {name}: not a rendered scene")
        return EncodedFile(name, png(render(int(stem), self.size)))


@dataclass
class Sources:
    """The places of all runs of a report; what several runs name is opened once."""

    given: Path | None
    """The folder that the user names; looked in first."""
    notes: list[str] = field(default_factory=list)
    """Places that cannot be used, and why."""
    _of: dict[Path, list[tuple[str, Reader]]] = field(default_factory=dict)
    _opened: dict[tuple[str, str], list[tuple[str, Reader]]] = field(default_factory=dict)

    def of(self, run: Run) -> list[tuple[str, Reader]]:
        """Where a run's images may be, in words and as sources, in the order of looking."""
        if run.folder not in self._of:
            self._of[run.folder] = self._found(run)
        return self._of[run.folder]

    def _found(self, run: Run) -> list[tuple[str, Reader]]:
        found: list[tuple[str, Reader]] = []
        if self.given is not None:
            found += self._once("given", str(self.given), partial(FolderImages, self.given))
        folder, questions = _named(run)
        if folder is not None:
            found += self._local(folder, run, FolderImages)
        for source in questions:
            if is_selector(source):
                found += self._once("drawn", f"{source}, drawn again", partial(RenderedImages, source))
            elif run.benchmark in _LOADERS and (_paths(source, run) or not _is_hub_id(source)):
                found += self._local(source, run, _LOADERS[run.benchmark])
            elif run.benchmark in _LOADERS:
                cached = partial(_cached, source, run.benchmark)
                found += self._once(run.benchmark, f"{source}, as the hub's cache has it", cached)
        return found

    def _local(self, name: str, run: Run, opened: Callable[[Path], Reader]) -> list[tuple[str, Reader]]:
        paths = _paths(name, run)
        if not paths:
            self._note(f"{run.label}: its images were in {name}, which is not there")
        return [one for path in paths for one in self._once(run.benchmark, str(path), partial(opened, path))]

    def _once(self, kind: str, place: str, opened: Callable[[], Reader]) -> list[tuple[str, Reader]]:
        if (kind, place) not in self._opened:
            try:
                self._opened[kind, place] = [(place, opened())]
            except AgeVlmError as error:
                self._note(f"no images from {place}: {error}")
                self._opened[kind, place] = []
        return self._opened[kind, place]

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _named(run: Run) -> tuple[str | None, list[str]]:
    """The folder of images and the sources of questions that a manifest names."""
    manifest = run.manifest
    data = [one for one in manifest.get("data", ()) if isinstance(one, Mapping)]
    folder = manifest.get("images")
    if run.benchmark == "grounding":
        folders = [one.get("image_folder") for one in data]
        # Runs that do not say what they are from may still be named by their scenes.
        names = [str(one.get("from", one.get("name"))) for one in data]
        return next((f for f in folders if isinstance(f, str)), None), [n for n in names if is_selector(n)]
    if isinstance(folder, str) and folder != IN_QUESTIONS:
        return folder, []
    sources = [str(source) for one in data if isinstance(one.get("from"), list) for source in one["from"]]
    return None, list(dict.fromkeys(sources))


def _paths(name: str, run: Run) -> list[Path]:
    """What a path in a manifest may stand for: from where the report is made, and from the run folder."""
    places = [Path(name), run.folder / name]
    return [path for path in dict.fromkeys(p.resolve() for p in places) if path.exists()]


def _pope_images(source: str | Path) -> Reader:
    from collections import ChainMap

    from benchmarks.pope.questions import load_questions

    held = [one.image_bytes for one in load_questions([source]) if one.image_bytes is not None]
    if not held:
        raise DataError(f"{source}: the questions name images but hold none; give their folder with --images DIR")
    # ChainMap only looks names up, the images stay unread.
    return ContainerImages(ChainMap(*held))  # type: ignore[arg-type]


def _cvbench_images(source: str | Path) -> Reader:
    from benchmarks.cvbench.questions import image_source, load_questions

    return image_source(load_questions(source), None, [source])


_LOADERS: dict[str, Callable[[str | Path], Reader]] = {"pope": _pope_images, "cvbench": _cvbench_images}


def _is_hub_id(source: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", source) is not None and not source.endswith(_FILES)


def _cached(source: str, benchmark: str) -> Reader:
    """A hub data set that is on this machine; nothing is fetched. Raises DataError if it is not."""
    with _offline():
        return _LOADERS[benchmark](source)


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """The hub's clients as they are under HF_HUB_OFFLINE."""
    import datasets
    import huggingface_hub.constants

    held = [(module, module.HF_HUB_OFFLINE) for module in (datasets.config, huggingface_hub.constants)]
    try:
        for module, _ in held:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, before in held:
            module.HF_HUB_OFFLINE = before
