"""What is asked about one image, and where the model looked: answers, maps, rows of records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL.Image import Image

from agevlm.geometry import Geometry
from agevlm.vlm.contract import Ask, EncodedImages, Probe, ProbedToken, ProbeSpec, Reply, Vlm
from analysis.grounding.measures import area_matched_iou, mass_inside
from analysis.grounding.records import (
    HEAD_SCORES,
    KINDS,
    MEAN,
    NO_ANSWER,
    NO_TOKEN,
    SCHEMA,
    UNSEEN,
    Floats,
    geometry_fields,
    packed,
)
from analysis.regions import Region
from benchmarks.prompts import PLACE, Prompt
from benchmarks.reading import read_yes_no

SHORT = 16
"""New tokens of an answer, at most: a yes or no is among the first."""


BLANK: dict[str, Any] = dict.fromkeys(name for name in SCHEMA.names if name != "group")


@dataclass(frozen=True)
class AskedImage:
    """The regions of one image."""

    image: str
    regions: tuple[Region, ...]
    """Those with a mask, and those that are asked for their answers alone (an empty one)."""
    sha256: str
    """Of the image file."""


@dataclass(frozen=True)
class How:
    """How everything is asked and what is kept."""

    prompt: Prompt
    heads: bool
    max_new_tokens: int
    kept: tuple[int, ...]
    """Which layers' maps are kept beside the mean over all, as places in the model's list of layers."""


@dataclass(frozen=True)
class _Question:
    """One prompt, with the regions whose phrases stand in it."""

    text: str
    prompt: str
    regions: tuple[tuple[Region, int, int], ...]
    """With the first character and the one behind the last of the phrase in the prompt."""


def look(vlm: Vlm, asked: AskedImage, image: Image, how: How) -> list[dict[str, Any]]:
    """Answer every question about one image, and probe those whose phrases have masks.

    Returns:
        A row for every region, without the column `group`.
    """
    encoded = vlm.encode([vlm.prepare(image)])
    questions = _questions(asked.regions, how.prompt)
    replies, probed = _answer_and_probe(vlm, encoded, questions, how)
    geometry = vlm.geometry(encoded, 0)
    rows = []
    for place, (question, reply) in enumerate(zip(questions, replies, strict=True)):
        for region, _, _ in question.regions:
            row = {**BLANK, **_answered(region, question, reply), "geometry": geometry_fields(geometry)}
            found = probed.get((place, region.id))
            rows.append({**row, **_maps(region, reply, found, geometry, how)})
    return rows


def _questions(regions: Sequence[Region], prompt: Prompt) -> list[_Question]:
    before = prompt.template.index(PLACE)
    found: dict[str, list[tuple[Region, int, int]]] = {}
    for region in regions:
        text, start, end = region.asked()
        found.setdefault(text, []).append((region, before + start, before + end))
    return [_Question(text, prompt.of(text), tuple(held)) for text, held in found.items()]


@dataclass(frozen=True, eq=False)
class _Found:
    """Attention of each kind of query for one region; `maps` is None where no token holds the phrase."""

    kinds: tuple[str, ...]
    layers: tuple[int, ...]
    maps: Floats | None
    """(kinds, layers, rows, columns)."""
    elsewhere: Floats | None
    """(kinds, layers)."""
    heads: Floats | None
    """(kinds, layers, heads, rows, columns)."""


def _answer_and_probe(
    vlm: Vlm, encoded: EncodedImages, questions: Sequence[_Question], how: How
) -> tuple[list[Reply], dict[tuple[int, str], _Found]]:
    """Replies, and what was found by the question's place and the region's id, for regions with a mask whose question
    was answered."""
    asks = [Ask(question.prompt, 0, how.max_new_tokens) for question in questions]
    queries, wanted = [], []
    for question, tokens in zip(questions, vlm.tokens(encoded, asks, [()] * len(asks)), strict=True):
        own = {region.id: _queries(tokens, start, end) for region, start, end in question.regions if region.share}
        queries.append(own)
        wanted.append(sorted({k for kinds in own.values() for held in kinds.values() for k in held}))
    replies, probes = vlm.answer_and_probe(encoded, asks, ProbeSpec(heads=how.heads), wanted)
    found = {}
    for place, (own, probe, held) in enumerate(zip(queries, probes, wanted, strict=True)):
        if probe is None:
            # Nothing was wanted, as no token holds the phrase; or there is no answer.
            if replies[place].error is None:
                found.update({(place, name): _Found((), (), None, None, None) for name in own})
            continue
        # The answer's first token stands behind those that were wanted, where there is one.
        said = list(range(len(held), len(probe.tokens)))
        for name, kinds in own.items():
            places = {kind: [held.index(k) for k in tokens] for kind, tokens in kinds.items()}
            found[place, name] = _found(probe, {**places, "answer": said} if said else places)
    return replies, found


def _queries(tokens: Sequence[ProbedToken], start: int, end: int) -> dict[str, list[int]]:
    """Which tokens of the prompt each kind of query is; none where no token holds the phrase."""
    phrase = [k for k, t in enumerate(tokens) if t.part == "prompt" and t.start < end and start < t.end]
    return {"phrase": phrase, "phrase-last": phrase[-1:], "last": [len(tokens) - 1]} if phrase else {}


def _found(probe: Probe, queries: Mapping[str, Sequence[int]]) -> _Found:
    """Means over each kind's queries, given by their places in the probe."""
    if "phrase" not in queries:
        return _Found((), (), None, None, None)
    held = list(queries.values())
    heads = probe.heads
    return _Found(
        tuple(queries),
        probe.layers,
        np.stack([probe.attention[:, k].astype(np.float64).mean(1) for k in held]),
        np.stack([probe.elsewhere[:, k].astype(np.float64).mean(1) for k in held]),
        None if heads is None else np.stack([heads[:, :, k].astype(np.float64).mean(2) for k in held]),
    )


def _answered(region: Region, question: _Question, reply: Reply) -> dict[str, Any]:
    return {
        "id": region.id,
        "image": region.image,
        "phrase": region.phrase,
        "about": region.group,
        "question": question.text,
        "right": region.answer,
        "answer": reply.text,
        "said": str(read_yes_no(reply.text).label),
        "logprob_yes": reply.logprobs.get("yes"),
        "logprob_no": reply.logprobs.get("no"),
        "mask": region.counts if region.share else None,
    }


def _maps(region: Region, reply: Reply, found: _Found | None, geometry: Geometry, how: How) -> dict[str, Any]:
    """The columns that hold maps, or why there are none."""
    if not region.share:
        return {}
    if reply.error is not None or found is None:
        return {"trouble": f"{NO_ANSWER}: {reply.error}"}
    if found.maps is None or found.elsewhere is None:
        return {"trouble": NO_TOKEN}
    share, coverage = geometry.mask_to_grid(region.mask), geometry.coverage()
    if not share.any():
        return {"trouble": UNSEEN}
    kept = list(how.kept)
    maps = np.concatenate([found.maps.mean(1, keepdims=True), found.maps[:, kept]], axis=1)
    elsewhere = np.concatenate([found.elsewhere.mean(1, keepdims=True), found.elsewhere[:, kept]], axis=1)
    content, peaks = packed(maps)
    heads = None
    if found.heads is not None:
        held = found.heads[:, kept]
        both = {"iou": area_matched_iou(held, share, coverage), "mass": mass_inside(held, share, coverage)}
        heads = np.stack([both[name] for name in HEAD_SCORES], -1).astype(np.float16).tobytes()
    return {
        "kinds": list(found.kinds),
        "layers": [MEAN, *(str(found.layers[k]) for k in kept)],
        "maps": content,
        "peaks": peaks,
        "elsewhere": [float(v) for v in elsewhere.ravel()],
        "heads": heads,
    }


@dataclass(frozen=True)
class Room:
    """What maps of a model's looks take on disk, before compression."""

    layers: tuple[int, ...]
    """Those that can look at the image."""
    cells: int
    """Of the first image's grid."""
    heads: int = 0
    """Of a layer, where each is scored."""

    def bytes(self, layers: int) -> int:
        """Of one region's maps, with so many layers and their mean, and of the scores of these layers' heads."""
        values = (layers + 1) * self.cells + layers * self.heads * len(HEAD_SCORES)
        return len(KINDS) * values * np.dtype(np.float16).itemsize

    def kept(self, most: float) -> tuple[int, ...]:
        """Places of the layers that fit into `most` bytes a region: all, or some evenly spread, one at least."""
        fit = max([1, *(n for n in range(1, len(self.layers) + 1) if self.bytes(n) <= most)])
        return tuple(round(k) for k in np.linspace(0, len(self.layers) - 1, fit))


def room(vlm: Vlm, image: Image, heads: bool) -> Room:
    """Found by looking at one image; with `heads`, room for their scores as well."""
    encoded, asks = vlm.encode([image]), [Ask("?", 0)]
    last = len(vlm.tokens(encoded, asks, [()])[0]) - 1
    (probe,) = vlm.probe(encoded, asks, [()], ProbeSpec(heads=heads), [[last]])
    held = 0 if probe.heads is None else probe.heads.shape[1]
    return Room(probe.layers, probe.geometry.rows * probe.geometry.columns, held)
