"""One image under every condition: answers, attention on padding, and answers with padding hidden, as records."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agevlm.data.images import decode
from agevlm.errors import NotSupported
from agevlm.vlm.contract import YES_NO, Ask, Probe, ProbedToken, ProbeSpec, Reply, Vlm
from analysis.launch import require_room
from analysis.padding.canvas import NATIVE, Canvas, Condition, Rgb, compose, covered, place
from analysis.padding.measures import empty_of_cells, masses, padding_of_cells
from analysis.padding.questions import Asked, ImageItem, Masks, share_left

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image

OBJECT, LAST = "object", "last"
QUERIES = (OBJECT, LAST)
"""object: the tokens of the word or phrase that is asked about, their mean. last: the token before the answer."""
QUERY_FIELDS = ("visual", "padding", "empty")
VERSION = 1
"""Raised where what is recorded, or its meaning, changes: an earlier version's records are left alone."""


@dataclass(frozen=True, eq=False)
class Opened:
    """An image, and what of the objects asked about a crop leaves."""

    image: Image
    left: Mapping[str, float]
    """Question -> share of the object's pixels that a centre crop shows, where a mask of it is known."""


@dataclass(frozen=True)
class Looker:
    """How each image group is looked at; what `analysis.launch.Work` needs."""

    conditions: tuple[Condition, ...]
    masks: Mapping[str, Masks]
    """By set, where there are any."""
    max_new_tokens: int

    def key(self, item: ImageItem) -> str:
        """Says by content what a group's records depend on."""
        masks = self.masks[item.set].identity if item.set in self.masks else None
        told = [item.content, [c.name for c in self.conditions], self.max_new_tokens, masks]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def load(self, item: ImageItem) -> Opened:
        """Open the image and find its objects. Raises DataError."""
        image = decode(item.source.read(item.image))
        masks, left = self.masks.get(item.set), {}
        if masks is not None and image.width != image.height:
            box = place(image, Condition("crop")).geometry.seen_box
            for asked in item.questions:
                if asked.label and asked.thing is not None:
                    mask = masks.find(item.image, image.size, asked.thing)
                    share = None if mask is None else share_left(mask, box)
                    if share is not None:
                        left[asked.text] = share
        return Opened(image, left)

    def look(self, vlm: Vlm, item: ImageItem, opened: Opened) -> list[dict[str, Any]]:
        """The records of one image: one for each condition and question.

        A square image is the same under all conditions: it is asked about once, as `native`.
        """
        image = opened.image
        shown = self.conditions if image.width != image.height else (NATIVE,)
        mean = mean_colour(vlm) if any(c.colour == "mean" for c in shown) else None
        canvases = [place(image, condition, mean) for condition in shown]
        encoded = vlm.encode([canvas.image for canvas in canvases])
        asks = [Ask(q.prompt, i, self.max_new_tokens) for i in range(len(shown)) for q in item.questions]
        replies = vlm.answer(encoded, asks)
        require_room(replies)
        nothing: list[tuple[int, ...]] = [()] * len(asks)
        tokens = vlm.tokens(encoded, asks, nothing)
        placed = [_placed(vlm, encoded, i, canvas) for i, canvas in enumerate(canvases)]
        queries = [wanted_tokens(own, q) for own, q in zip(tokens, [*item.questions] * len(shown), strict=True)]
        wanted = [sorted({i for places in one.values() for i in places}) for one in queries]
        probes = vlm.probe(encoded, asks, nothing, ProbeSpec(), wanted)
        hidden = _with_padding_hidden(vlm, encoded, asks, placed, shown)
        records = []
        for n, (ask, reply, probe) in enumerate(zip(asks, replies, probes, strict=True)):
            condition, question = shown[ask.image or 0], item.questions[n % len(item.questions)]
            coverage = placed[ask.image or 0]
            attended = {
                f"{query}_{name}": values
                for query in QUERIES
                for name, values in _attended(probe, wanted[n], queries[n].get(query), coverage).items()
            }
            records.append(
                {
                    **_question_columns(item, question, image, opened),
                    "condition": condition.name,
                    **_answer_columns(reply),
                    **_finite("hidden_", hidden[n]),
                    "layers": list(probe.layers),
                    "padding_cells": padding_of_cells(coverage),
                    "empty_cells": empty_of_cells(coverage),
                    "cells": int(coverage.size),
                    **attended,
                }
            )
        return records


def mean_colour(vlm: Vlm) -> Rgb:
    """The mean colour of a model's normalisation, 0 to 255. Raises NotSupported if it names none."""
    mean = vlm.mean_colour()
    if mean is None:
        raise NotSupported("this model's processor names no mean colour; give --colour black, grey or edge")
    red, green, blue = (min(255, max(0, round(255 * value))) for value in mean)
    return red, green, blue


def wanted_tokens(tokens: Sequence[ProbedToken], asked: Asked) -> dict[str, tuple[int, ...]]:
    """Which tokens each query stands for; without `object` where no token of the question holds the phrase."""
    found: dict[str, tuple[int, ...]] = {LAST: (len(tokens) - 1,)}
    # What a template puts before the question may hold the same word.
    start = max(asked.prompt.find(asked.text), 0)
    phrase = re.compile(rf"(?<!\w){re.escape(asked.thing or '')}(?!\w)", re.IGNORECASE)
    match = phrase.search(asked.prompt, start) if asked.thing else None
    if match is not None:
        start, end = match.span()
        inside = tuple(i for i, t in enumerate(tokens) if t.part == "prompt" and t.start < end and start < t.end)
        if inside:
            found[OBJECT] = inside
    return found


def _placed(vlm: Vlm, encoded: Any, index: int, canvas: Canvas) -> Any:
    """(rows, columns): which share of each cell is image; on a squashed image, would be if it were letterboxed."""
    return covered(compose(canvas.zone, vlm.geometry(encoded, index)))


def _with_padding_hidden(
    vlm: Vlm, encoded: Any, asks: Sequence[Ask], placed: Sequence[Any], shown: Sequence[Condition]
) -> list[Mapping[str, float]]:
    """Log-probabilities of the candidates while cells without any image are hidden; empty where there are none."""
    found: list[Mapping[str, float]] = [{}] * len(asks)
    chosen = [n for n, a in enumerate(asks) if shown[a.image or 0].pads and bool((placed[a.image or 0] == 0).any())]
    if chosen:
        cells = [placed[asks[n].image or 0] == 0 for n in chosen]
        for n, logprobs in zip(chosen, vlm.knock_out(encoded, [asks[n] for n in chosen], cells), strict=True):
            found[n] = logprobs
    return found


def _attended(
    probe: Probe, wanted: Sequence[int], query: tuple[int, ...] | None, coverage: Any
) -> dict[str, list[float] | None]:
    if query is None:
        return dict.fromkeys(QUERY_FIELDS)
    rows = [wanted.index(i) for i in query]
    found = masses(probe.attention[:, rows].astype(np.float64).mean(1), coverage)
    return {name: getattr(found, name).tolist() for name in QUERY_FIELDS}


def _question_columns(item: ImageItem, question: Asked, image: Image, opened: Opened) -> dict[str, Any]:
    return {
        "set": item.set,
        "image": item.image,
        "width": image.width,
        "height": image.height,
        "question": question.text,
        "thing": question.thing,
        "label": question.label,
        "splits": list(question.splits),
        "left_by_crop": opened.left.get(question.text),
    }


def _answer_columns(reply: Reply) -> dict[str, Any]:
    return {"answer": reply.text, "error": reply.error, **_finite("", reply.logprobs)}


def _finite(prefix: str, logprobs: Mapping[str, float]) -> dict[str, float | None]:
    """Columns of the candidates' log-probabilities; None where there is none or it is no number."""
    known = {f"{prefix}{name}": logprobs.get(name) for name in YES_NO}
    return {name: value if value is not None and math.isfinite(value) else None for name, value in known.items()}


def schema() -> pa.Schema:
    """Of the records."""
    import pyarrow as pa

    floats = pa.list_(pa.float32())
    queries = [(f"{query}_{name}", floats) for query in QUERIES for name in QUERY_FIELDS]
    return pa.schema(
        [
            ("group", pa.string()),
            ("set", pa.string()),
            ("image", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("question", pa.string()),
            ("thing", pa.string()),
            ("label", pa.bool_()),
            ("splits", pa.list_(pa.string())),
            ("left_by_crop", pa.float64()),
            ("condition", pa.string()),
            ("answer", pa.string()),
            ("error", pa.string()),
            ("yes", pa.float64()),
            ("no", pa.float64()),
            ("hidden_yes", pa.float64()),
            ("hidden_no", pa.float64()),
            ("layers", pa.list_(pa.int32())),
            ("padding_cells", pa.float64()),
            ("empty_cells", pa.float64()),
            ("cells", pa.int32()),
            *queries,
        ]
    )
