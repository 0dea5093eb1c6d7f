"""Ask again with part of the image hidden: does the answer come from the object, and from where the model looked?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agevlm.geometry import Geometry
from agevlm.vlm.contract import Ask, EncodedImages, Vlm
from analysis.linkage import cells
from analysis.linkage.cells import Cells, Floats
from analysis.linkage.fill import FILLS

if TYPE_CHECKING:
    from PIL.Image import Image

KEYS = "keys"
"""Hidden from attention; the other ways are those of `FILLS`, which paint over the pixels."""
WAYS = (KEYS, *FILLS)
SHARES = (0.05, 0.1, 0.2, 0.4)
"""Of the deletion curve: shares of the image's cells."""
HIDDEN = {True: "hidden", False: "hidden (false yes)"}
"""What the records say of a question that was asked again, by its official answer."""
AT_ONCE = 16
"""Painted images encoded together."""


@dataclass(frozen=True)
class CausalSettings:
    """How the causal check hides."""

    draws: int
    """Random places for each object."""
    border: int
    """Cells around the object's that are hidden with it."""
    seed: int


@dataclass(frozen=True, eq=False)
class Hiding:
    """Cells to hide, and what they are."""

    what: str
    """nothing; object: its cells; attended: the most attended ones; random: others; moved: the object's shape
    elsewhere. The last three have as many cells as the object, or, with a share, so many of the image's."""
    cells: Cells
    share: float | None = None
    draw: int | None = None


@dataclass(frozen=True, eq=False)
class Subject:
    """A question that was answered yes."""

    ask: Ask
    mask: Floats | None
    """(rows, columns): share of each cell that the object covers; None where it is not there."""
    attention: Floats
    """(rows, columns): of the object's word, mean over layers."""
    identity: str
    """What its random places depend on, beside the seed."""


def plan(subject: Subject, coverage: Floats, settings: CausalSettings) -> list[Hiding]:
    """What to hide for one question: the deletion curve, and before it, where the object is there, its cells and
    controls of their number; nothing at all where the object leaves no room for such controls."""
    allowed = cells.of_image(coverage)
    total = int(allowed.sum())
    draw = cells.generator("linkage", settings.seed, subject.identity)
    hidings = [Hiding("nothing", np.zeros_like(allowed))]
    if subject.mask is not None:
        own = cells.of_object(subject.mask, allowed, settings.border)
        others, count = allowed & ~own, int(own.sum())
        if count == 0 or count > int(others.sum()):
            return []
        hidings += [
            Hiding("object", own),
            Hiding("attended", cells.top(subject.attention, allowed, count)),
            *(Hiding("random", cells.random(others, count, draw), draw=k) for k in range(settings.draws)),
            *(Hiding("moved", m, draw=k) for k, m in enumerate(cells.moved(own, others, settings.draws, draw))),
        ]
    for share in SHARES:
        number = max(1, round(share * total))
        hidings.append(Hiding("attended", cells.top(subject.attention, allowed, number), share))
        hidings += [Hiding("random", cells.random(allowed, number, draw), share, k) for k in range(settings.draws)]
    return hidings


def hide(
    vlm: Vlm,
    encoded: EncodedImages,
    image: Image,
    geometry: Geometry,
    subjects: Sequence[Subject],
    settings: CausalSettings,
) -> list[list[dict[str, Any]]]:
    """Hide and ask again, for each subject of one image; an empty list where its object is too large for a control.

    Deletion curves hide from attention alone. Raises NotSupported, DataError.
    """
    coverage = geometry.coverage()
    plans = [plan(subject, coverage, settings) for subject in subjects]
    wanted = [(k, hiding) for k, own in enumerate(plans) for hiding in own]
    rows: list[list[dict[str, Any]]] = [[] for _ in subjects]
    if not wanted:
        return rows

    def add(k: int, hiding: Hiding, how: str, logprobs: Mapping[str, float], tokens: float | None = None) -> None:
        region = subjects[k].mask
        rows[k].append(
            {
                "what": hiding.what,
                "how": how,
                "share": hiding.share,
                "draw": hiding.draw,
                "cells": int(hiding.cells.sum()),
                "tokens": tokens,
                "pixels": float(coverage[hiding.cells].sum() / coverage.sum()),
                "on_object": None if region is None else float(region[hiding.cells].sum() / region.sum()),
                "margin": margin_of(logprobs),
            }
        )

    every = [hiding.cells for _, hiding in wanted]
    asked = vlm.knock_out(encoded, [subjects[k].ask for k, _ in wanted], every)
    shares = vlm.hidden_share(encoded, 0, every)
    for (k, hiding), logprobs, tokens in zip(wanted, asked, shares, strict=True):
        add(k, hiding, KEYS, logprobs, tokens)
    painted = [(k, h, how) for k, h in wanted if h.share is None and h.what != "nothing" for how in FILLS]
    for start in range(0, len(painted), AT_ONCE):
        part = painted[start : start + AT_ONCE]
        images = vlm.encode([paint(image, geometry, hiding.cells, how) for _, hiding, how in part])
        asks = [Ask(subjects[k].ask.prompt, n, 1) for n, (k, _, _) in enumerate(part)]
        for (k, hiding, how), reply in zip(part, vlm.answer(images, asks), strict=True):
            add(k, hiding, how, reply.logprobs)
    return rows


def paint(image: Image, geometry: Geometry, hidden: Cells, how: str) -> Image:
    """The image with the pixels of these cells painted over; see `FILLS`."""
    from PIL import Image as Images

    region = np.nan_to_num(geometry.grid_to_image(hidden.astype(np.float64))) > 0.5
    return Images.fromarray(FILLS[how](np.asarray(image.convert("RGB")), region))


def margin_of(logprobs: Mapping[str, float]) -> float | None:
    """log p(yes) - log p(no) of the first token; None where one is missing or no number."""
    margin = logprobs.get("yes", float("nan")) - logprobs.get("no", float("nan"))
    return margin if np.isfinite(margin) else None
