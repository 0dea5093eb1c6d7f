"""What `agevlm-eval grounding` does, from regions to records and from records to results."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from agevlm.data.noise import Noise
from agevlm.errors import DataError
from agevlm.terminal import write_json
from agevlm.vlm.contract import Vlm
from analysis.grounding.asking import AskedImage, How, look
from analysis.grounding.records import KINDS, SCHEMA, answers_of, looks_by_image
from analysis.grounding.results import Results, answers, differences, unread
from analysis.grounding.scoring import Scored, score_all
from analysis.grounding.showing import show
from analysis.grounding.statistics import Images
from analysis.launch import Analysis, AnalysisSettings, Done, Work, refuse_closed
from analysis.regions import Regions, load_regions
from benchmarks.prompts import load_prompt

if TYPE_CHECKING:
    from PIL.Image import Image

NAME = "grounding"
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class GroundingSettings:
    """The options of `agevlm-eval grounding`."""

    common: AnalysisSettings
    source: str
    images: Path | None
    instances: Path | None
    segments: Path | None
    prompt: str
    heads: bool
    max_new_tokens: int
    max_disk: float
    """Megabytes of maps, before compression, for all regions of one model."""
    remove_sinks: bool
    noises: tuple[Noise, ...]


class _Looker:
    """Looks at images in one way; how many layers are kept is reckoned once, with the first image's grid."""

    def __init__(self, settings: GroundingSettings, regions: Regions) -> None:
        self.settings, self.regions = settings, regions
        self.items = [
            AskedImage(name, held, regions.images.read(name).sha256) for name, held in regions.by_image.items()
        ]
        self.prompt = load_prompt(settings.prompt)
        self.room = settings.max_disk * MEGABYTE / len(regions.regions)
        self._how: How | None = None

    def key(self, item: AskedImage) -> str:
        """By content: the image, what is asked about it and how, and what is kept."""
        settings = self.settings
        asked = [(r.id, r.phrase, r.counts, r.size, r.asked() if r.share else r.question) for r in item.regions]
        how = (self.prompt.template, settings.heads, settings.max_new_tokens, self.room)
        return hashlib.sha256(repr((item.sha256, asked, how)).encode()).hexdigest()[:32]

    def look(self, vlm: Vlm, item: AskedImage, image: Image) -> list[dict[str, Any]]:
        if self._how is None:
            first = self.regions.open(self.items[0].image)
            geometry = vlm.geometry(vlm.encode([first]), 0)
            self._how = How(
                self.prompt,
                self.settings.heads,
                self.settings.max_new_tokens,
                self.room,
                geometry.rows * geometry.columns,
            )
        return look(vlm, item, image, self._how)

    def work(self) -> Work[AskedImage, Image]:
        return Work(self.items, self.key, lambda item: self.regions.open(item.image), self.look, SCHEMA)


def ground(settings: GroundingSettings, console: Console, notes: Console) -> int:
    """Ask, probe, score, and show. Raises AgeVlmError."""
    common = settings.common
    refuse_closed(common.models)
    load_prompt(settings.prompt)
    with notes.status("reading regions"):
        regions = load_regions(
            settings.source,
            settings.images,
            instances=settings.instances,
            segments=settings.segments,
            limit=common.limit,
            seed=common.seed,
        )
    for why, names in regions.left_out.items():
        notes.print(f"left out: {len(names)} phrases, {why}: {', '.join(names[:3])}{', ...' * (len(names) > 3)}")
    looker = _Looker(settings, regions)
    folder = common.folder(NAME, regions.name)
    analysis = Analysis(NAME, common, folder, notes)
    data = {
        "name": regions.name,
        "digest": regions.digest,
        "images": len(regions.by_image),
        "regions": len(regions.regions),
        "asked_only": len(regions.absent),
        "left_out": {why: list(names) for why, names in regions.left_out.items()},
        "notes": list(regions.notes),
    }
    choices = {"prompt": looker.prompt.template, "queries": list(KINDS), "max_disk_mb": settings.max_disk}
    with analysis.open([data], choices):
        done = [analysis.ask(model, looker.work()) for model in common.models]
        with notes.status("scoring"):
            content = results_of(done, regions, settings)
        folder.write_json("scores.json", content)
    write_json([content], common.json_out)
    if common.json_out != "-":
        show(content, console)
    return 0


def results_of(done: Sequence[Done], regions: Regions, settings: GroundingSettings) -> dict[str, Any]:
    """What `scores.json` holds: a pure function of the records."""
    common = settings.common
    images = Images(sorted(regions.by_image), common.draws, common.seed)
    results: dict[str, Results] = {}
    models: dict[str, Any] = {}
    for one in done:
        table = one.rows()
        scored = _scored(table, settings)
        held: dict[str, Any] = {
            "left_out": unread(table.select(["id", "trouble"]).to_pylist()),
            "images_failed": list(one.errors),
            "answers": answers(answers_of(table), images),
        }
        if scored is not None:
            results[one.title] = Results(scored, images, common.seed)
            held |= results[one.title].summary()
        models[one.title] = held
    if not results:
        reasons = "; ".join(f"{title}: {list(held['left_out'])[:1]}" for title, held in models.items())
        raise DataError(f"no phrase could be looked for: {reasons}")
    names = list(results)
    return {
        "source": regions.name,
        "digest": regions.digest,
        "draws": common.draws,
        "seed": common.seed,
        "sinks_removed": settings.remove_sinks,
        "models": models,
        "differences": {
            f"{a} - {b}": differences(results[a], results[b]) for k, a in enumerate(names) for b in names[k + 1 :]
        },
    }


def _scored(table: Any, settings: GroundingSettings) -> Scored | None:
    return score_all(lambda: looks_by_image(table), seed=settings.common.seed, remove_sinks=settings.remove_sinks)
