"""What `agevlm-eval grounding` does, from regions to records and from records to results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from agevlm.data.noise import Noise
from agevlm.errors import DataError
from agevlm.terminal import write_json
from agevlm.vlm.contract import Vlm
from analysis.grounding.asking import AskedImage, How, Room, look, room
from analysis.grounding.figures import Shown, draw_layers, draw_sheet, examples
from analysis.grounding.nulls import SINK_IMAGES
from analysis.grounding.records import (
    KINDS,
    NO_ANSWER,
    SCHEMA,
    answers_of,
    failed_groups,
    group_key,
    in_order,
    latest,
    looks_by_image,
)
from analysis.grounding.results import Results, answers, differences, unread
from analysis.grounding.scoring import score_all
from analysis.grounding.showing import show
from analysis.grounding.statistics import Images
from analysis.grounding.stress import under_noise
from analysis.launch import Analysis, AnalysisSettings, Done, Work, refuse_closed
from analysis.regions import Regions, load_regions
from benchmarks.prompts import load_prompt
from benchmarks.remarks import ANSWERS_MISSING

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
    split: str | None
    allow_partial: bool


class _Looker:
    """Looks at images in one way; which layers are kept is reckoned once a model, with the largest image's grid."""

    def __init__(self, settings: GroundingSettings, regions: Regions, notes: Console) -> None:
        self.settings, self.regions, self.notes = settings, regions, notes
        self.items = [
            AskedImage(name, held, regions.images.read(name).sha256) for name, held in regions.by_image.items()
        ]
        self.prompt = load_prompt(settings.prompt)
        self._how: How | None = None

    def key(self, item: AskedImage) -> str:
        """By content: the image, what is asked about it and how."""
        how = (self.prompt.template, self.settings.heads, self.settings.max_new_tokens)
        return group_key(item.sha256, item.regions, *how)

    @property
    def _most(self) -> float:
        """Bytes for the maps of one region."""
        return self.settings.max_disk * MEGABYTE / len(self.regions.regions)

    def look(self, vlm: Vlm, item: AskedImage, image: Image) -> list[dict[str, Any]]:
        """Rows of one image."""
        if self._how is None:
            height, width = max((r.size for r in self.regions.regions), key=lambda size: size[0] * size[1])
            self._how = self._reckoned(room(vlm, image, self.settings.heads, (width, height)))
        return look(vlm, item, image, self._how)

    def _reckoned(self, found: Room) -> How:
        regions, kept = len(self.regions.regions), found.kept(self._most)
        size = found.bytes(len(kept)) * regions / MEGABYTE
        held = "all layers"
        if len(kept) < len(found.layers):
            names = ", ".join(str(found.layers[k]) for k in kept)
            held = (
                f"{len(kept)} of {len(found.layers)} layers ({names}), to stay under --max-disk "
                f"{self.settings.max_disk:g} MB"
            )
        self.notes.print(
            f"maps of {regions} regions: at most {size:.1f} MB before compression; kept are the mean over layers and "
            f"{held}"
        )
        return How(self.prompt, self.settings.heads, self.settings.max_new_tokens, kept)

    def work(self) -> Work[AskedImage, Image]:
        """What is done with each image of a model."""
        self._how = None
        return Work(
            self.items,
            self.key,
            lambda item: self.regions.open(item.image),
            self.look,
            SCHEMA,
            again=lambda parts: failed_groups(parts.read(["group", "id", "trouble"])),
        )


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
            split=settings.split,
            limit=common.limit,
            seed=common.seed,
        )
        looker = _Looker(settings, regions, notes)
    for why, names in regions.left_out.items():
        notes.print(f"left out: {len(names)} phrases, {why}: {', '.join(names[:3])}{', ...' * (len(names) > 3)}")
    folder = common.folder(NAME, regions.name)
    analysis = Analysis(NAME, common, folder, notes)
    data = {
        "name": regions.name,
        "from": settings.source,
        "image_folder": None if settings.images is None else str(settings.images),
        "digest": regions.digest,
        "images": len(regions.by_image),
        "regions": len(regions.regions),
        "asked_only": len(regions.absent),
        "left_out": {why: list(names) for why, names in regions.left_out.items()},
        "notes": list(regions.notes),
    }
    choices = {
        "prompt": looker.prompt.template,
        "queries": list(KINDS),
        "max_disk_mb": settings.max_disk,
        "max_new_tokens": settings.max_new_tokens,
    }
    with analysis.open([data], choices):
        done = [analysis.ask(model, looker.work()) for model in common.models]
        with notes.status("scoring"):
            content, results = score(done, regions, settings)
        folder.write_json("scores.json", content)
        with notes.status("drawing"):
            pictures = _draw(content, results, done, regions, folder.path)
    write_json([content], common.json_out)
    if common.json_out != "-":
        show(content, console)
    notes.print("pictures: " + ", ".join(str(path) for path in pictures if path.suffix == ".png"))
    return _check(content["models"], settings, notes)


def _check(models: Mapping[str, Any], settings: GroundingSettings, notes: Console) -> int:
    """Remarks on what is missing; the exit code."""
    for name, held in models.items():
        if settings.remove_sinks and not held.get("sinks_removed"):
            notes.print(
                f"warning: {name}: --remove-sinks removed nothing: more than {SINK_IMAGES} images tell sinks",
                style="yellow",
            )
    failed = sum(len(held["images_failed"]) for held in models.values())
    troubles = [item for held in models.values() for item in held["left_out"].items()]
    unanswered = sum(len(ids) for why, ids in troubles if why.startswith(NO_ANSWER))
    if not failed and not unanswered:
        return 0
    notes.print(
        f"{failed} images and the answers for {unanswered} phrases are missing; scores are over those that are there, "
        "and the same command asks for the others again",
        style="yellow",
    )
    return 0 if settings.allow_partial else ANSWERS_MISSING


def _table(done: Done, regions: Regions) -> pa.Table:
    """One model's records, in the same order whatever failed at first: which mask is lent to which depends on it."""
    return in_order(latest(done.rows()), regions.by_image)


def score(
    done: Sequence[Done], regions: Regions, settings: GroundingSettings
) -> tuple[dict[str, Any], dict[str, Results]]:
    """What `scores.json` holds, and each model's scores: a pure function of the records.

    Raises:
        DataError: nothing could be scored.
    """
    common = settings.common
    images = Images(sorted(regions.by_image), common.draws, common.seed)
    results: dict[str, Results] = {}
    models: dict[str, Any] = {}
    for one in done:
        table = _table(one, regions)
        scored = score_all(lambda t=table: looks_by_image(t), seed=common.seed, remove_sinks=settings.remove_sinks)  # type: ignore[misc]
        held: dict[str, Any] = {
            "left_out": unread(table.select(["id", "trouble"]).to_pylist()),
            "images_failed": list(one.errors),
            "answers": answers(answers_of(table), images),
        }
        if scored is not None:
            results[one.title] = Results(scored, images, common.seed)
            held |= results[one.title].summary()
            held["noise"] = {
                str(noise): under_noise(
                    results[one.title], table, noise, common.seed, remove_sinks=settings.remove_sinks
                )
                for noise in settings.noises
            }
        models[one.title] = held
    if not results:
        reasons = "; ".join(
            f"{title}: {[*held['left_out'], *held['images_failed'], 'no records'][0]}" for title, held in models.items()
        )
        raise DataError(f"no phrase could be looked for: {reasons}")
    content = {
        "source": regions.name,
        "digest": regions.digest,
        "left_out": {why: list(names) for why, names in regions.left_out.items()},
        "notes": list(regions.notes),
        "draws": common.draws,
        "seed": common.seed,
        "models": models,
        "differences": {f"{a} - {b}": differences(results[a], results[b]) for a, b in combinations(results, 2)},
    }
    return content, results


def _draw(
    content: dict[str, Any], results: dict[str, Results], done: Sequence[Done], regions: Regions, folder: Path
) -> list[Path]:
    files = draw_layers({name: content["models"][name] for name in results}, folder / "layers")
    for one in done:
        if one.title not in results:
            continue
        chosen = examples(results[one.title])
        wanted = {name for row in chosen.values() for name, _ in row}
        table = _table(one, regions)
        table = table.filter(pc.is_in(table["id"], value_set=pa.array(sorted(wanted))))
        looks = {look.id: look for _, held in looks_by_image(table) for look in held}
        rows = {
            row: [Shown(regions.open(looks[name].image), looks[name], iou) for name, iou in held]
            for row, held in chosen.items()
        }
        if not wanted:
            continue  # nothing of the headline has any attention on the image
        title = f"{one.title}: attention of the phrase's last token, mean over heads and layers; area-matched IoU"
        files += draw_sheet(title, rows, folder / f"maps-{one.model.slug.replace('/', '_')}")
    return files
