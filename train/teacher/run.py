"""Regions for a whole source, part by part: what is done is on the disk, and is not done again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agevlm.data.masks import decode_mask, encode_mask
from agevlm.data.noise import Noise, distort
from agevlm.errors import AgeVlmError, DataError, TrainError
from train.data.region_table import (
    OWN,
    SPAN,
    Manifest,
    PartFacts,
    part_path,
    read_facts,
    read_manifest,
    write_manifest,
    write_part,
)
from train.data.sampler import permute
from train.data.samples import BadSample, Sample, Source, Words
from train.teacher.gates import Gates, is_stopped, sort_out, without_articles
from train.teacher.phrases import PhraseFinder
from train.teacher.producer import Found, MaskProducer, Picture

UNREAD_GRACE = 20
"""So many samples may be unreadable before their share counts, unless none may be."""


@dataclass(frozen=True)
class MaskSettings:
    """How regions are made of a source."""

    finder: PhraseFinder
    producer: MaskProducer | None
    """None: the regions that the source itself knows."""
    gates: Gates
    noise: Noise | None = None
    share: float = 1.0
    """Of the samples."""
    seed: int = 0
    """Of the choice of samples, and of the noise."""
    batch_images: int = 8
    """Images that a producer is given at once."""
    readers: int = 4
    """Threads that read images ahead."""
    most_unread: float = 0.01
    """Share of samples that may be unreadable."""
    span: int = SPAN
    """Samples of a part."""

    def manifest(self, source: Source) -> Manifest:
        """What a folder made with these settings is of."""
        return Manifest(
            source=source.name,
            data=source.fingerprint,
            samples=len(source),
            chosen=chosen_count(len(source), self.share),
            share=self.share,
            seed=self.seed,
            producer=self.version,
            phrases=self.finder.version,
            gates=asdict(self.gates),
            noise="" if self.noise is None else str(self.noise),
            span=self.span,
        )

    @property
    def version(self) -> str:
        """Of what finds the regions."""
        return OWN if self.producer is None else self.producer.version


def chosen_count(count: int, share: float) -> int:
    """How many samples a teacher looks at.

    Raises:
        DataError: a share outside of (0, 1].
    """
    if not 0 < share <= 1:
        raise DataError(f"a share of {share:g} of the samples: give one above 0 and up to 1")
    return max(1, round(count * share))


def chosen_samples(count: int, share: float, seed: int) -> NDArray[np.int64]:
    """Which samples a teacher looks at: a share of all, drawn by a seed; ascending. Raises DataError."""
    chosen = np.arange(chosen_count(count, share))
    return chosen if share == 1 else np.sort(permute(chosen, count, seed))


@dataclass
class Work:
    """What one call of `make_masks` did."""

    parts: int = 0
    images: int = 0
    samples: int = 0
    seconds: float = 0.0
    """By the clock."""
    unread: list[Mapping[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Ask:
    """A phrase of a sample."""

    index: int
    sample: Sample
    words: Words
    phrase: str


@dataclass(frozen=True, eq=False)
class _Shown:
    """An image with all that is asked about it."""

    key: str
    sample: Sample
    """One of those that show it."""
    asks: list[_Ask]


def make_masks(
    source: Source,
    settings: MaskSettings,
    out: Path,
    *,
    rank: int = 0,
    ranks: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Work:
    """Make all parts that are this rank's and not there yet.

    Processes need not know of each other: part p is rank p % ranks' to make, and a part is there whole or not at all.

    Args:
        source: of the samples.
        settings: how.
        out: folder; see `train.data.region_table`.
        rank: of this process.
        ranks: how many there are.
        progress: called with (parts done by this call, parts that were to do).

    Raises:
        TrainError: the folder holds regions made of other data or with other settings.
        DataError: too many samples cannot be read.
        OSError: no room; parts that are done stay.
    """
    manifest = settings.manifest(source)
    _claim(out, manifest)
    own = range(rank, manifest.parts, ranks)
    before = {part for part in own if part_path(out, part).is_file()}
    todo = [part for part in own if part not in before]
    chosen = chosen_samples(len(source), settings.share, settings.seed)
    work, begun = Work(), time.perf_counter()
    met = sum(len(read_facts(out, part).unread) for part in before), len(before) * settings.span
    with ThreadPoolExecutor(max(1, settings.readers)) as readers:
        for done, part in enumerate(todo):
            indices = chosen[part * settings.span : (part + 1) * settings.span]
            rows, facts = _Part(source, settings, readers).make(indices)
            work.unread += facts.unread
            work.samples += len(indices)
            _check_unread(work, settings.most_unread, *met)
            write_part(out, part, rows, facts)
            work.parts += 1
            work.images += facts.images
            work.seconds = time.perf_counter() - begun
            if progress is not None:
                progress(done + 1, len(todo))
    return work


def _claim(out: Path, manifest: Manifest) -> None:
    before = read_manifest(out)
    if before is None:
        write_manifest(out, manifest)
        return
    then, now = asdict(before), asdict(manifest)
    if differing := [f"{name} was {then[name]!r}, is {now[name]!r}" for name in now if then[name] != now[name]]:
        raise TrainError(f"{out}: holds regions that were made otherwise: {'; '.join(differing)}; give another --out")


def _check_unread(work: Work, most: float, unread: int, samples: int) -> None:
    """Raise DataError if too many are unreadable, `unread` of `samples` before this call among them."""
    count, of = unread + len(work.unread), samples + work.samples
    if work.unread and (count > (max(UNREAD_GRACE, most * of) if most else 0) or count == of >= UNREAD_GRACE):
        told = "; ".join(f"{one['id']}: {one['reason']}" for one in work.unread[:3])
        raise DataError(
            f"{count} of {of} samples cannot be read, more than the {most:.1%} allowed (--max-unread): {told}"
        )


class _Part:
    """One part in the making."""

    def __init__(self, source: Source, settings: MaskSettings, readers: ThreadPoolExecutor) -> None:
        self.source, self.settings, self.readers = source, settings, readers
        self.rows: list[dict[str, Any]] = []
        self.unread: list[dict[str, Any]] = []
        self.images: set[str] = set()
        self.seconds = dict.fromkeys(("read", "find", "encode"), 0.0)

    def make(self, indices: NDArray[np.int64]) -> tuple[list[dict[str, Any]], PartFacts]:
        """Rows and facts of these samples."""
        waiting: dict[str, _Shown] = {}
        for index, sample in self._samples(indices):
            asks = self._asks(index, sample)
            if not asks:
                continue
            key = sample.image_sha256 or sample.image_name or sample.id
            if key not in waiting and len(waiting) == self.settings.batch_images:
                self._find(list(waiting.values()))
                waiting = {}
            waiting.setdefault(key, _Shown(key, sample, [])).asks.extend(asks)
        self._find(list(waiting.values()))
        self.rows.sort(key=lambda row: (row["sample"], row["message"], row["start"]))
        if self.settings.noise is not None:
            self.rows = _noisy(self.rows, self.settings.noise, self.settings.seed)
        return self.rows, PartFacts(len(self.images), self.seconds, self.unread)

    def _samples(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, Sample]]:
        """Samples in their order, read ahead by threads."""
        ahead: deque[tuple[int, Future[Sample]]] = deque()
        left = iter(indices.tolist())
        depth = 2 * max(1, self.settings.readers)
        while True:
            for index in left:
                ahead.append((index, self.readers.submit(self.source.read, index, 0)))
                if len(ahead) >= depth:
                    break
            if not ahead:
                return
            index, future = ahead.popleft()
            begun = time.perf_counter()
            try:
                sample = future.result()
            except BadSample as bad:
                self.unread.append({"index": index, "id": bad.id or str(index), "reason": str(bad)})
                continue
            finally:
                self.seconds["read"] += time.perf_counter() - begun
            yield index, sample

    def _asks(self, index: int, sample: Sample) -> list[_Ask]:
        if sample.image is None:
            return []
        found = []
        for words in self.settings.finder.find(sample):
            phrase = sample.messages[words.message].text[words.start : words.end]
            if not is_stopped(phrase):
                found.append(_Ask(index, sample, words, phrase))
        return found

    def _find(self, shown: Sequence[_Shown]) -> None:
        if not shown:
            return
        begun = time.perf_counter()
        found = self._regions(shown)
        self.seconds["find"] += time.perf_counter() - begun
        begun = time.perf_counter()
        for one, regions in found:
            self.images.add(one.key)
            self.rows += [_row(ask, f, self.settings) for ask, f in zip(one.asks, regions, strict=True)]
        self.seconds["encode"] += time.perf_counter() - begun

    def _regions(self, shown: Sequence[_Shown]) -> list[tuple[_Shown, list[list[Found]]]]:
        """Images with the regions of what is asked about them; those that the producer cannot take are left out."""
        if self.settings.producer is None:
            return list(zip(shown, _known(shown), strict=True))
        try:
            return list(zip(shown, _produced(shown, self.settings.producer), strict=True))
        except BadSample as bad:
            reason = str(bad)
        except AgeVlmError:
            raise
        except Exception as error:
            # Some image that a model's code or the memory cannot take; if it is all of them, too many are unread.
            first = next(iter(str(error).splitlines()), "")
            reason = f"image {shown[0].sample.image_name or shown[0].key}: {type(error).__name__}: {first}"
        if len(shown) > 1:
            return [pair for one in shown for pair in self._regions([one])]
        samples = {ask.index: ask.sample.id for ask in shown[0].asks}
        self.unread += [{"index": index, "id": id, "reason": reason} for index, id in samples.items()]
        return []


def _produced(shown: Sequence[_Shown], producer: MaskProducer) -> list[list[list[Found]]]:
    """Regions of every ask of every image; what is asked twice of an image, in whatever case, is looked for once."""
    phrases = [tuple(dict.fromkeys(without_articles(ask.phrase).lower() for ask in one.asks)) for one in shown]
    pictures = [
        Picture(one.sample.image_name or one.sample.id, one.sample.image, asked)
        for one, asked in zip(shown, phrases, strict=True)
    ]
    made = []
    for one, asked, found in zip(shown, phrases, producer.produce(pictures), strict=True):
        by_phrase = dict(zip(asked, found, strict=True))
        made.append([by_phrase[without_articles(ask.phrase).lower()] for ask in one.asks])
    return made


def _known(shown: Sequence[_Shown]) -> list[list[list[Found]]]:
    """Regions that the samples bring themselves; none for words without one."""
    made = []
    for one in shown:
        samples = {id(ask.sample): ask.sample for ask in one.asks}
        own = {
            (key, p.message, p.start, p.end): Found.of(p.mask)
            for key, sample in samples.items()
            for p in sample.phrases
        }
        keys = [(id(ask.sample), ask.words.message, ask.words.start, ask.words.end) for ask in one.asks]
        made.append([[own[key]] if key in own else [] for key in keys])
    return made


def _row(ask: _Ask, found: Sequence[Found], settings: MaskSettings) -> dict[str, Any]:
    regions, kept, dropped = sort_out(found, settings.gates)
    sample, image = ask.sample, ask.sample.image
    return {
        "sample": ask.index,
        "sample_id": sample.id,
        "image": sample.image_name,
        "image_sha256": sample.image_sha256,
        "height": image.height,
        "width": image.width,
        "message": ask.words.message,
        "start": ask.words.start,
        "end": ask.words.end,
        "phrase": ask.phrase,
        "boxes": [list(one.box) for one in regions],
        "masks": [one.counts for one in regions],
        "scores": [one.score for one in regions],
        "predicted_iou": [one.predicted_iou for one in regions],
        "stability": [one.stability for one in regions],
        "kept": kept,
        "dropped": dropped,
        "producer": settings.version,
    }


PER_REGION = ("boxes", "masks", "scores", "predicted_iou", "stability")


def _noisy(rows: Sequence[Mapping[str, Any]], noise: Noise, seed: int) -> list[dict[str, Any]]:
    """Rows whose used regions have noise; swapped ones come from another image of the part."""
    used = [(_image(row), row) for row in rows if row["kept"]] if noise.kind == "swap" else []
    others_of = {key: [row for other, row in used if other != key] for key in {key for key, _ in used}}
    made = []
    for row in rows:
        draw = Random(f"noise/{seed}/{row['sample']}/{row['message']}/{row['start']}")
        others = others_of.get(_image(row), [])
        changed: list[tuple[int, bytes]] = []
        for place in range(row["kept"]):
            donor = None
            if noise.kind == "swap" and others:
                donor = _mask(other := draw.choice(others), draw.randrange(other["kept"]))
            mask = distort(_mask(row, place), noise, draw, donor)
            if mask is not None and mask.any():
                changed.append((place, encode_mask(mask)))
        gone = row["kept"] - len(changed)
        order = [place for place, _ in changed] + list(range(row["kept"], len(row["masks"])))
        new = {name: [row[name][place] for place in order] for name in PER_REGION}
        new["masks"] = [counts for _, counts in changed] + list(row["masks"][row["kept"] :])
        made.append({**row, **new, "kept": len(changed), "dropped": "noise" if gone else row["dropped"]})
    return made


def _image(row: Mapping[str, Any]) -> str:
    """What tells images apart."""
    return str(row["image_sha256"] or row["image"] or row["sample_id"])


def _mask(row: Mapping[str, Any], place: int) -> NDArray[np.bool_]:
    size = row["height"], row["width"]
    return decode_mask({"size": size, "counts": row["masks"][place]}, *size)
