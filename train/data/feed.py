"""From the order of samples to batches: one process's share of every step, read and collated, in workers or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from agevlm.errors import AgeVlmError, DataError
from train.data.collate import Batch, Collator
from train.data.sampler import Drawn, Order, Pool, seed_of
from train.data.samples import Phrase, Sample, Source
from train.spec import StageSpec


def build_order(spec: StageSpec, sources: Sequence[Source]) -> Order:
    """The order of a stage's samples.

    Raises:
        DataError: a source without samples, or not as many sources as the stage names.
    """
    if len(sources) != len(spec.sources):
        raise DataError(f"stage {spec.name} names {len(spec.sources)} sources, but {len(sources)} were given")
    if empty := [source.name for source in sources if len(source) == 0]:
        raise DataError(f"source {empty[0]} has no samples")
    return Order(
        [
            Pool(source.name, len(source), settings.weight, source.guided)
            for source, settings in zip(sources, spec.sources, strict=True)
        ],
        spec.batch_size,
        spec.data_seed,
        share=spec.regions.share,
        batch_share=spec.regions.batch_share,
    )


class Feed(Dataset[Batch | AgeVlmError]):
    """Micro-batches of one process: number n is micro-batch n % accumulation of step n // accumulation.

    What goes wrong with the data comes back as a value, so that all processes can stop together.

    Args:
        spec: of the stage.
        sources: as the spec names them.
        collator: makes the batches.
        rank: of this process.
        processes: how many there are.
    """

    def __init__(
        self, spec: StageSpec, sources: Sequence[Source], collator: Collator, rank: int = 0, processes: int = 1
    ) -> None:
        self.spec, self.sources, self.collator = spec, sources, collator
        self.rank, self.processes = rank, processes
        self.accumulation = spec.batch_size // (spec.micro_batch_size * processes)
        self.order = build_order(spec, sources)
        self._step = lru_cache(maxsize=2)(self.order.step)

    def __getitem__(self, number: int) -> Batch | AgeVlmError:
        step, micro = divmod(number, self.accumulation)
        first = (micro * self.processes + self.rank) * self.spec.micro_batch_size
        drawn = self._step(step)[first : first + self.spec.micro_batch_size]
        try:
            return self.collator([self.read(one) for one in drawn], [one.guided for one in drawn])
        except AgeVlmError as error:
            return error

    def batches(self, step: int, pin: bool = False) -> Iterator[Batch | AgeVlmError]:
        """Micro-batches from step `step` up to the stage's end, read ahead by the stage's workers.

        `pin` puts them into memory that a GPU reads fast.
        """
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=range(step * self.accumulation, self.spec.steps * self.accumulation),
            num_workers=self.spec.workers,
            prefetch_factor=4 if self.spec.workers else None,
            pin_memory=pin,
        )
        return iter(loader)

    def read(self, drawn: Drawn) -> Sample:
        """One sample, with another's regions where `Guidance.noise` wants it."""
        sample = self.sources[drawn.source].read(drawn.index, drawn.epoch)
        guidance = self.spec.guidance
        if guidance is None or not guidance.noise or not drawn.guided or not sample.phrases:
            return sample
        key = (self.spec.data_seed, "noise", drawn.source, drawn.index, drawn.epoch)
        swapped = [seed_of(*key, i) / 2**64 < guidance.noise for i in range(len(sample.phrases))]
        if not any(swapped):
            return sample
        donor = self.sources[drawn.source].read(self.order.other(drawn.source, drawn.index, drawn.epoch), drawn.epoch)
        if not donor.phrases:
            return sample
        phrases = [
            replace(phrase, mask=_resized(donor.phrases[i % len(donor.phrases)], phrase.mask.shape)) if swap else phrase
            for i, (phrase, swap) in enumerate(zip(sample.phrases, swapped, strict=True))
        ]
        return replace(sample, phrases=tuple(phrases))


def _resized(phrase: Phrase, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A region at the same place, relative to another image's sides; nearest pixels."""
    rows, columns = ((np.arange(new) * old // new) for new, old in zip(shape, phrase.mask.shape, strict=True))
    resized: NDArray[np.bool_] = phrase.mask[np.ix_(rows, columns)]
    return resized
