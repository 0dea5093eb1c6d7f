"""What `agevlm-eval similarity` does, from captions to tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from agevlm.errors import DataError
from agevlm.terminal import write_json
from agevlm.vlm.choice import ModelChoice
from agevlm.vlm.contract import Centre, Pooling, Space
from analysis.figures import save
from analysis.launch import Analysis, AnalysisSettings, Done, Work
from analysis.similarity.drawing import histograms, profile
from analysis.similarity.measuring import (
    CHUNK,
    TEXT,
    Reading,
    centre_schema,
    centres_digest,
    centres_of,
    centring_sample,
    chunk_key,
    look,
    look_at_chunk,
    open_chunk,
    opened,
    schema,
)
from analysis.similarity.pairs import Material, from_captions, load_pairs
from analysis.similarity.planning import Plan, make_plan
from analysis.similarity.score import FORMS, Cell, Difference, Records, count_cells, records_of, score
from analysis.similarity.showing import difference_table, headline_table

NAME = "similarity"
CHOICES = {
    "cosine": "in float32",
    "pooling": {
        "mean": "cosine of the mean text state and the mean visual state",
        "max": "for each text token the cosine of the visual token most like it, mean over text tokens",
        "last": "cosine of the caption's last token and the mean visual state",
    },
    "text_tokens": "those of the caption alone: nothing of the template, no BOS",
    "visual_tokens": "all that text can look at, padding among them unless the model masks it",
    "hidden": "states after each layer, before the final norm; `norm` is the last after it; with cross-attention the "
    "visual tokens are what its layers are given, the same for all layers",
    "cross_output": "the state that enters a cross-attention layer, before its norm, against what its attention "
    "brings, before the gate; max: each token with its own output, last: the last token with its own",
    "query_key": "queries of text tokens against keys of visual tokens, by head, before rotary positions, normalised "
    "where the layer normalises them; key heads repeated; mean over heads",
    "text_alone": "AUROC of another image's caption against its changed form (hard, word-order), beside this image: "
    "what the change does whatever the image",
    "headline_layer": "hidden: the last self-attention layer; other spaces: the last layer that has them",
    "paper": "arXiv 2511.17793 does not say which layer, pooling or centring its similarity has",
}


@dataclass(frozen=True)
class SimilaritySettings(AnalysisSettings):
    """The options of `agevlm-eval similarity`."""

    pairs: str | None
    annotations: Path | None
    images: Path | None
    instances: Path | None
    kinds: tuple[str, ...]
    texts: int | None
    prompt: str
    pooling: Pooling
    layer: str | None

    def material(self) -> Material:
        """Images with their texts. Raises DataError."""
        if self.annotations is not None:
            if self.pairs is not None:
                raise DataError("give --pairs or --annotations, not both")
            if self.images is None:
                raise DataError(f"--annotations {self.annotations}: give the folder of its images with --images DIR")
            return from_captions(self.annotations, self.images, self.instances)
        if self.instances is not None:
            raise DataError("--instances says what is in the images of --annotations; give both")
        if self.pairs is None and not all(model.name.startswith("scenes/") for model in self.models):
            raise DataError("give --annotations captions.json --images DIR, or --pairs FILE.jsonl, or --pairs scenes")
        return load_pairs(self.pairs or "scenes", self.images)


def measure_similarity(settings: SimilaritySettings, console: Console, notes: Console) -> None:
    """Look, score, draw, print. Raises AgeVlmError."""
    from analysis.launch import refuse_closed

    refuse_closed(settings.models)
    reading = Reading(settings.prompt)
    with notes.status("reading the pairs"):
        material = settings.material()
        plan = make_plan(material, settings.kinds, seed=settings.seed, limit=settings.limit, texts=settings.texts)
    for note in plan.notes:
        notes.print(note)
    folder = settings.folder(NAME, material.name)
    analysis = Analysis(NAME, settings, folder, notes)
    data = {
        "name": material.name,
        "sha256": material.digest,
        "images": len(plan.items),
        "images_without": dict(plan.lacking),
        "notes": list(plan.notes),
    }
    extra = {
        "prompt": settings.prompt,
        "kinds": list(plan.kinds),
        "texts_per_image": settings.texts,
        "pooling": settings.pooling,
        "layer": settings.layer,
        "choices": CHOICES,
    }
    with analysis.open([data], extra):
        tables, centring = {}, {}
        for model in settings.models:
            centres, centring[model.name] = _centres(analysis, model, material, plan, reading)
            done = _compare(analysis, model, material, plan, reading, centres)
            tables[model.name] = done.rows()
        if blind := [name for name, table in tables.items() if not len(table)]:
            raise DataError(f"--ckpt {blind[0]}: not one image could be looked at; run.json says why")
        records, images = records_of(tables)
        cells, differences = _scored(settings, records, len(images), notes)
        content = _content(settings, plan, centring, len(images), cells, differences)
        folder.write_json("scores.json", content)
        files = _drawn(settings.pooling, records, content["cells"], folder.path)
    write_json(content["cells"], settings.json_out)
    if settings.json_out != "-":
        _print(settings, plan, content, cells, differences, console)
    notes.print("figures: " + ", ".join(str(file) for file in files if file.suffix == ".png"))


def _centres(
    analysis: Analysis, model: ModelChoice, material: Material, plan: Plan, reading: Reading
) -> tuple[dict[Space, Centre], dict[str, int]]:
    chunks = centring_sample(plan.items, analysis.settings.seed)
    work: Work[Any, Any] = Work(
        chunks,
        partial(_chunk_key, reading),
        partial(open_chunk, material.images),
        lambda vlm, chunk, images: look_at_chunk(vlm, chunk, images, reading),
        centre_schema(),
        f"groups of up to {CHUNK} images for centres",
        "centres",
    )
    done = analysis.ask(model, work)
    centres, counts = centres_of(done.rows().to_pylist())
    if not centres and done.errors:
        raise DataError(
            f"--ckpt {model.name}: no image of the sample that states are centred by could be looked at: "
            f"{done.errors[0]}. Once that is mended, the same command goes on"
        )
    return centres, counts


def _chunk_key(reading: Reading, chunk: Any) -> str:
    return chunk_key(chunk, reading.template)


def _compare(
    analysis: Analysis,
    model: ModelChoice,
    material: Material,
    plan: Plan,
    reading: Reading,
    centres: Mapping[Space, Centre],
) -> Done:
    digest = centres_digest(centres)
    work: Work[Any, Any] = Work(
        plan.items,
        lambda item: item.key(reading.template, digest),
        partial(opened, material.images),
        lambda vlm, item, image: look(vlm, item, image, reading, centres),
        schema(),
    )
    return analysis.ask(model, work)


def _scored(
    settings: SimilaritySettings, records: list[Records], images: int, notes: Console
) -> tuple[list[Cell], list[Difference]]:
    from rich.progress import Progress

    with Progress(console=notes, transient=True) as bar:
        task = bar.add_task("scores", total=count_cells(records))
        return score(
            records,
            images,
            pooling=settings.pooling,
            layer=settings.layer,
            draws=settings.draws,
            seed=settings.seed,
            done=lambda: bar.advance(task),
        )


def _content(
    settings: SimilaritySettings,
    plan: Plan,
    centring: Mapping[str, Mapping[str, int]],
    images: int,
    cells: list[Cell],
    differences: list[Difference],
) -> dict[str, Any]:
    return {
        "analysis": NAME,
        "images": images,
        "images_not_with_every_model": len(plan.items) - images,
        "images_without": dict(plan.lacking),
        "pooling": settings.pooling,
        "layer": settings.layer,
        "prompt": settings.prompt,
        "draws": settings.draws,
        "seed": settings.seed,
        "centres_from": centring,
        "choices": CHOICES,
        "cells": [cell.row() for cell in cells],
        "differences": [one.row() for one in differences],
    }


def _drawn(pooling: Pooling, records: list[Records], cells: list[dict[str, Any]], folder: Path) -> list[Path]:
    files = []
    for form in FORMS:
        files += save(histograms(records, cells, pooling, form), folder / f"{NAME}-{form}")
    return [*files, *save(profile(cells, pooling), folder / f"{NAME}-by-layer")]


def _print(
    settings: SimilaritySettings,
    plan: Plan,
    content: Mapping[str, Any],
    cells: list[Cell],
    differences: list[Difference],
    console: Console,
) -> None:
    pooling = settings.pooling
    console.print(headline_table(cells, pooling, "hidden", f"hidden states, {pooling} pooling"))
    for space, title in (("cross_output", "cross-attention output"), ("query_key", "queries and keys")):
        if any(cell.space == space and cell.headline for cell in cells):
            console.print(headline_table(cells, pooling, space, f"{title}, {pooling} pooling"))
    if differences:
        console.print(difference_table(differences, pooling, "hidden"))
    console.print(_footer(settings, plan, content), soft_wrap=True, markup=False)


def _footer(settings: SimilaritySettings, plan: Plan, content: Mapping[str, Any]) -> str:
    left = [f"{count} without {kind}" for kind, count in plan.lacking.items() if count]
    if dropped := content["images_not_with_every_model"]:
        left.append(f"{dropped} could not be looked at with every model, see run.json")
    sample = " or ".join(str(n) for n in sorted({one["images"] for one in content["centres_from"].values()}))
    return (
        f"{content['images']} images" + (f" ({', '.join(left)})" if left else "") + ". AUROC: 1 where every matching "
        f"pair is more alike than any other, 0.5 where there is no difference. Intervals: 95 %, {settings.draws} "
        f"bootstrap draws of images, the same for all models. Prompt: {settings.prompt!r}, of which the caption's own "
        f"tokens ({TEXT}) are compared. Hidden states of a numbered layer are those after it, before the final norm; "
        "`norm`: after that. AUROC of text alone: another image's captions against their changed forms, "
        "beside this one; only what goes beyond it is the image's doing. "
        f"centred: less the mean state of {sample} "
        "images and of their texts. The paper does not say which layer, pooling or centring its similarity has. Every "
        "layer and pooling, and differences in every space: scores.json."
    )
