"""CV-Bench questions from every form they are published in: hub data set, parquet files, JSON lines with images beside.

Fields of a row are those of the hub's nyu-visionx/CV-Bench: idx, type (2D, 3D), task, source, prompt (the question with
its lettered options, kept as it is), choices, answer ("(B)") and filename; source_dataset and source_filename if they
are there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import ChainMap, Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from agevlm.data.sources import ContainerImages, FolderImages, ImageSource
from agevlm.errors import DataError
from agevlm.scenes.selection import is_selector
from agevlm.scenes.world import WORLD_VERSION
from benchmarks.cvbench.scenes import scene_rows
from benchmarks.cvbench.types import LETTERS, SOURCES
from benchmarks.plan import drawn
from benchmarks.pope.containers import Row, hub_rows, json_rows, parquet_rows

FULL = {"2D": 1438, "3D": 1200}
"""Questions of the whole benchmark by type."""
CV_SCENES = "1e22d24f2356366a140308e65727b8aa0eef266c4be50cf5c1ec6b46661ba296"
"""Hash of the questions of CV-Scenes: 500 images of this version of the rendered world."""
_TYPES = tuple(FULL)
_TYPE_OF = dict(zip(SOURCES, ("2D", "2D", "3D"), strict=True))
_ANSWER = re.compile(r"\(?([A-Z])\)?")
_ENDINGS = (".parquet", ".jsonl", ".json")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_IMAGE_KEY = "filename"


@dataclass(frozen=True)
class Question:
    """One multiple-choice question about one image."""

    idx: str
    """As the file gives it (integers as their decimal string); unique within its set."""
    source: str
    """ADE20K, COCO, Omni3D; or what another set of this form says."""
    type: str
    """2D or 3D."""
    task: str
    """Count, Relation, Depth, Distance; or what another set says."""
    image: str
    """The image's file name as the file gives it: a POSIX path relative to the image folder."""
    cluster: str
    """The sampling unit of the statistics: the image that it was made from, where the file says so, else `image`.

    CV-Bench has a file for every question; several may show one photo, with other boxes drawn in.
    """
    prompt: str
    """The question and its lettered options, as published."""
    options: tuple[str, ...]
    gold: int
    """Place of the right option, from 0."""
    where: str
    """File and line or row, for error messages."""


@dataclass(frozen=True)
class QuestionSet:
    """The questions of one source."""

    data_version: str
    """`cv-bench` (all 1,438 + 1,200), `cv-bench 2D`, `cv-bench 3D` or `custom`, @ and 12 digits of the hash; or
    `cv-scenes` and the version of the rendered world. What was left out stands behind it."""
    content_sha256: str
    """Hash of the sorted questions: blind to ids, order and container."""
    questions: tuple[Question, ...]
    image_bytes: Mapping[str, bytes] | None = None
    """Encoded image files by name where the questions' own container holds them (parquet, hub); else None."""

    @property
    def name(self) -> str:
        """CV-Scenes where all questions are about rendered scenes, else CV-Bench."""
        return "CV-Scenes" if {q.source for q in self.questions} == {"CV-Scenes"} else "CV-Bench"

    @property
    def counts(self) -> dict[str, int]:
        """Questions of each task."""
        return dict(Counter(q.task for q in self.questions))

    def limited(self, limit: int | None, seed: int) -> QuestionSet:
        """`limit` seeded photos (see `Question.cluster`) with all their questions; a larger limit takes the same and
        more. The limit becomes part of the data version."""
        if limit is None:
            return self
        chosen = drawn((q.cluster for q in self.questions), limit, seed)
        kept = tuple(q for q in self.questions if q.cluster in chosen)
        return self if len(kept) == len(self.questions) else self._part(kept, f"limit {limit} seed {seed}")

    def of_tasks(self, tasks: Sequence[str]) -> QuestionSet:
        """The questions of some tasks; all where none is named. Raises DataError for a task without questions."""
        if unknown := [task for task in tasks if task not in self.counts]:
            raise DataError(
                f"task {', '.join(unknown)}: no such questions in {self.data_version}; it has {', '.join(self.counts)}"
            )
        kept = tuple(q for q in self.questions if not tasks or q.task in tasks)
        return self if len(kept) == len(self.questions) else self._part(kept, " ".join(["task", *sorted(set(tasks))]))

    def _part(self, kept: tuple[Question, ...], name: str) -> QuestionSet:
        return replace(self, data_version=f"{self.data_version} {name}", questions=kept)


def load_all(sources: Sequence[str]) -> QuestionSet:
    """The questions of one or several sources (the two halves, say) as one set.

    Raises:
        DataError: as `load_questions`; an idx that two sources have; sources with and without images of their own.
    """
    sets = [load_questions(source) for source in sources]
    if len(sets) == 1:
        return sets[0]
    questions = tuple(question for one in sets for question in one.questions)
    _refuse_repeats(questions)
    held = [one.image_bytes for one in sets if one.image_bytes is not None]
    if held and len(held) < len(sets):
        raise DataError(f"questions {', '.join(sources)}: some hold their images and some do not; give one kind alone")
    return _set(questions, ChainMap(*cast(list[dict[str, bytes]], held)) if held else None)


def load_questions(source: str | Path) -> QuestionSet:
    """Load a JSON-lines or JSON file, a parquet file, a folder of them, a hub data set, or CV-Scenes ("scenes:200").

    In a folder, parquet files (which hold the images) are preferred to JSON files of the same questions. A hub data set
    named CV-Bench must have all questions.

    Raises:
        DataError: with file and row: a source that is missing or broken, a row without its fields or without choices,
            an answer that is none of its choices, an idx that appears twice, a hub CV-Bench of another size.
    """
    path = Path(source)
    hub = False
    images: Mapping[str, bytes] | None = None
    if isinstance(source, str) and is_selector(source):
        fields, images = scene_rows(source)
        rows = [Row(one, f"{source}: question {number}") for number, one in enumerate(fields)]
    elif path.is_dir():
        files = sorted(path.rglob("*.parquet")) or sorted([*path.glob("*.jsonl"), *path.glob("*.json")])
        if not files:
            raise DataError(f"{path}: no parquet or JSON file here; give CV-Bench's question file or its folder")
        rows, images = _rows(files)
    elif path.exists():
        rows, images = _rows([path])
    elif isinstance(source, str) and _HUB_ID.fullmatch(source) and path.suffix not in _ENDINGS:
        rows, images = hub_rows(source, _IMAGE_KEY)
        hub = source.endswith("/CV-Bench")
    else:
        raise DataError(f"{source}: no such file; give a question file, its folder, or a hub id (org/name)")
    questions = tuple(_question(row) for row in rows)
    _refuse_repeats(questions)
    counts = Counter(question.type for question in questions)
    if hub and counts != FULL:
        raise DataError(
            f"{source}: {counts['2D']:,} questions of type 2D and {counts['3D']:,} of type 3D, but CV-Bench has "
            f"{FULL['2D']:,} and {FULL['3D']:,}; the download is not whole or the data set has changed"
        )
    return _set(questions, images)


def image_source(questions: QuestionSet, images: Path | None, sources: Sequence[str | Path]) -> ImageSource:
    """The images' folder, the questions' own container, or the folder of the question file as it is published.

    Raises:
        DataError: none of these has them.
    """
    if images is not None:
        return FolderImages(images)
    if questions.image_bytes is not None:
        return ContainerImages(questions.image_bytes)
    for path in map(Path, sources):
        folder = path if path.is_dir() else path.parent
        if path.exists() and not FolderImages(folder).missing([questions.questions[0].image]):
            return FolderImages(folder)
    raise DataError(
        f"{questions.data_version}: the questions name images ({questions.questions[0].image}) but hold none, and "
        "there are none beside them; give their folder with --images DIR"
    )


def _set(questions: tuple[Question, ...], images: Mapping[str, bytes] | None) -> QuestionSet:
    digest = _digest(questions)
    if digest == CV_SCENES:
        return QuestionSet(f"cv-scenes@{WORLD_VERSION}", digest, questions, images)
    name = _version(questions, Counter(question.type for question in questions))
    return QuestionSet(f"{name}@{digest[:12]}", digest, questions, images)


def _rows(files: Sequence[Path]) -> tuple[list[Row], Mapping[str, bytes] | None]:
    if files[0].suffix == ".parquet":
        return parquet_rows(files, _IMAGE_KEY)
    return [row for file in files for row in json_rows(file)], None


def _version(questions: Sequence[Question], counts: Counter[str]) -> str:
    """The benchmark or one of its halves by source and size; anything else is custom."""
    if all(q.source in SOURCES for q in questions):
        if counts == FULL:
            return "cv-bench"
        for kind in _TYPES:
            if counts == {kind: FULL[kind]}:
                return f"cv-bench {kind}"
    return "custom"


def _digest(questions: Sequence[Question]) -> str:
    lines = sorted(json.dumps([q.image, q.source, q.type, q.task, q.prompt, q.options, q.gold]) for q in questions)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _refuse_repeats(questions: Sequence[Question]) -> None:
    first: dict[str, Question] = {}
    for question in questions:
        other = first.setdefault(question.idx, question)
        if other is not question:
            raise DataError(f"{question.where}: idx {question.idx} is also that of {other.where}; each needs its own")


def part_of_whole(questions: QuestionSet) -> str | None:
    """A remark where questions are some of CV-Bench's sources' but not the whole benchmark or one of its halves."""
    if not questions.data_version.startswith("custom") or not {q.source for q in questions.questions} <= set(SOURCES):
        return None
    counts = Counter(q.type for q in questions.questions)
    there, whole = (" and ".join(f"{n:,} of type {kind}" for kind, n in one.items()) for one in (counts, FULL))
    what = "a part of CV-Bench" if all(counts[kind] <= n for kind, n in FULL.items()) else "not CV-Bench as published"
    return f"{what}: {there}; the whole benchmark has {whole}"


# --- rows -------------------------------------------------------------------------------------------------------------


def _question(row: Row) -> Question:
    options = _options(row)
    answer = _text(row, "answer")
    match = _ANSWER.fullmatch(answer.strip())
    gold = LETTERS.index(match[1]) if match else -1
    if not 0 <= gold < len(options):
        last = LETTERS[len(options) - 1]
        raise DataError(f"{row.where}: answer {answer!r} is none of its {len(options)} choices; give (A) to ({last})")
    kind = _text(row, "type")
    if kind not in _TYPES:
        raise DataError(f"{row.where}: type {kind!r}; CV-Bench has {' and '.join(_TYPES)}")
    source = _text(row, "source")
    if _TYPE_OF.get(source, kind) != kind:
        raise DataError(f"{row.where}: type {kind} from source {source}, whose questions are {_TYPE_OF[source]}")
    image = _text(row, _IMAGE_KEY)
    parts = [row.fields.get(key) for key in ("source_dataset", "source_filename")]
    return Question(
        idx=_identity(row),
        source=source,
        type=kind,
        task=_text(row, "task"),
        image=image,
        cluster="/".join(str(part) for part in parts if part) if parts[1] else image,
        prompt=_text(row, "prompt"),
        options=options,
        gold=gold,
        where=row.where,
    )


def _options(row: Row) -> tuple[str, ...]:
    choices = _field(row, "choices")
    if not isinstance(choices, (list, tuple)) or not 2 <= len(choices) <= len(LETTERS):
        raise DataError(f"{row.where}: choices {choices!r}; a question needs a list of 2 to {len(LETTERS)} texts")
    for choice in choices:
        if not isinstance(choice, str) or not choice.strip():
            raise DataError(f"{row.where}: choice {choice!r} is no text")
    return tuple(choices)


def _identity(row: Row) -> str:
    idx = _field(row, "idx")
    if isinstance(idx, bool) or not isinstance(idx, (int, str)) or idx == "":
        raise DataError(f"{row.where}: idx {idx!r} is neither a whole number nor a text")
    return str(idx)


def _text(row: Row, key: str) -> str:
    value = _field(row, key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{row.where}: {key} {value!r} is no text")
    return value


def _field(row: Row, key: str) -> Any:
    if key not in row.fields:
        raise DataError(f"{row.where}: no field {key!r} (the row has {', '.join(row.fields)}); is this CV-Bench?")
    return row.fields[key]
