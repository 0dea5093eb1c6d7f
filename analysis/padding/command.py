"""What `agevlm-eval padding` does, from questions to tables and figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from agevlm.terminal import write_json
from analysis.figures import save
from analysis.launch import Analysis, AnalysisSettings, Done, Work, refuse_closed
from analysis.padding.answers import GONE
from analysis.padding.canvas import Colour, Condition, Mode, conditions
from analysis.padding.figure import profile
from analysis.padding.looking import VERSION, Looker, schema
from analysis.padding.questions import image_items, masks_for
from analysis.padding.score import Scores, score
from analysis.padding.table import print_scores
from benchmarks.pope.planning import limit_images
from benchmarks.pope.questions import load_questions
from benchmarks.pope.settings import image_sources
from benchmarks.prompts import Prompt
from benchmarks.remarks import ANSWERS_MISSING, FEW_IMAGES
from benchmarks.run_folder import RunFolder


@dataclass(frozen=True)
class PaddingSettings(AnalysisSettings):
    """The options of `agevlm-eval padding`."""

    questions: tuple[str, ...]
    images: Path | None
    splits: tuple[str, ...]
    annotations: Path | None
    prompt: Prompt
    modes: tuple[Mode, ...]
    colours: tuple[Colour, ...]
    max_new_tokens: int
    allow_partial: bool

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return conditions(self.modes, self.colours)


def run_padding(settings: PaddingSettings, console: Console, notes: Console) -> int:
    """Look, go on with what is left, score. Returns the exit code.

    Args:
        settings: the options.
        console: for tables (stdout).
        notes: for progress and remarks (stderr).
    """
    refuse_closed(settings.models)
    sets = load_questions(settings.questions, splits=settings.splits or None)
    sets = limit_images(sets, settings.limit, settings.seed)
    items = image_items(sets, image_sources(sets, settings.images), settings.prompt)
    masks = masks_for(sets, settings.questions, settings.annotations)
    looker = Looker(settings.conditions, masks, settings.max_new_tokens)
    folder = settings.folder("padding", "_".join([*dict.fromkeys(s.name for s in sets), *settings.splits]))
    data = [
        {
            "name": s.name,
            "data_version": s.data_version,
            "content_sha256": s.content_sha256,
            "splits": s.split_counts,
            "from": list(settings.questions),
            "masks": s.name in masks,
        }
        for s in sets
    ]
    analysis = Analysis("padding", settings, folder, notes)
    with analysis.open(data, _choices(settings)):
        work = Work(items, looker.key, looker.load, looker.look, schema(), name=f"v{VERSION}")
        done = [analysis.ask(model, work) for model in settings.models]
        return _report(settings, folder, done, console, notes)


def _choices(settings: PaddingSettings) -> dict[str, Any]:
    return {
        "prompt": {"name": settings.prompt.name, "template": settings.prompt.template},
        "decoding": {"greedy": True, "max_new_tokens": settings.max_new_tokens},
        "padding": {
            "conditions": [c.name for c in settings.conditions],
            "queries": {
                "object": "mean over the tokens of the object's name in the prompt",
                "last": "the token before the answer",
            },
            "attention": "softmax, mean over heads; share of what lies on the image's cells",
            "cropped_away_below": GONE,
            "annotations": None if settings.annotations is None else str(settings.annotations),
        },
    }


def _report(settings: PaddingSettings, folder: RunFolder, done: list[Done], console: Console, notes: Console) -> int:
    """Score the records, write scores.json and figures, print. Returns the exit code."""
    tables = {one.title: one.rows() for one in done}
    scores = score(tables, settings.conditions, draws=settings.draws, seed=settings.seed)
    content = {"settings": {"draws": settings.draws, "seed": settings.seed, "level": 0.95}, **scores.to_json()}
    folder.write_json("scores.json", content)
    write_json([content], settings.json_out)
    if (drawn := profile(content["attention"])) is not None:
        for path in save(drawn, folder.path / "padding-by-layer"):
            notes.print(f"figure: {path}")
    if settings.json_out != "-":
        print_scores(console, scores)
    failed = sum(len(one.errors) for one in done)
    unanswered = sum(table["answer"].null_count for table in tables.values())
    return _check(settings, scores, failed, unanswered, notes)


def _check(settings: PaddingSettings, scores: Scores, failed: int, unanswered: int, notes: Console) -> int:
    """Remarks on doubtful results; the exit code: 3 if answers are missing and that was not allowed."""
    if scores.shapes.images and not scores.shapes.non_square:
        notes.print("warning: all images are square: none needs padding, nothing is compared", style="yellow")
    elif scores.shapes.non_square < FEW_IMAGES:
        few = f"only {scores.shapes.non_square} images are not square: intervals over so few are rough"
        notes.print(f"warning: {few}", style="yellow")
    if not failed and not unanswered:
        return 0
    lacking = f"{failed} images and {unanswered} answers are missing"
    notes.print(f"{lacking}; scores are over those that are there", style="yellow")
    return 0 if settings.allow_partial else ANSWERS_MISSING
