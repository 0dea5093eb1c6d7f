"""The options of a POPE run, and what they load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agevlm.data.sources import ContainerImages, FolderImages, ImageSource
from agevlm.errors import DataError
from agevlm.vlm.choice import ModelChoice
from agevlm.vlm.contract import Fingerprint
from benchmarks.controls import IMAGE
from benchmarks.plan import Plan
from benchmarks.pope.planning import limit_images, plan_pope
from benchmarks.pope.protocols import Protocol
from benchmarks.pope.questions import load_questions
from benchmarks.pope.relabelled import with_repope_sets
from benchmarks.pope.types import QuestionSet
from benchmarks.prompts import Prompt
from benchmarks.run_folder import RunFolder, default_folder


@dataclass(frozen=True)
class PopeSettings:
    """The options of `agevlm-eval pope`."""

    model: ModelChoice
    questions: tuple[str, ...]
    images: Path | None
    splits: tuple[str, ...]
    repope: Path | None
    prompt: Prompt
    protocols: tuple[Protocol, ...]
    controls: tuple[str, ...]
    max_new_tokens: int
    limit: int | None
    seed: int
    draws: int
    out: Path | None
    fresh: bool
    verify: int
    json_out: str | None
    allow_partial: bool

    @property
    def decoding(self) -> dict[str, Any]:
        return {"greedy": True, "max_new_tokens": self.max_new_tokens}

    @property
    def conditions(self) -> tuple[str, ...]:
        return (IMAGE, *dict.fromkeys(self.controls))


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
    folder = FolderImages(settings.images) if settings.images is not None else None
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
    return Loaded(sets, tuple(sources))


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
    """The run folder the user named, or the default one: what a smaller trial leaves never replaces a whole run's."""
    if settings.out is not None:
        return RunFolder(settings.out)
    names = "_".join(dict.fromkeys(s.name for s in loaded.sets))
    parts = ["pope", settings.model.slug, names, settings.prompt.name, *settings.splits]
    parts += [settings.model.dtype] * (settings.model.dtype != "float32")
    parts += [f"limit{settings.limit}"] * (settings.limit is not None)
    return RunFolder(default_folder(parts))
