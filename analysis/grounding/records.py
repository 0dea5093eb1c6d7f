"""Records of looks: one row a region, with its answer and its maps; everything else is computed from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from agevlm.data.masks import Mask, encode_mask, rle_area, rle_mask
from agevlm.geometry import Geometry
from analysis.regions import Region

Floats = NDArray[np.floating]
KINDS = ("phrase", "phrase-last", "last", "answer")
"""Whose attention it is. phrase: all tokens of the phrase, their mean. phrase-last: its last token, which has read the
whole phrase. last: the last token before the answer, which predicts it. answer: the answer's first token."""
HEADLINE = "phrase-last"
MEAN = "mean"
"""The mean over all layers that can look at the image."""
HEAD_SCORES = ("iou", "mass")
"""What is recorded of each head by itself."""
GEOMETRY = pa.struct(
    [(name, pa.int32()) for name in ("image_width", "image_height", "input_width", "input_height")]
    + [(name, pa.float64()) for name in ("scale_x", "scale_y", "offset_x", "offset_y")]
    + [(name, pa.int32()) for name in ("rows", "columns")]
)
SCHEMA = pa.schema(
    [
        ("group", pa.string()),  # the image group that was asked together
        ("id", pa.string()),
        ("image", pa.string()),
        ("phrase", pa.string()),
        ("about", pa.string()),  # the region's group: object, attribute, ...
        ("question", pa.string()),
        ("right", pa.string()),  # the right answer, where the source knows it
        ("answer", pa.string()),
        ("said", pa.string()),  # yes, no, or why it is neither (benchmarks.reading.Label)
        ("logprob_yes", pa.float64()),
        ("logprob_no", pa.float64()),
        ("trouble", pa.string()),  # why there are no maps; null where there are, and where nothing is to be looked at
        ("mask", pa.binary()),  # COCO's compressed run lengths; null where nothing is there
        ("geometry", GEOMETRY),
        ("kinds", pa.list_(pa.string())),
        ("layers", pa.list_(pa.string())),  # "mean", then numbers
        ("maps", pa.binary()),  # float16 (kinds, layers, rows, columns), each divided by its largest cell
        ("peaks", pa.list_(pa.float32())),  # (kinds, layers): the largest cells
        ("elsewhere", pa.list_(pa.float32())),  # (kinds, layers): attention to visual tokens without a place
        ("heads", pa.binary()),  # float16 (kinds, layers without the mean, heads, HEAD_SCORES)
    ]
)
NO_TOKEN, NO_ANSWER, UNSEEN = "no token of the prompt holds it", "there is no answer", "the model is not shown its mask"
"""Kinds of trouble; others are the message of an error."""


@dataclass(frozen=True, eq=False)
class Look:
    """One region, as one model looked for it."""

    id: str
    image: str
    phrase: str
    about: str
    """object, attribute, ..."""
    geometry: Geometry
    counts: bytes
    layers: tuple[str, ...]
    """mean, then the layers that were kept."""
    maps: Floats
    """(KINDS, layers, rows, columns); NaN for a kind of query that there was not."""
    elsewhere: Floats
    """(KINDS, layers)."""
    heads: Floats | None
    """(KINDS, layers without the mean, heads, HEAD_SCORES)."""

    @cached_property
    def mask(self) -> Mask:
        """(height, width)."""
        return rle_mask(self.counts, self.size)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of image and mask."""
        return self.geometry.image_height, self.geometry.image_width

    @property
    def image_share(self) -> float:
        """Share of the image that the mask covers."""
        return rle_area(self.counts, self.size) / (self.size[0] * self.size[1])


@dataclass(frozen=True)
class Said:
    """One question's answer."""

    image: str
    question: str
    about: str
    right: str | None
    said: str


def packed(maps: Floats) -> tuple[bytes, list[float]]:
    """Maps (..., rows, columns) as float16, each divided by its largest cell, and those: nothing becomes too small."""
    peaks = maps.max((-2, -1))
    scaled = maps / np.where(peaks > 0, peaks, 1)[..., None, None]
    return scaled.astype(np.float16).tobytes(), [float(p) for p in peaks.ravel()]


def look_of(row: Mapping[str, Any], wanted: Sequence[str]) -> Look | None:
    """The look that a row of `SCHEMA` holds, with the `wanted` of its layers; None where it has no maps."""
    if row["maps"] is None:
        return None
    geometry = Geometry(**row["geometry"])
    taken = [row["layers"].index(layer) for layer in wanted]
    layers, kinds = row["layers"], [KINDS.index(kind) for kind in row["kinds"]]
    outer = (len(kinds), len(layers))
    maps = np.frombuffer(row["maps"], np.float16).astype(np.float64)
    maps = maps.reshape(*outer, geometry.rows, geometry.columns)
    maps *= np.asarray(row["peaks"]).reshape(*outer, 1, 1)
    heads = None
    if row["heads"] is not None:
        held = np.frombuffer(row["heads"], np.float16).astype(np.float64)
        held = held.reshape(len(kinds), len(layers) - 1, -1, len(HEAD_SCORES))
        heads = _placed(held[:, [place - 1 for place in taken[1:]]], kinds)
    return Look(
        row["id"],
        row["image"],
        row["phrase"],
        row["about"],
        geometry,
        row["mask"],
        tuple(wanted),
        _placed(maps[:, taken], kinds),
        _placed(np.asarray(row["elsewhere"]).reshape(outer)[:, taken], kinds),
        heads,
    )


def _placed(values: Floats, kinds: Sequence[int]) -> Floats:
    """Values of some kinds of queries among those of all; NaN for the others."""
    found = np.full((len(KINDS), *values.shape[1:]), np.nan)
    found[kinds] = values
    return found


def geometry_fields(geometry: Geometry) -> dict[str, Any]:
    """A geometry as a value of `GEOMETRY`."""
    return asdict(geometry)


def group_key(sha256: str, regions: Sequence[Region], template: str, heads: bool, max_new_tokens: int) -> str:
    """What the records of an image group are known by: the content of the image, what is asked about it and how."""
    asked = [(r.id, r.phrase, r.group, r.answer, r.counts, r.size, r.asked()) for r in regions]
    how = (template, heads, max_new_tokens)
    return hashlib.sha256(repr((sha256, asked, how)).encode()).hexdigest()[:32]


def regions_of(rows: Sequence[Mapping[str, Any]]) -> list[Region]:
    """What was asked about one image, as the rows of its group have it.

    Where regions of one question were asked between those of another, the order is not known any more.
    """
    found = []
    for row in rows:
        size = row["geometry"]["image_height"], row["geometry"]["image_width"]
        counts = row["mask"] or encode_mask(np.zeros(size, np.bool_))
        found.append(
            Region(row["image"], row["phrase"], counts, size, row["about"], row["question"], row["id"], row["right"])
        )
    return found


def looks_by_image(table: pa.Table) -> Iterator[tuple[str, Sequence[Look]]]:
    """Looks image by image; rows of an image stand together. Images without any are left out.

    Where rows were recorded with different layers (`--max-disk`), those that all have are taken.
    """
    kept = {tuple(layers) for layers in table["layers"].to_pylist() if layers is not None}
    wanted = [layer for layer in max(kept, key=len, default=()) if all(layer in layers for layers in kept)]
    images = table["image"].to_pylist()
    starts = _starts(images)
    for first, end in zip(starts, [*starts[1:], len(images)], strict=True):
        rows = table.slice(first, end - first).to_pylist()
        looks = [look for row in rows if (look := look_of(row, wanted)) is not None]
        if looks:
            yield str(images[first]), looks


def latest(table: pa.Table) -> pa.Table:
    """Rows of each group as they were recorded last: groups with a question that failed are asked again, as a whole."""
    last = {key: place for place, key in enumerate(zip(*(table[c].to_pylist() for c in ("group", "id")), strict=True))}
    if len(last) == len(table):
        return table
    kept = set(last.values())
    return table.filter(pa.array([place in kept for place in range(len(table))]))


def in_order(table: pa.Table, images: Iterable[str]) -> pa.Table:
    """The same rows, image by image in the order of `images`: what failed at first was recorded last."""
    names = table["image"].to_pylist()
    starts = _starts(names)
    slices: dict[str, list[pa.Table]] = {}
    for first, end in zip(starts, [*starts[1:], len(names)], strict=True):
        slices.setdefault(names[first], []).append(table.slice(first, end - first))
    return pa.concat_tables([table.schema.empty_table(), *(one for image in images for one in slices.get(image, ()))])


def _starts(names: Sequence[str]) -> list[int]:
    """Where another image begins."""
    return [k for k in range(len(names)) if k == 0 or names[k] != names[k - 1]]


def failed_groups(table: pa.Table) -> set[str]:
    """Groups in which a question has no answer, as they were recorded last."""
    rows = latest(table)
    troubles = zip(rows["group"].to_pylist(), rows["trouble"].to_pylist(), strict=True)
    return {group for group, trouble in troubles if trouble is not None and trouble.startswith(NO_ANSWER)}


def answers_of(table: pa.Table) -> list[Said]:
    """Each question's answer once, whatever phrases of it were looked at."""
    names = ["image", "question", "about", "right", "said"]
    found = {(r["image"], r["question"]): Said(**r) for r in table.select(names).to_pylist() if r["said"] is not None}
    return list(found.values())
