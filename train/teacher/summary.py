"""What is in a folder of regions, and what it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from train.data.region_table import Manifest, part_path, read_facts

PAPER_IMAGES = (77_000, 2_500_000)
"""Images with regions in the paper's stage 3, and all of its alignment data."""


DISTINCT = 1_000_000
"""Different phrases that are counted one by one; beyond, those met once so far are forgotten from time to time."""


@dataclass(frozen=True)
class Summary:
    """Counts over all parts that are there."""

    parts: int
    parts_in_all: int
    images: int
    phrases: int
    with_region: int
    """Phrases that have one."""
    samples: int
    """That have any."""
    dropped: Mapping[str, int]
    """Phrases by why some or all of their regions are left out, the most frequent first."""
    unfound: int
    """Phrases for which nothing was found at all."""
    frequent: Mapping[str, tuple[int, int]]
    """The most frequent phrases: (asked, with a region). Of millions of different ones, nearly (see `DISTINCT`)."""
    unread: int
    """Samples that could not be read."""
    seconds: Mapping[str, float]
    """Of all parts: waiting for images, finding regions, encoding them."""

    @property
    def complete(self) -> bool:
        """Whether all parts are there."""
        return self.parts == self.parts_in_all

    @property
    def seconds_per_image(self) -> float | None:
        """Of one process; None without images."""
        return sum(self.seconds.values()) / self.images if self.images else None


def summarise(folder: Path, manifest: Manifest) -> Summary:
    """Count what is there. Raises DataError if a part cannot be read."""
    dropped: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    having: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    parts = images = phrases = with_region = unfound = unread = samples = 0
    for part in range(manifest.parts):
        path = part_path(folder, part)
        if not path.is_file():
            continue
        facts = read_facts(folder, part)
        parts, images, unread = parts + 1, images + facts.images, unread + len(facts.unread)
        seconds.update(facts.seconds)
        table = pq.read_table(path, columns=["sample", "phrase", "kept", "dropped"]).to_pydict()
        # Parts have no sample in common.
        samples += len({sample for sample, kept in zip(table["sample"], table["kept"], strict=True) if kept})
        for phrase, kept, why in zip(table["phrase"], table["kept"], table["dropped"], strict=True):
            word = phrase.lower()
            phrases, asked[word] = phrases + 1, asked[word] + 1
            if kept:
                with_region, having[word] = with_region + 1, having[word] + 1
            if why:
                dropped[why] += 1
            elif not kept:
                unfound += 1
        if len(asked) > DISTINCT:
            asked = Counter({word: count for word, count in asked.items() if count > 1})
            having = Counter({word: having[word] for word in asked})
    return Summary(
        parts=parts,
        parts_in_all=manifest.parts,
        images=images,
        phrases=phrases,
        with_region=with_region,
        samples=samples,
        dropped=dict(dropped.most_common()),
        unfound=unfound,
        frequent={word: (count, having[word]) for word, count in asked.most_common(10)},
        unread=unread,
        seconds=dict(seconds),
    )
