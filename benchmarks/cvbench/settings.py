"""The options of a CV-Bench run, and what they load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agevlm.data.sources import ImageSource
from agevlm.scenes.selection import is_selector
from agevlm.vlm.contract import Fingerprint
from benchmarks.cvbench.planning import plan_cvbench
from benchmarks.cvbench.prompts import CvPrompt
from benchmarks.cvbench.questions import QuestionSet, image_source, load_all
from benchmarks.cvbench.readers import Reader
from benchmarks.judge.options import JudgeSettings
from benchmarks.plan import Plan
from benchmarks.run_folder import RunFolder
from benchmarks.settings import RunSettings


@dataclass(frozen=True)
class CvBenchSettings(RunSettings):
    """The options of `agevlm-eval cvbench`."""

    prompt: CvPrompt
    tasks: tuple[str, ...]
    readers: tuple[Reader, ...]
    ranked: bool
    """Whether to rank the options, of models that can."""
    judge: JudgeSettings | None
    """Who reads answers beside the rules; None: nobody."""


@dataclass(frozen=True)
class Loaded:
    """The questions and where their images are."""

    questions: QuestionSet
    source: ImageSource


def load_data(settings: CvBenchSettings) -> Loaded:
    """Questions and their images. Raises DataError."""
    questions = load_all(settings.questions).of_tasks(settings.tasks).limited(settings.limit, settings.seed)
    return Loaded(questions, image_source(questions, settings.images, settings.questions))


def make_plan(settings: CvBenchSettings, loaded: Loaded, fingerprint: Fingerprint) -> Plan:
    """Plan the run. Raises DataError."""
    return plan_cvbench(
        loaded.questions,
        loaded.source,
        prompt=settings.prompt,
        conditions=settings.conditions,
        decoding=settings.decoding,
        ranked=settings.ranked,
        fingerprint=fingerprint.digest,
        seed=settings.seed,
    )


def run_folder(settings: CvBenchSettings) -> RunFolder:
    """The run folder the user named, or the default one."""
    names = [source if is_selector(source) else Path(source).name for source in settings.questions]
    return settings.folder("cvbench", "_".join(names), settings.tasks)
