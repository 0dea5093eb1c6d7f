"""Any source with the regions that a teacher found for its phrases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agevlm.data.masks import Mask, decode_mask, union_of
from agevlm.errors import DataError
from train.data.region_table import OWN, RegionTable
from train.data.samples import BadSample, Phrase, Sample, Source


class MaskedSource:
    """A source whose samples come with the regions in a folder that `agevlm-train masks` wrote.

    Where the source itself knows the region of the same words, its own stays; but a folder of the source's own regions
    (with noise, or a share of them) takes the place of all of them. Texts are those of epoch 0, for which the regions
    were found, in every epoch.

    Args:
        source: of the samples.
        folder: of the regions.

    Raises:
        DataError: no such folder, an unfinished one, or one that was made of other data.
    """

    def __init__(self, source: Source, folder: Path) -> None:
        self.source, self.table = source, RegionTable(folder)
        self.name = source.name
        made = self.table.manifest
        if (made.samples, made.data) != (len(source), source.fingerprint):
            raise DataError(
                f"masks {folder}: made of {made.samples} samples of {made.source} ({made.data[:12]}), but "
                f"{source.name} has {len(source)} ({source.fingerprint[:12]}): the data have changed; make them again"
            )
        self.fingerprint = f"{source.fingerprint}+{self.table.digest}"
        self._instead = made.producer == OWN
        others = [] if self._instead else source.guided
        self.guided: Sequence[int] = np.union1d(np.asarray(others, np.int64), self.table.samples)  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int, epoch: int) -> Sample:
        """Raises BadSample where the source does, or where the regions are not of this image or text."""
        sample = self.source.read(index, 0)
        if self._instead:
            sample = replace(sample, phrases=())
        rows = self.table.of(index)
        if not rows:
            return sample
        own = {(p.message, p.start, p.end) for p in sample.phrases}
        found = [
            Phrase(row["message"], row["start"], row["end"], self._region(row, sample))
            for row in rows
            if (row["message"], row["start"], row["end"]) not in own
        ]
        return replace(sample, phrases=sample.phrases + tuple(found))

    def _region(self, row: dict[str, Any], sample: Sample) -> Mask:
        """The union of a row's masks, once it is sure that they are of this sample."""
        message, start, end = row["message"], row["start"], row["end"]
        texts = [m.text for m in sample.messages]
        fault = ""
        if sample.image is None:
            fault = "the sample has no image"
        elif row["image_sha256"] and sample.image_sha256 and row["image_sha256"] != sample.image_sha256:
            fault = f"the image is another file now ({sample.image_sha256[:12]}, was {row['image_sha256'][:12]})"
        elif sample.image.size != (row["width"], row["height"]):
            fault = (
                f"they are {row['width']} x {row['height']} pixels, the image {' x '.join(map(str, sample.image.size))}"
            )
        elif message >= len(texts) or texts[message][start:end] != row["phrase"]:
            fault = f"characters {start} to {end} of message {message} are not {row['phrase']!r}"
        if fault:
            raise DataError(
                f"sample {sample.id}: the regions in {self.table.folder} do not fit: {fault}; make them again"
            )
        size = row["height"], row["width"]
        try:
            return union_of((decode_mask({"size": size, "counts": counts}, *size) for counts in row["masks"]), *size)
        except DataError as error:
            told = f"sample {sample.id}: {self.table.folder}, phrase {row['phrase']!r}: {error}"
            raise BadSample(told, "region", sample.id) from None
