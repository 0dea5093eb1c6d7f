"""Looking inside a session's model: attention of chosen tokens, and answers with some of the image hidden.

As for answers, the prompt prefix that all questions of an image share runs once. What is recorded comes from rows on
top of it, so the prefix ends before the first token that is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from agevlm.errors import DataError, NotSupported
from agevlm.vlm.contract import Ask, Probe, ProbedToken, ProbeSpec
from agevlm.vlm.hf import prompts
from agevlm.vlm.hf.attention import AttentionRows
from agevlm.vlm.hf.candidates import candidate_logprobs
from agevlm.vlm.hf.images import HfImages, Row
from agevlm.vlm.hf.layout import Layout
from agevlm.vlm.hf.prefix import Prefix, prefill

if TYPE_CHECKING:
    from agevlm.vlm.hf.session import HfVlm


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
    require_probes(vlm)
    known = vlm.family.attending_layers()
    layers = known if spec.layers is None else list(spec.layers)
    if unknown := sorted(set(layers) - set(known)):
        raise DataError(f"layers {unknown} do not look at the image; those that do: {', '.join(map(str, known))}")
    made = sequences(vlm, images, asks, answers)
    chosen = [list(range(len(one.tokens))) for one in made] if wanted is None else [list(one) for one in wanted]
    layouts = {image: layout(vlm, images, image) for image in {one.image for one in made}}
    places = [[one.places[k] for k in own] for one, own in zip(made, chosen, strict=True)]

    def run(_: int | None, prefix: Prefix, batch: Sequence[int]) -> list[torch.Tensor]:
        past = len(prefix.ids)
        columns = torch.tensor([vlm.family.columns(made[i].ids[: made[i].prompt]) for i in batch for _ in places[i]])
        rows = torch.tensor([n for n, i in enumerate(batch) for _ in places[i]], dtype=torch.long)
        queries = torch.tensor([place - past for i in batch for place in places[i]], dtype=torch.long)
        sought = AttentionRows(rows, queries, columns, layers, spec.heads)
        with vlm.family.recording(sought):
            _run(vlm, images, prefix, batch, made)
        # (queries, layers, [heads,] visual tokens)
        together = torch.stack([sought.found[layer] for layer in layers], dim=1)
        return list(together.split([len(places[i]) for i in batch]))

    found = _over_prefixes(vlm, images, made, [min(own, default=0) for own in places], run)
    probes = []
    for one, own, rows in zip(made, chosen, found, strict=True):
        own_layout = layouts[one.image]
        mean = rows.mean(2) if spec.heads else rows
        grid, elsewhere = own_layout.fold(mean.transpose(0, 1).numpy())
        heads = own_layout.fold(rows.permute(1, 2, 0, 3).numpy())[0] if spec.heads else None
        tokens = tuple(one.tokens[k] for k in own)
        probes.append(Probe(tokens, tuple(layers), grid, elsewhere, own_layout.geometry, heads))
    return probes


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
    vlm: HfVlm, images: HfImages, made: Sequence[Sequenced], ends: Sequence[int], run: Any
) -> list[torch.Tensor]:
    """Run rows whose shared prefix may hold no more than so many of each one's first tokens."""
    # A prefix holds the whole image or is not there: nothing on top of it could bring the rest.
    ends = [end if end >= vlm.family.visual_end(one.ids) else 0 for one, end in zip(made, ends, strict=True)]
    rows = [Row(one.image, one.ids[: end + 1], one.ids[end + 1 :]) for one, end in zip(made, ends, strict=True)]

    def failed(_: int, message: str) -> torch.Tensor:
        raise MemoryError(message)

    with_rows: list[torch.Tensor] = vlm.over_images(images, rows, run, failed)
    return with_rows


def _run(
    vlm: HfVlm,
    images: HfImages,
    prefix: Prefix,
    batch: Sequence[int],
    made: Sequence[Sequenced],
    hidden: Sequence[NDArray[np.bool_]] | None = None,
) -> list[torch.Tensor]:
    """The logits (1, vocabulary) behind each prompt, after its row ran on top of a prefix."""
    past = len(prefix.ids)
    suffixes = [made[i].ids[past:] for i in batch]
    wanted = [[made[i].prompt - 1 - past] for i in batch]
    features = None if past else images.features[made[batch[0]].image]
    vlm.language_positions += len(suffixes) * max(map(len, suffixes))
    return prefill(vlm.family, prefix, suffixes, wanted, features, vlm.pad_id, hidden).logits
