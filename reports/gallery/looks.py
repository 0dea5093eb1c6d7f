"""The questions of grounding runs: what was answered, where the model looked, and which image that was.

A record has no hash of its image, but the key of its group is a hash over it and everything that was asked: of an image
that is thought to be the one, it is proven or refuted that it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from agevlm.data.masks import rle_area
from agevlm.errors import AgeVlmError
from analysis.grounding.records import HEADLINE, KINDS, MEAN, SCHEMA, group_key, latest, look_of, regions_of
from analysis.parts import Parts
from reports.document import NONE, Item, ItemKind, Overlay
from reports.gallery.entries import Entry, margin_of
from reports.gallery.finding import Finder
from reports.gallery.overlays import map_png, outline_png
from reports.gallery.sizes import Sizes, digest_of
from reports.opened import Run
from reports.runs.printing import remark_lines

T = TypeVar("T")
TOKENS = 16
"""New tokens of an answer where a run does not say: the command's own choice."""
PADDING = 0.005
"""Share of attention on padding that is told."""
MAPS = ("layers", "maps", "peaks", "elsewhere")
LIGHT = [name for name in SCHEMA.names if name not in (*MAPS, "heads")]
READ = [*LIGHT, *MAPS]


@dataclass(frozen=True, eq=False)
class Looks:
    """What one model's records of a grounding run hold."""

    run: Run
    model: str
    fingerprint: str
    prompt: str
    rows: Sequence[Mapping[str, Any]]
    """Without the columns of `maps`."""
    maps: pa.Table
    """The columns `MAPS` of the same rows: large, and few of them are drawn."""

    @property
    def label(self) -> str:
        """The run's, and the model's of several."""
        return self.run.label if len(self.run.models) == 1 else f"{self.run.label}: {self.model}"

    def groups(self) -> dict[str, list[int]]:
        """Rows of each image."""
        found: dict[str, list[int]] = {}
        for place, row in enumerate(self.rows):
            found.setdefault(row["group"], []).append(place)
        return found

    def drawn(self, place: int) -> Overlay | None:
        """A row's map and its mask's outline; None where the query has no map."""
        row: dict[str, Any] = {**self.rows[place], **{n: self.maps[n][place].as_py() for n in MAPS}, "heads": None}
        look = look_of(row, [MEAN])
        if look is None or HEADLINE not in row["kinds"]:
            return None
        heat = look.maps[KINDS.index(HEADLINE), 0]
        grid = look.geometry
        padding = float((heat * (1 - grid.coverage())).sum() / (heat.sum() or 1))
        note = (
            f"Attention of the last token of “{look.phrase}”, mean over heads and layers: {self.model} in "
            f"{self.run.folder.name}. Colours from 0 to {float(heat.max()):.1%} in one of {grid.rows} × {grid.columns} "
            "cells."
        )
        if padding >= PADDING:
            note += f" {padding:.0%} of it lies on padding beside the image, which is not shown."
        return Overlay(map_png(heat, grid), outline_png(look.mask), note)


def looks_of(run: Run, notes: list[str]) -> list[Looks]:
    """A grounding run's records by model; none of other runs. What cannot be read is said in `notes`."""
    found: list[Looks] = []
    models = run.manifest.get("models")
    if run.benchmark != "grounding" or not isinstance(models, Mapping):
        return found
    for model, about in models.items():
        fingerprint = str(about.get("fingerprint"))
        remarks: list[str] = []
        # The file's name has the model's, in other characters, and the fingerprint's beginning.
        files = run.folder.glob(f"probes/*-{fingerprint[:12]}-*.parquet")
        names = {re.sub(r"(-to)?-\d+$", "", path.stem) for path in files}
        tables = [Parts(run.folder, name, SCHEMA).read(READ, remarks) for name in sorted(names)]
        table = latest(pa.concat_tables([pa.schema([SCHEMA.field(n) for n in READ]).empty_table(), *tables]))
        notes += [f"{run.label}: {line}" for line in remark_lines(remarks)]
        rows, maps = table.select(LIGHT).to_pylist(), table.select(MAPS)
        found.append(Looks(run, str(model), fingerprint, str(run.manifest.get("prompt")), rows, maps))
    return found


class Matched:
    """What looks say of questions: which look is whose, and how large the object is."""

    def __init__(self, looks: Sequence[Looks], finder: Finder, sizes: Sizes) -> None:
        self._by_data = sizes
        self.entries: list[Entry] = []
        """The looks' own questions."""
        self._places: dict[tuple[str, str, str, str], set[tuple[int, int]]] = {}
        self._sizes: dict[tuple[str, str], set[float]] = {}
        # Models that looked at the same have groups of the same key.
        proven: dict[str, str | None] = {}
        for number, one in enumerate(looks):
            tokens = one.run.manifest.get("max_new_tokens", TOKENS)
            for group, places in one.groups().items():
                rows = [one.rows[place] for place in places]
                if proven.get(group) is None:
                    candidates = finder.candidates(one.run, rows[0]["image"])
                    proven[group] = next((s for s in candidates if _is_of(group, rows, s, one.prompt, tokens)), None)
                for place in places:
                    self._add(number, one, place, proven[group])

    def _add(self, number: int, looks: Looks, place: int, identity: str | None) -> None:
        row = looks.rows[place]
        own = None if row["mask"] is None else (number, place)
        item = item_of(looks, place)
        self.entries.append(Entry(item, looks.run, identity, looks.fingerprint, looks.prompt, True, own))
        if identity is not None and own is not None and item.size is not None:
            self._places.setdefault((looks.fingerprint, identity, looks.prompt, item.question), set()).add(own)
            self._sizes.setdefault((identity, item.question), set()).add(item.size)

    def look(self, entry: Entry) -> tuple[int, int] | None:
        """Its own, or that of the one region that the same model was asked about with the same words."""
        if entry.looked or entry.identity is None:
            return entry.look
        found = self._places.get((entry.fingerprint, entry.identity, entry.prompt, entry.item.question), ())
        # The first of the runs that asked it.
        return _only([look for look in found if look[0] == min(found)[0]])

    def size(self, entry: Entry) -> float | None:
        """Its own; that of the one region that the same words ask about in the same image; or what linkage runs say."""
        if entry.looked:
            return entry.item.size
        found = _only(self._sizes.get((entry.identity or "", entry.item.question), ()))
        digest = digest_of(entry.run)
        if found is None and digest is not None:
            return self._by_data.get((digest, entry.item.image, entry.item.question))
        return found


def _only(found: Collection[T]) -> T | None:
    return next(iter(found)) if len(found) == 1 else None


def _is_of(group: str, rows: Sequence[Mapping[str, Any]], sha256: str, prompt: str, tokens: int) -> bool:
    try:
        regions = regions_of(rows)
        return any(group_key(sha256, regions, prompt, heads, tokens) == group for heads in (False, True))
    except AgeVlmError:
        return False


def item_of(looks: Looks, place: int) -> Item:
    """A row as an item."""
    row = looks.rows[place]
    right, said = row["right"], row["said"]
    held = [(name, row[f"logprob_{name}"]) for name in ("yes", "no")]
    logprobs = [(name, value) for name, value in held if value is not None and math.isfinite(value)]
    return Item(
        run=looks.label,
        number=str(place + 1),
        split=row["about"],
        category=row["phrase"],
        question=row["question"],
        official=right or NONE,
        answer=row["answer"],
        read=str(said),
        kind=_kind(row),
        margin=margin_of(dict(logprobs), right or "", said),
        logprobs=sorted(logprobs, key=lambda one: -one[1]),
        size=size_of(row),
        image=row["image"],
        picture=None,
        overlay=None,
    )


def _kind(row: Mapping[str, Any]) -> ItemKind:
    said, right = row["said"], row["right"]
    if row["answer"] is None:
        return "model failed"
    if right not in ("yes", "no"):
        return "not counted"
    if said not in ("yes", "no"):
        return "unparsed"
    if said == right:
        return "right"
    if row["about"] == "negation":
        # No to "Is there no dog?" claims a dog; yes denies one. Neither word is what the kinds below say.
        return "wrong answer"
    return "false yes" if said == "yes" else "missed"


def size_of(row: Mapping[str, Any]) -> float | None:
    """Share of the image that a row's mask covers; None where there is none."""
    if row["mask"] is None:
        return None
    size = (row["geometry"]["image_height"], row["geometry"]["image_width"])
    pixels: int = size[0] * size[1]
    return rle_area(row["mask"], size) / pixels
