"""From the order of samples to batches: one process's share of every step, read and collated, in workers or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain

from torch.utils.data import DataLoader, Dataset

from agevlm.data.noise import resize_mask
from agevlm.errors import AgeVlmError, DataError
from train.data.collate import Batch, Collator
from train.data.sampler import Drawn, Order, Pool, seed_of
from train.data.samples import BadSample, Sample, Source
from train.data.skipping import Skipped, first_usable, most, qualified
from train.spec import StageSpec


def build_order(spec: StageSpec, sources: Sequence[Source]) -> Order:
    """The order of a stage's samples.

    Raises:
        DataError: a source without samples, two of one name, or not as many sources as the stage names.
    """
    if len(sources) != len(spec.sources):
        raise DataError(f"stage {spec.name} names {len(spec.sources)} sources, but {len(sources)} were given")
    if empty := [source.name for source in sources if len(source) == 0]:
        raise DataError(f"source {empty[0]} has no samples")
    names = [source.name for source in sources]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(
            f"two sources of the stage are called {twice[0]!r}, so nobody could tell their samples apart; give each a "
            "name of its own with sources.N.options.name"
        )
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


@dataclass(frozen=True, eq=False)
class Portion:
    """A micro-batch, with what became of the samples that were drawn for it."""

    batch: Batch
    drawn: tuple[Drawn, ...]
    """As the order has them; the batch has others in place of those that were skipped."""
    skipped: tuple[Skipped, ...] = ()

    def pin_memory(self) -> Portion:
        """The same in memory that a GPU reads fast; torch's loader calls it."""
        return replace(self, batch=self.batch.pin_memory())


class Feed(Dataset[Portion | AgeVlmError]):
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

    def __getitem__(self, number: int) -> Portion | AgeVlmError:
        step, micro = divmod(number, self.accumulation)
        first = (micro * self.processes + self.rank) * self.spec.micro_batch_size
        drawn = tuple(self._step(step)[first : first + self.spec.micro_batch_size])
        try:
            try:
                return self._portion(step, first, drawn, self.read)
            except BadSample:
                # It is in a batch, and cannot be trained on (too long, say): each is tried alone.
                return self._portion(step, first, drawn, self._tried)
        except AgeVlmError as error:
            return error

    def _portion(self, step: int, first: int, drawn: tuple[Drawn, ...], read: Callable[[Drawn], Sample]) -> Portion:
        samples, skipped = [], []
        for slot, one in enumerate(drawn, start=first):
            indices = self.order.following(one.source, one.index, one.guided)
            sample, bad = self._usable(one, indices, read)
            samples.append(sample)
            if bad is not None:
                name = self.sources[one.source].name
                found = Skipped(step + 1, slot, name, one.index, one.epoch, bad.id, bad.reason, str(bad), by=sample.id)
                skipped.append(found)
        return Portion(self.collator(samples, [one.guided for one in drawn]), drawn, tuple(skipped))

    def _usable(
        self, drawn: Drawn, indices: Iterable[int], read: Callable[[Drawn], Sample]
    ) -> tuple[Sample, BadSample | None]:
        source = self.sources[drawn.source]
        limit = most(self.spec.max_bad_samples, len(source))
        return first_usable(source.name, limit, indices, lambda index: read(replace(drawn, index=index)))

    def _tried(self, drawn: Drawn) -> Sample:
        sample = self.read(drawn)
        self.collator([sample], [drawn.guided])
        return sample

    def batches(self, step: int, pin: bool = False) -> Iterator[Portion | AgeVlmError]:
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
        """One sample under its qualified id, with another's regions where `Guidance.noise` wants it.

        Raises:
            BadSample: it cannot be used.
        """
        sample = self._plain(drawn)
        guidance = self.spec.guidance
        if guidance is None or not guidance.noise or not drawn.guided or not sample.phrases:
            return sample
        key = (self.spec.data_seed, "noise", drawn.source, drawn.index, drawn.epoch)
        swapped = [seed_of(*key, i) / 2**64 < guidance.noise for i in range(len(sample.phrases))]
        if not any(swapped):
            return sample
        donor = self._donor(drawn)
        if not donor.phrases:
            return sample
        phrases = [
            replace(phrase, mask=resize_mask(donor.phrases[i % len(donor.phrases)].mask, *phrase.mask.shape))
            if swap
            else phrase
            for i, (phrase, swap) in enumerate(zip(sample.phrases, swapped, strict=True))
        ]
        return replace(sample, phrases=tuple(phrases))

    def _plain(self, drawn: Drawn) -> Sample:
        source = self.sources[drawn.source]
        try:
            sample = source.read(drawn.index, drawn.epoch)
        except BadSample as bad:
            raise BadSample(str(bad), bad.reason, qualified(source.name, bad.id or str(drawn.index))) from None
        return replace(sample, id=qualified(source.name, sample.id))

    def _donor(self, drawn: Drawn) -> Sample:
        """Another sample that keeps its regions; the same one only if no other can be read."""
        other = self.order.other(drawn.source, drawn.index, drawn.epoch)
        following = self.order.following(drawn.source, other, guided=True)
        others = (index for index in following if index != drawn.index)
        donor, _ = self._usable(drawn, chain(others, [drawn.index]), self._plain)
        return donor
