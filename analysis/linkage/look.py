"""Ask about one image, look inside, hide and ask again: the rows of its questions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agevlm.data.images import decode
from agevlm.data.masks import rle_mask, union_of
from agevlm.data.sources import ImageSource
from agevlm.errors import DataError, NotSupported
from agevlm.geometry import Geometry
from agevlm.vlm.contract import (
    POOLINGS,
    Ask,
    Compared,
    EncodedImages,
    Probe,
    ProbedToken,
    ProbeSpec,
    Reply,
    StateSpec,
    Vlm,
)
from analysis.launch import require_room
from analysis.linkage.cells import Cells, of_image
from analysis.linkage.hide import HIDDEN, CausalSettings, Subject, hide, margin_of
from analysis.linkage.sheets import Case, Sheet
from analysis.linkage.signals import TOKENS, of_layers
from benchmarks.reading import Label, read_yes_no

if TYPE_CHECKING:
    from PIL.Image import Image

Floats = NDArray[np.floating]
Row = dict[str, Any]


@dataclass(frozen=True)
class Look:
    """How a question is looked at."""

    max_new_tokens: int
    causal: CausalSettings | None
    """None asks nothing again."""


def load_image(sheet: Sheet, sources: Sequence[ImageSource]) -> Image:
    """The image of a sheet. Raises DataError if it is bad, or of another size than its annotations say."""
    image = decode(sources[sheet.source].read(sheet.image))
    if sheet.objects is not None and sheet.objects.size != (image.height, image.width):
        height, width = sheet.objects.size
        raise DataError(
            f"image {sheet.image}: {image.width} x {image.height} pixels (width x height), but its annotations are of "
            f"{width} x {height}; masks are never resized: give the images that were annotated"
        )
    return image


def look(vlm: Vlm, sheet: Sheet, image: Image, how: Look) -> list[Row]:
    """The rows of an image's questions, see `record.schema`. Raises NotSupported, DataError."""
    encoded = vlm.encode([image])
    asks = [Ask(case.prompt, 0, how.max_new_tokens) for case in sheet.cases]
    replies = vlm.answer(encoded, asks)
    require_room(replies)
    alone: list[tuple[int, ...]] = [()] * len(asks)
    tokens = vlm.tokens(encoded, asks, alone)
    words = [word_tokens(t, c) for t, c in zip(tokens, sheet.cases, strict=True)]
    questions = [question_tokens(t, c) for t, c in zip(tokens, sheet.cases, strict=True)]
    wanted = [[*own[-1:], len(t) - 1] for own, t in zip(words, tokens, strict=True)]
    probes = vlm.probe(encoded, asks, alone, ProbeSpec(), wanted)
    geometry = vlm.geometry(encoded, 0)
    every = _all_objects(sheet, geometry)
    seen = [
        _Seen(case, ask, reply, probe, bool(own), None if case.mask is None else _grid(case.mask, sheet, geometry))
        for case, ask, reply, probe, own in zip(sheet.cases, asks, replies, probes, words, strict=True)
    ]
    rows = [_row(sheet.image, one, every) for one in seen]
    alike = similarities(vlm, encoded, [*asks, *asks], [*words, *questions])
    for row, word, question in zip(rows, alike[: len(asks)], alike[len(asks) :], strict=True):
        row |= {"similarity_word": word, "similarity_question": question}
    allowed = of_image(geometry.coverage())
    reasons = [why_not(one, how, allowed) for one in seen]
    subjects = {
        k: Subject(one.ask, one.mask, one.probe.attention[:, 0].mean(0), f"{sheet.sha256} {one.ask.prompt}")
        for k, (one, reason) in enumerate(zip(seen, reasons, strict=True))
        if not reason
    }
    found: list[list[Row]] = []
    if how.causal is not None and subjects:
        found = hide(vlm, encoded, image, geometry, list(subjects.values()), how.causal)
    hidings = dict(zip(subjects, found, strict=True))
    for k, row in enumerate(rows):
        row["hidings"] = hidings.get(k, [])
        row["causal"] = reasons[k] or (HIDDEN[row["label"]] if row["hidings"] else "too large")
    return rows


@dataclass(frozen=True, eq=False)
class _Seen:
    """A question, its answer, and where it looked."""

    case: Case
    ask: Ask
    reply: Reply
    probe: Probe
    """Of the object's word, if the question has it, and of the last token."""
    has_word: bool
    mask: Floats | None

    @property
    def read(self) -> Label:
        return read_yes_no(self.reply.text).label


def word_tokens(tokens: Sequence[ProbedToken], case: Case) -> list[int]:
    """The tokens of the object's name in the question; none where it does not stand there."""
    start = max(case.prompt.find(case.text), 0)
    match = re.compile(rf"(?<!\w){re.escape(case.name)}(?!\w)", re.IGNORECASE).search(case.prompt, start)
    return [] if match is None else _between(tokens, *match.span())


def question_tokens(tokens: Sequence[ProbedToken], case: Case) -> list[int]:
    """The tokens of the question itself, without what the prompt's template adds."""
    start = case.prompt.find(case.text)
    return [] if start < 0 else _between(tokens, start, start + len(case.text))


def _between(tokens: Sequence[ProbedToken], start: int, end: int) -> list[int]:
    return [i for i, t in enumerate(tokens) if t.part == "prompt" and t.start < end and start < t.end]


def _grid(counts: bytes, sheet: Sheet, geometry: Geometry) -> Floats:
    assert sheet.objects is not None
    return geometry.mask_to_grid(rle_mask(counts, sheet.objects.size))


def _all_objects(sheet: Sheet, geometry: Geometry) -> Floats | None:
    if sheet.objects is None:
        return None
    size = sheet.objects.size
    return geometry.mask_to_grid(union_of((rle_mask(m, size) for m in sheet.objects.masks.values() if m), *size))


def _row(image: str, seen: _Seen, every: Floats | None) -> Row:
    case, reply, probe, mask = seen.case, seen.reply, seen.probe, seen.mask
    coverage = probe.geometry.coverage()
    row: Row = {
        "image": image,
        "cluster": case.cluster,
        "question": case.text,
        "prompt": case.prompt,
        "ids": list(case.ids),
        "splits": list(case.splits),
        "category": case.name,
        "label": case.label,
        "annotated": every is not None,
        "answer": reply.text,
        "read": str(seen.read),
        "error": reply.error,
        "logp_yes": reply.logprobs.get("yes"),
        "logp_no": reply.logprobs.get("no"),
        "prior": case.prior,
        # Of what the model is shown of the image: a crop may cut some of it off.
        "size": None if mask is None else float(mask.sum() / coverage.sum()),
        "grid": list(coverage.shape),
        "layers": list(probe.layers),
    }
    for token, at in zip(TOKENS, (0 if seen.has_word else None, len(probe.tokens) - 1), strict=True):
        row[f"{token}_token"] = None if at is None else probe.tokens[at].text
        if at is not None:
            numbers = of_layers(probe.attention[:, at], probe.elsewhere[:, at], coverage, mask, every)
            row |= {f"{token}_{name}": values for name, values in numbers.items()}
    return row


def similarities(
    vlm: Vlm, encoded: EncodedImages, asks: Sequence[Ask], chosen: Sequence[Sequence[int]]
) -> list[float | None]:
    """Cosine of the chosen tokens' mean hidden state after the last layer with that of the image; None without tokens,
    and for models that do not offer it."""
    there = [k for k, own in enumerate(chosen) if own]
    values: list[float | None] = [None] * len(chosen)
    if not there:
        return values
    try:
        compared = vlm.similarities(encoded, [asks[k] for k in there], [chosen[k] for k in there], StateSpec())
    except NotSupported:
        return values
    for k, spaces in zip(there, compared, strict=True):
        if (hidden := spaces.get("hidden")) is not None:
            values[k] = _last_layer(hidden)
    return values


def _last_layer(compared: Compared) -> float:
    last = max(k for k, name in enumerate(compared.layers) if name.isdigit())
    return float(compared.raw[last, POOLINGS.index("mean")])


def why_not(seen: _Seen, how: Look, allowed: Cells) -> str:
    """Why the causal check says nothing of a question; nothing where it can, unless its object is too large."""
    mask = seen.mask
    reasons = {
        "not checked": how.causal is None,
        "not answered yes": seen.read is not Label.YES,
        "no mask": seen.case.label and seen.case.mask is None,
        "not in view": mask is not None and not (allowed & (mask > 0)).any(),
        "object word not found": not seen.has_word,
        "no margin": margin_of(seen.reply.logprobs) is None,
    }
    return next((reason for reason, applies in reasons.items() if applies), "")
