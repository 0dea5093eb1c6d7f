"""Looking inside a session's model: attention of chosen tokens, and answers with some of the image hidden.

As for answers, the prompt prefix that all questions of an image share runs once. What is recorded comes from rows on
top of it, so the prefix ends before the first token that is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from agevlm.errors import DataError, NotSupported
from agevlm.vlm.contract import Ask, Probe, ProbedToken, ProbeSpec, Reply
from agevlm.vlm.hf import prompts
from agevlm.vlm.hf.attention import AttentionRows
from agevlm.vlm.hf.candidates import candidate_logprobs
from agevlm.vlm.hf.images import HfImages, Row
from agevlm.vlm.hf.layout import Layout
from agevlm.vlm.hf.packed import decode_packed, prefill_packed
from agevlm.vlm.hf.prefix import Prefix, prefill

if TYPE_CHECKING:
    from agevlm.vlm.hf.session import HfVlm

R = TypeVar("R")


@dataclass(frozen=True)
class Sequenced:
    """A prompt and its answer as token ids."""

    image: int
    ids: list[int]
    prompt: int
    """How many of them are the prompt."""
    tokens: tuple[ProbedToken, ...]
    """Those that are text."""
    places: list[int]
    """Where each of these stands in `ids`."""


def sequences(vlm: HfVlm, images: HfImages, asks: Sequence[Ask], answers: Sequence[Sequence[int]]) -> list[Sequenced]:
    """Every ask with its answer, in order. Raises DataError where one is longer than the model's context."""
    made = []
    for ask, answer in zip(asks, answers, strict=True):
        if ask.image is None:
            raise ValueError("a probe shows where the model looks: the ask must name an image")
        text, row = vlm.row(images, ask)
        ids = [*row.ids, *answer]
        if len(ids) > vlm.family.context:
            raise DataError(f"prompt and answer are {len(ids)} tokens, more than the context of {vlm.family.context}")
        placeholder = vlm.family.image_token_id
        tokens = prompts.probed_tokens(vlm.tokenizer, text, row.ids, ask.prompt, answer, placeholder)
        # An answer may hold the placeholder's token; there it stands for no image.
        places = [k for k, token in enumerate(ids) if token != placeholder or k >= len(row.ids)]
        made.append(Sequenced(ask.image, ids, len(row.ids), tokens, places))
    return made


def layout(vlm: HfVlm, images: HfImages, image: int) -> Layout:
    """Where an image's visual tokens lie. Raises NotSupported."""
    require_probes(vlm)
    features = images.features[image]
    if features is None:
        raise NotSupported(
            f"this checkpoint (type {vlm.model.config.model_type!r}) can only be asked about images as they are, with "
            "nothing kept of them, so that where its visual tokens lie is not known"
        )
    return vlm.family.layout(features, *images.sizes[image])


def require_probes(vlm: HfVlm) -> None:
    """Raise NotSupported unless the family is known well enough to be looked into."""
    if not vlm.family.probes:
        raise NotSupported(
            f"where the visual tokens of a model of type {vlm.model.config.model_type!r} lie in the image is not "
            "known, so that its attention cannot be shown"
        )


def probe(
    vlm: HfVlm,
    images: HfImages,
    asks: Sequence[Ask],
    answers: Sequence[Sequence[int]],
    spec: ProbeSpec,
    wanted: Sequence[Sequence[int]] | None,
) -> list[Probe]:
    """See `Vlm.probe`."""
    layers = _layers(vlm, spec)
    made = sequences(vlm, images, asks, answers)
    chosen = [list(range(len(one.tokens))) for one in made] if wanted is None else [list(one) for one in wanted]
    layouts = {image: layout(vlm, images, image) for image in {one.image for one in made}}
    places = [[one.places[k] for k in own] for one, own in zip(made, chosen, strict=True)]

    def run(image: int | None, prefix: Prefix, batch: Sequence[int]) -> list[torch.Tensor]:
        past = len(prefix.ids)
        suffixes = [made[i].ids[past:] for i in batch]
        columns = torch.tensor([vlm.family.columns(made[i].ids[: made[i].prompt]) for i in batch for _ in places[i]])

        def looked(*, packed: bool) -> tuple[list[torch.Tensor], torch.Tensor]:
            # In one row, suffixes stand one after another.
            starts = [packed * sum(map(len, suffixes[:n])) for n in range(len(batch))]
            rows = [n * (not packed) for n, i in enumerate(batch) for _ in places[i]]
            queries = [starts[n] + place - past for n, i in enumerate(batch) for place in places[i]]
            sought = AttentionRows(_long(rows), _long(queries), columns, layers, spec.heads)
            with vlm.family.recording(sought):
                logits = _run(vlm, images, prefix, batch, made, packed=packed)
            # (queries, layers, [heads,] visual tokens)
            return logits, torch.stack([sought.found[layer] for layer in layers], dim=1)

        packed = vlm.packs(image, prefix, suffixes)
        logits, together = looked(packed=packed)
        if packed and any(own.isnan().any() for own in logits):
            # One question's overflow spoils all of a pack.
            together = looked(packed=False)[1]
        return list(together.split([len(places[i]) for i in batch]))

    found = _over_prefixes(vlm, images, made, [min(own, default=0) for own in places], run)
    return [
        _probe_of(rows, [one.tokens[k] for k in own], layers, layouts[one.image], spec)
        for one, own, rows in zip(made, chosen, found, strict=True)
    ]


def answer_and_probe(
    vlm: HfVlm, images: HfImages, asks: Sequence[Ask], spec: ProbeSpec, wanted: Sequence[Sequence[int]]
) -> tuple[list[Reply], list[Probe | None]] | None:
    """See `Vlm.answer_and_probe`: recorded while answering, in packed rows; None where that cannot be done."""
    layers = _layers(vlm, spec)
    made = sequences(vlm, images, asks, [()] * len(asks))
    layouts = {image: layout(vlm, images, image) for image in {one.image for one in made}}
    limits = [vlm.row(images, ask)[1].limit for ask in asks]
    places = [[one.places[k] for k in own] for one, own in zip(made, wanted, strict=True)]

    def run(image: int | None, prefix: Prefix, batch: Sequence[int]) -> list[_Answered | None]:
        past = len(prefix.ids)
        suffixes = [made[i].ids[past:] for i in batch]
        most = max(limits[i] for i in batch)
        if not vlm.packs(image, prefix, suffixes, most):
            return [None] * len(batch)
        columns = vlm.family.columns(made[batch[0]].ids)
        steps: list[AttentionRows] = []
        opened: list[int] = []

        def sought(queries: Sequence[int]) -> AttentionRows:
            rows, keys = _long([0] * len(queries)), _long(columns).expand(len(queries), -1)
            steps.append(AttentionRows(rows, _long(queries), keys, layers, spec.heads))
            return steps[-1]

        def watch(open_: list[int]) -> AbstractContextManager[None]:
            opened.extend(open_)
            return vlm.family.recording(sought(range(len(open_))))

        starts = [sum(map(len, suffixes[:n])) for n in range(len(batch))]
        with vlm.family.recording(sought([starts[n] + p - past for n, i in enumerate(batch) for p in places[i]])):
            pack = prefill_packed(vlm.family, prefix, suffixes, [[len(s) - 1] for s in suffixes])
        decoded = decode_packed(vlm.family, pack, [limits[i] for i in batch], vlm.end_ids, vlm.pad_id, watch)
        vlm.language_positions += sum(map(len, suffixes)) + (decoded.positions if decoded else 0)
        if decoded is None:
            return [None] * len(batch)
        read, *first = (torch.stack([step.found[layer] for layer in layers], dim=1) for step in steps)
        said = dict(zip(opened, first[0], strict=True)) if first else {}
        parts = read.split([len(places[i]) for i in batch])
        return [
            _Answered(
                vlm.reply(decoded.first[n], decoded.answers[n], asks[i]),
                torch.cat([parts[n], said[n][None]]) if n in said else parts[n],
            )
            for n, i in enumerate(batch)
        ]

    ends = [min(own, default=len(one.ids) - 1) for own, one in zip(places, made, strict=True)]
    try:
        found = _over_prefixes(vlm, images, made, ends, run)
    except MemoryError:
        return None  # by itself each may fit, and what does not is then an answer that failed
    replies: list[Reply] = []
    probes: list[Probe | None] = []
    for one, own, answered in zip(made, wanted, found, strict=True):
        if answered is None:
            return None
        replies.append(answered.reply)
        tokens = [one.tokens[k] for k in own]
        if len(answered.rows) > len(tokens):
            tokens += prompts.answer_tokens(vlm.tokenizer, answered.reply.token_ids[:1])
        probes.append(_probe_of(answered.rows, tokens, layers, layouts[one.image], spec) if own else None)
    return replies, probes


@dataclass(frozen=True, eq=False)
class _Answered:
    """A reply, and what was recorded on the way."""

    reply: Reply
    rows: torch.Tensor
    """(queries, layers, [heads,] visual tokens)."""


def _layers(vlm: HfVlm, spec: ProbeSpec) -> list[int]:
    """The layers to record. Raises NotSupported, DataError."""
    require_probes(vlm)
    known = vlm.family.attending_layers()
    layers = known if spec.layers is None else list(spec.layers)
    if unknown := sorted(set(layers) - set(known)):
        raise DataError(f"layers {unknown} do not look at the image; those that do: {', '.join(map(str, known))}")
    return layers


def _probe_of(
    rows: torch.Tensor, tokens: Sequence[ProbedToken], layers: Sequence[int], layout: Layout, spec: ProbeSpec
) -> Probe:
    """A probe from (tokens, layers, [heads,] visual tokens)."""
    mean = rows.mean(2) if spec.heads else rows
    grid, elsewhere = layout.fold(mean.transpose(0, 1).numpy())
    heads = layout.fold(rows.permute(1, 2, 0, 3).numpy())[0] if spec.heads else None
    return Probe(tuple(tokens), tuple(layers), grid, elsewhere, layout.geometry, heads)


def knock_out(
    vlm: HfVlm, images: HfImages, asks: Sequence[Ask], hidden: Sequence[NDArray[np.bool_]]
) -> list[Mapping[str, float]]:
    """See `Vlm.knock_out`."""
    require_probes(vlm)
    made = sequences(vlm, images, asks, [()] * len(asks))
    layouts = {image: layout(vlm, images, image) for image in {one.image for one in made}}
    gone = [_hidden_tokens(layouts[one.image], cells) for one, cells in zip(made, hidden, strict=True)]

    def run(_: int | None, prefix: Prefix, batch: Sequence[int]) -> list[torch.Tensor]:
        return _run(vlm, images, prefix, batch, made, [gone[i] for i in batch])

    # All text after the image runs anew; what is before it has nothing to look at.
    logits = _over_prefixes(vlm, images, made, [vlm.family.visual_end(one.ids) for one in made], run)
    return [
        candidate_logprobs(own, vlm.candidate_ids(ask.candidates))[0] for own, ask in zip(logits, asks, strict=True)
    ]


def hidden_share(vlm: HfVlm, images: HfImages, image: int, hidden: Sequence[NDArray[np.bool_]]) -> list[float]:
    """See `Vlm.hidden_share`."""
    own = layout(vlm, images, image)
    return [float(_covered_tokens(own, cells).sum() / own.placed.sum()) for cells in hidden]


def _covered_tokens(layout: Layout, cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    geometry = layout.geometry
    if cells.shape != (geometry.rows, geometry.columns):
        raise DataError(f"cells of shape {cells.shape} for a grid of {geometry.rows} rows x {geometry.columns} columns")
    return layout.tokens_of(cells)


def _hidden_tokens(layout: Layout, cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    gone = _covered_tokens(layout, cells)
    if gone.all() or cells.all():
        raise DataError("all of the image would be hidden; to ask without an image, leave it out")
    return gone


def _over_prefixes(
    vlm: HfVlm,
    images: HfImages,
    made: Sequence[Sequenced],
    ends: Sequence[int],
    run: Callable[[int | None, Prefix, Sequence[int]], list[R]],
) -> list[R]:
    """Run rows whose shared prefix may hold no more than so many of each one's first tokens."""
    # A prefix holds the whole image or is not there: nothing on top of it could bring the rest.
    ends = [end if end >= vlm.family.visual_end(one.ids) else 0 for one, end in zip(made, ends, strict=True)]
    rows = [Row(one.image, one.ids[: end + 1], one.ids[end + 1 :]) for one, end in zip(made, ends, strict=True)]

    def failed(_: int, message: str) -> R:
        raise MemoryError(message)

    return vlm.over_images(images, rows, run, failed)


def _run(
    vlm: HfVlm,
    images: HfImages,
    prefix: Prefix,
    batch: Sequence[int],
    made: Sequence[Sequenced],
    hidden: Sequence[NDArray[np.bool_]] | None = None,
    *,
    packed: bool = False,
) -> list[torch.Tensor]:
    """The logits (1, vocabulary) behind each prompt, after its row ran on top of a prefix."""
    past = len(prefix.ids)
    suffixes = [made[i].ids[past:] for i in batch]
    wanted = [[made[i].prompt - 1 - past] for i in batch]
    if packed:
        vlm.language_positions += sum(map(len, suffixes))
        return prefill_packed(vlm.family, prefix, suffixes, wanted).logits
    features = None if past else images.features[made[batch[0]].image]
    vlm.language_positions += len(suffixes) * max(map(len, suffixes))
    return prefill(vlm.family, prefix, suffixes, wanted, features, vlm.pad_id, hidden).logits


def _long(values: Sequence[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.long)
