"""Samples to the tensors of one forward pass: tokens, labels, images, and where to look from which token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agevlm.errors import DataError
from train.data.conversation import Rendered, render
from train.data.samples import Sample
from train.spec import Guidance

IGNORED = -100
"""Label of a token that is not to be predicted."""
UNSEEN = 1e-3
"""Regions that cover less than this many cells altogether are dropped: cropped away, or smaller than a speck."""
PAPER_THRESHOLD = 0.5
"""Coverage above which a cell is 1 in the paper's 0/1 masks, where no threshold is set."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One forward pass: R rows of length L, N visual tokens, P places that are taught where to look."""

    ids: tuple[str, ...]
    """Of the samples."""
    input_ids: torch.Tensor
    """(R, L) long, padded on the right."""
    attention_mask: torch.Tensor
    """(R, L) long."""
    labels: torch.Tensor
    """(R, L) long: what the assistant says, -100 elsewhere."""
    pixel_values: torch.Tensor
    """(R, 3, side, side) float32; zeros for rows without an image."""
    image_mask: torch.Tensor
    """(R,) bool: rows that have an image."""
    vision_token_mask: torch.Tensor
    """(R, N) bool: cells that hold any image; all True for rows without one."""
    rows: torch.Tensor
    """(P,) long, ascending: row of each place."""
    positions: torch.Tensor
    """(P,) long: its token."""
    coverage: torch.Tensor
    """(P, N) float32: share of each cell that the region covers; never all 0."""
    shares: torch.Tensor
    """(P,) float32: how much of a phrase the place stands for; sums to the number of phrases."""
    dropped: int = 0
    """Phrases whose region no cell sees."""

    @property
    def tokens(self) -> int:
        """Tokens to be predicted."""
        return int((self.labels[:, 1:] != IGNORED).sum())

    @property
    def phrases(self) -> float:
        """Phrases that are taught where to look."""
        return float(self.shares.sum())

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The batch in memory that a GPU reads fast; torch's loader calls it."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Any) -> Batch:
        tensors = {name: change(value) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **tensors)


class Collator:
    """Makes batches with a checkpoint's processor.

    Args:
        processor: an `AgeVlmProcessor` with a fast tokenizer.
        guidance: which tokens are taught; None for none.
        max_length: tokens of a row, visual tokens in the text included; longer samples are bad ones, never cut.
    """

    def __init__(self, processor: Any, guidance: Guidance | None, max_length: int) -> None:
        if not getattr(processor.tokenizer, "is_fast", False):
            raise DataError("the tokenizer gives no offsets: training needs the fast one (tokenizer.json)")
        self.processor, self.guidance, self.max_length = processor, guidance, max_length
        pad = processor.tokenizer.pad_token_id
        self.pad = 0 if pad is None else int(pad)

    def __call__(self, samples: Sequence[Sample], guided: Sequence[bool]) -> Batch:
        """One batch.

        Args:
            samples: its rows.
            guided: which of them teach where to look; phrases of the others are ignored.

        Raises:
            BadSample: one without anything for the assistant to say, or that is longer than `max_length`, or whose
                phrases, image or messages are unusable. That depends on the sample alone, not on the others.
            DataError: the chat template cannot be used.
        """
        for sample in samples:
            self._check_image(sample)
        wanted = [
            flag and self.guidance is not None and bool(s.phrases) for s, flag in zip(samples, guided, strict=True)
        ]
        rendered = render(self.processor, samples, wanted)
        images = [sample.image for sample in samples if sample.image is not None]
        encoded = self.processor(
            images=images or None,
            text=[r.text for r in rendered],
            return_offsets_mapping=True,
            padding=False,
            return_tensors=None,
        )
        spans = [np.asarray(offsets, np.int64).reshape(-1, 2) for offsets in encoded["offset_mapping"]]
        ids = [np.asarray(row, np.int64) for row in encoded["input_ids"]]
        labels = [self._labels(*row) for row in zip(samples, rendered, ids, spans, strict=True)]
        places = _Places(self.processor, self.guidance)
        for row, flag in enumerate(wanted):
            if flag:
                places.add(row, samples[row], rendered[row], spans[row])
        return Batch(
            ids=tuple(sample.id for sample in samples),
            input_ids=_padded(ids, self.pad),
            attention_mask=_padded([np.ones_like(row) for row in ids], 0),
            labels=_padded(labels, IGNORED),
            **self._images(samples, encoded),
            **places.tensors(),
        )

    def _check_image(self, sample: Sample) -> None:
        try:
            if sample.image is not None:
                self.processor.image_processor.geometry(*sample.image.size)
        except DataError as error:
            raise sample.bad(str(error), "image") from None

    def _labels(self, sample: Sample, rendered: Rendered, ids: NDArray[Any], spans: NDArray[Any]) -> NDArray[Any]:
        if len(ids) > self.max_length:
            raise sample.bad(
                f"{len(ids)} tokens are more than max_length {self.max_length}; raise it, or shorten or leave out the "
                "sample",
                "length",
            )
        said = np.zeros(len(ids), bool)
        for start, end in rendered.answers:
            said[tokens_of(spans, start, end)] = True
        # Nothing comes before the first token that could predict it.
        if not said[1:].any():
            raise sample.bad("there is nothing for the assistant to say, so nothing to learn", "silent")
        return np.where(said, ids, IGNORED)

    def _images(self, samples: Sequence[Sample], encoded: Any) -> dict[str, Any]:
        side, cells = self.processor.image_processor.image_size, self.processor.visual_tokens
        has = torch.tensor([sample.image is not None for sample in samples])
        names = ("pixel_values", "vision_token_mask") if has.any() else ()
        given = [torch.from_numpy(np.asarray(encoded[name])) for name in names]
        if not has.all():
            spread = [torch.zeros(len(samples), 3, side, side), torch.ones(len(samples), cells, dtype=torch.bool)]
            for rows, own in zip(spread, given, strict=False):
                rows[has] = own
            given = spread
        return {"pixel_values": given[0], "image_mask": has, "vision_token_mask": given[1]}


class _Places:
    """Gathers the places of one batch that are taught where to look."""

    def __init__(self, processor: Any, guidance: Guidance | None) -> None:
        self.images = processor.image_processor
        self.cells: int = processor.visual_tokens
        self.guidance = guidance or Guidance()
        self.threshold = self.guidance.threshold
        if self.threshold is None and self.guidance.form == "literal":
            self.threshold = PAPER_THRESHOLD
        self.found: list[tuple[int, int, float, NDArray[Any]]] = []
        self.dropped = 0

    def add(self, row: int, sample: Sample, rendered: Rendered, spans: NDArray[Any]) -> None:
        """The places of one sample."""
        if sample.image is None:
            raise sample.bad("phrases with regions, but no image", "region")
        geometry = self.images.geometry(*sample.image.size)
        named: dict[int, list[tuple[NDArray[np.bool_], NDArray[Any]]]] = {}
        for phrase, (start, end) in zip(sample.phrases, rendered.phrases, strict=True):
            try:
                coverage = geometry.mask_to_grid(phrase.mask).ravel()
            except DataError as error:
                raise sample.bad(str(error), "region") from None
            if coverage.sum() < UNSEEN:
                self.dropped += 1
                continue
            tokens = tokens_of(spans, start, end)
            tokens = {"first": tokens[:1], "last": tokens[-1:], "all": tokens}[self.guidance.tokens]
            self._found(row, tokens, coverage)
            named.setdefault(phrase.message, []).append((phrase.mask, coverage))
        for message, regions in named.items() if self.guidance.answers else ():
            if (answer := rendered.answer_of.get(message + 1)) is None:
                continue
            masks, coverages = zip(*regions, strict=True)
            one = len(masks) == 1
            coverage = coverages[0] if one else geometry.mask_to_grid(np.logical_or.reduce(masks)).ravel()
            self._found(row, tokens_of(spans, *rendered.answers[answer])[:1] - 1, coverage)

    def _found(self, row: int, tokens: NDArray[Any], coverage: NDArray[Any]) -> None:
        if self.threshold is not None:
            above = coverage > self.threshold
            coverage = above if above.any() else coverage >= coverage.max()
        self.found += [(row, int(token), 1 / len(tokens), coverage) for token in tokens]

    def tensors(self) -> dict[str, Any]:
        """The last fields of a `Batch`."""
        coverage = torch.zeros(len(self.found), self.cells)
        if self.found:
            coverage = torch.from_numpy(np.stack([c for *_, c in self.found]).astype(np.float32))
        return {
            "rows": torch.tensor([row for row, *_ in self.found], dtype=torch.long),
            "positions": torch.tensor([token for _, token, *_ in self.found], dtype=torch.long),
            "shares": torch.tensor([share for _, _, share, _ in self.found], dtype=torch.float32),
            "coverage": coverage,
            "dropped": self.dropped,
        }


def tokens_of(spans: NDArray[Any], start: int, end: int) -> NDArray[Any]:
    """Which tokens hold any of the characters from `start` up to `end`.

    A token may begin with the blank before a word; tokens that stand for no character are never among them.

    Args:
        spans: (tokens, 2) first character and the one behind the last.
        start: first character.
        end: behind the last.
    """
    # Neither starts nor ends ever decrease (see `AgeVlmProcessor`).
    first, last = spans[:, 1].searchsorted(start, side="right"), spans[:, 0].searchsorted(end, side="left")
    found = np.arange(first, last)
    return found[spans[first:last, 1] > spans[first:last, 0]]


def _padded(rows: Sequence[NDArray[Any]], filler: int) -> torch.Tensor:
    padded = np.full((len(rows), max(map(len, rows))), filler, np.int64)
    for row, values in enumerate(rows):
        padded[row, : len(values)] = values
    return torch.from_numpy(padded)
