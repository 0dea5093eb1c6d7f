"""What `agevlm-eval linkage` does, from questions and models to a table, scores and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from agevlm.data.sources import ContainerImages, FolderImages, ImageSource
from agevlm.errors import DataError
from agevlm.scenes.selection import SCENES, is_selector, selected
from agevlm.terminal import write_json
from agevlm.vlm.contract import Vlm
from analysis.launch import Analysis, AnalysisSettings, Done, Work
from analysis.linkage.annotated import Annotated, load_annotated, scenes_annotated
from analysis.linkage.hide import SHARES, WAYS, CausalSettings
from analysis.linkage.look import Look, load_image, look
from analysis.linkage.record import VERSION, schema
from analysis.linkage.sheets import Sheet, Sheets, make_sheets
from benchmarks.plan import drawn
from benchmarks.pope.planning import limit_images
from benchmarks.pope.questions import load_questions
from benchmarks.pope.scenes import IMAGES
from benchmarks.pope.types import QuestionSet
from benchmarks.prompts import Prompt
from benchmarks.remarks import ANSWERS_MISSING

if TYPE_CHECKING:
    from PIL.Image import Image

    from analysis.linkage.score import LinkageScores

NAME = "linkage"


@dataclass(frozen=True)
class LinkageSettings(AnalysisSettings):
    """The options of `agevlm-eval linkage`."""

    questions: tuple[str, ...]
    images: Path | None
    annotations: Path | None
    splits: tuple[str, ...]
    prompt: Prompt
    max_new_tokens: int
    causal_images: int
    """So many images' objects are hidden; 0 for none."""
    places: int
    border: int
    allow_partial: bool


@dataclass(frozen=True)
class Data:
    """Questions by image, and where the images are."""

    sets: tuple[QuestionSet, ...]
    sources: tuple[ImageSource, ...]
    sheets: Sheets
    annotated: Annotated | None
    causal: frozenset[str]
    """Images (by content) whose objects are hidden."""


def run_linkage(settings: LinkageSettings, console: Console, notes: Console) -> int:
    """Ask, look, hide, score. Returns the exit code: 3 where images or answers are missing.

    Raises:
        AgeVlmError: bad input, a model that cannot be looked into, a run folder in use.
    """
    from analysis.linkage.figures import draw
    from analysis.linkage.score import score, to_json
    from analysis.linkage.table import remarks, say

    data = load_data(settings)
    folder = settings.folder(NAME, "_".join(dict.fromkeys(s.name for s in data.sets)))
    analysis = Analysis(NAME, settings, folder, notes)
    done: list[Done] = []
    with analysis.open(manifest_of(data), choices_of(settings, data)):
        for model in settings.models:
            done.append(analysis.ask(model, work_of(settings, data)))
        scores = score({one.title: one.rows() for one in done}, settings.draws, settings.seed)
        content = {
            "settings": {"draws": settings.draws, "seed": settings.seed, "level": 0.95},
            **choices_of(settings, data),
            **to_json(scores),
        }
        analysis.folder.write_json("scores.json", content)
        write_tables(scores, analysis.folder.path)
        figures = draw(content["models"], analysis.folder.path)
    write_json(rows_of(content), settings.json_out)
    if settings.json_out != "-":
        say(scores, console)
        for remark in remarks(scores, data.sheets):
            console.print(remark, markup=False)
    for path in figures:
        notes.print(f"figure: {path}")
    notes.print(f"run folder: {analysis.folder.path}")
    lacking = sum(model.counts["errors"] for model in scores.models) + sum(len(one.errors) for one in done)
    return ANSWERS_MISSING if lacking and not settings.allow_partial else 0


def load_data(settings: LinkageSettings) -> Data:
    """Questions, images and annotations. Raises DataError."""
    sets = load_questions(settings.questions, splits=settings.splits or None)
    if settings.images is None and (lacking := [s for s in sets if s.image_bytes is None]):
        raise DataError(
            f"{lacking[0].data_version}: the questions name images but hold none; give their folder with --images DIR"
        )
    folder = FolderImages(settings.images) if settings.images is not None else None
    sources: tuple[ImageSource, ...] = tuple(
        folder if folder is not None else ContainerImages(s.image_bytes or {}) for s in sets
    )
    annotated = _annotated(settings, sets)
    limited = limit_images(sets, settings.limit, settings.seed)
    sheets = make_sheets(limited, sources, settings.prompt, annotated)
    hashes = [sheet.sha256 for sheet in sheets.sheets]
    causal = drawn(hashes, settings.causal_images, settings.seed) if annotated is not None else set()
    return Data(limited, sources, sheets, annotated, frozenset(causal))


def _annotated(settings: LinkageSettings, sets: Sequence[QuestionSet]) -> Annotated | None:
    if settings.annotations is not None:
        return load_annotated(settings.annotations)
    selectors = [q for q in settings.questions if is_selector(q)]
    if not selectors or len(settings.questions) > 1:
        return None
    names = (q.image for s in sets if s.name == SCENES for q in s.questions)
    return scenes_annotated(names, selected(selectors[0], IMAGES)[1])


def work_of(settings: LinkageSettings, data: Data) -> Work[Sheet, Image]:
    """What is done with each image, for `Analysis.ask`."""

    def how(sheet: Sheet) -> Look:
        hides = sheet.sha256 in data.causal
        causal = CausalSettings(settings.places, settings.border, settings.seed) if hides else None
        return Look(settings.max_new_tokens, causal)

    def key(sheet: Sheet) -> str:
        return sheet.key(tokens=settings.max_new_tokens, causal=repr(how(sheet).causal))

    def looked(vlm: Vlm, sheet: Sheet, image: Image) -> Sequence[Mapping[str, Any]]:
        return look(vlm, sheet, image, how(sheet))

    return Work(
        data.sheets.sheets, key, lambda sheet: load_image(sheet, data.sources), looked, schema(), name=f"v{VERSION}"
    )


def manifest_of(data: Data) -> list[dict[str, Any]]:
    """What the manifest says of the questions."""
    return [
        {
            "name": s.name,
            "data_version": s.data_version,
            "content_sha256": s.content_sha256,
            "splits": s.split_counts,
        }
        for s in data.sets
    ]


def choices_of(settings: LinkageSettings, data: Data) -> dict[str, Any]:
    """Every choice that a reader of the scores must know."""
    annotated = data.annotated
    return {
        "choices": {
            "prompt": settings.prompt.template,
            "answers read by": "benchmarks.reading (the default protocol)",
            "attention": "mean over heads and layers, last token of the object's name, and last token of the prompt",
            "masks and prior": None
            if annotated is None
            else {"from": str(annotated.instances.path), "sha256": annotated.digest, "images": len(annotated)},
            "causal check": {
                "images": len(data.causal),
                "ways": list(WAYS),
                "random places": settings.places,
                "border": settings.border,
                "shares of the deletion curve": list(SHARES),
            },
        }
    }


def write_tables(scores: LinkageScores, folder: Path) -> None:
    """`table.csv` and `table.parquet`: one row a question and model. Raises RunFolderError."""
    import pandas as pd

    from agevlm.appearing import file_appears
    from agevlm.errors import RunFolderError

    tables = [model.table.assign(model=model.name) for model in scores.models]
    whole = pd.concat(tables, ignore_index=True)
    whole = whole[["model", *(c for c in whole.columns if c != "model")]]
    for name in ("table.csv", "table.parquet"):
        try:
            with file_appears(folder / name) as hidden:
                if name.endswith(".csv"):
                    whole.to_csv(hidden, index=False, lineterminator="\n")
                else:
                    whole.to_parquet(hidden, index=False)
        except OSError as error:
            raise RunFolderError(f"{folder / name}: {error.strerror}; make room and give the command again") from error


def rows_of(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of --json: each model's AUROCs, then its causal effects."""
    rows = []
    for model, own in content["models"].items():
        for target, scores in own["targets"].items():
            for signal, one in scores["signals"].items():
                rows.append({"model": model, "kind": "auroc", "target": target, "signal": signal, **one})
            for base, one in scores["added_by_attention"].items():
                if one is not None:
                    rows.append({"model": model, "kind": "added by attention", "target": target, "base": base, **one})
        for how, way in own["causal"]["ways"].items():
            for what, one in way["drop_against"].items():
                rows.append({"model": model, "kind": "causal", "way": how, "against": what, **one})
    return rows
