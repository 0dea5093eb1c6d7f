"""The options of a POPE run, and what they load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agevlm.data.sources import ContainerImages, FolderImages, ImageSource
from agevlm.errors import DataError
from agevlm.vlm.contract import Fingerprint
from benchmarks.judge.options import JudgeSettings
from benchmarks.plan import Plan
from benchmarks.pope.planning import limit_images, plan_pope
from benchmarks.pope.protocols import Protocol
from benchmarks.pope.questions import load_questions
from benchmarks.pope.relabelled import with_repope_sets
from benchmarks.pope.types import QuestionSet
from benchmarks.prompts import Prompt
from benchmarks.run_folder import RunFolder
from benchmarks.settings import RunSettings


@dataclass(frozen=True)
class PopeSettings(RunSettings):
    """The options of `agevlm-eval pope`."""

    prompt: Prompt
    splits: tuple[str, ...]
    repope: Path | None
    protocols: tuple[Protocol, ...]
    judge: JudgeSettings | None = None
    """Who reads answers beside the rules; None: nobody."""


@dataclass(frozen=True)
class Loaded:
    """Question sets (RePOPE's labels as sets of their own) and where the images of each are."""

    sets: tuple[QuestionSet, ...]
    sources: tuple[ImageSource, ...]


def load_data(settings: PopeSettings) -> Loaded:
    """Questions and image sources. Raises DataError."""
    sets = load_questions(settings.questions, splits=settings.splits or None)
    if settings.repope is not None:
        sets = with_repope_sets(sets, settings.repope)
    sets = limit_images(sets, settings.limit, settings.seed)
    return Loaded(sets, image_sources(sets, settings.images))


def image_sources(sets: Sequence[QuestionSet], images: Path | None) -> tuple[ImageSource, ...]:
    """Where the images of each set are: in this folder, or beside its questions. Raises DataError."""
    folder = FolderImages(images) if images is not None else None
    sources: list[ImageSource] = []
    for one in sets:
        if folder is not None:
            sources.append(folder)
        elif one.image_bytes is not None:
            sources.append(ContainerImages(one.image_bytes))
        else:
            raise DataError(
                f"{one.data_version}: the questions name images but hold none; give their folder with --images DIR"
            )
    return tuple(sources)


def make_plan(settings: PopeSettings, loaded: Loaded, fingerprint: Fingerprint) -> Plan:
    """Plan the run. Raises DataError."""
    return plan_pope(
        loaded.sets,
        loaded.sources,
        prompt=settings.prompt,
        conditions=settings.conditions,
        decoding=settings.decoding,
        fingerprint=fingerprint.digest,
        seed=settings.seed,
    )


def run_folder(settings: PopeSettings, loaded: Loaded) -> RunFolder:
    """The run folder the user named, or the default one."""
    return settings.folder("pope", "_".join(dict.fromkeys(s.name for s in loaded.sets)), settings.splits)
