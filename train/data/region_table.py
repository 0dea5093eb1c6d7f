"""Regions of phrases on disk: a folder of Parquet parts, one row a phrase, and one file that says how they were made.

    masks.json            of which data, and how made: see `Manifest`
    parts/000000.parquet  all phrases of the first samples, and so on; a part is there whole or not at all

A part whose samples have no phrase is there too, without rows: parts that are there are done. What could not be read
stands in the parts' metadata. Readers gather the regions that are used into `.used-*.arrow` beside the parts, which is
mapped into memory: a lookup takes tens of microseconds, and goes by the number of its batches (`BATCH`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from agevlm.appearing import file_appears
from agevlm.errors import DataError

SPAN = 256
"""Samples of a part, unless the manifest says otherwise. Those of one image mostly stand side by side, so that it is
encoded once."""
MANIFEST, PARTS = "masks.json", "parts"
META = b"agevlm"
OWN = "the source's own"
"""Producer of regions that the source has itself."""
BATCH = 200_000
"""Rows of a batch of the gathered file: a lookup goes by their number."""
SCHEMA = pa.schema(
    [
        pa.field("sample", pa.int64()),  # index in its source
        pa.field("sample_id", pa.string()),
        pa.field("image", pa.string()),  # file name; empty where there is no file
        pa.field("image_sha256", pa.string()),  # of the file's bytes; empty where there is no file
        pa.field("height", pa.int32()),  # of the upright image in pixels
        pa.field("width", pa.int32()),
        pa.field("message", pa.int32()),  # place in the conversation, from 0
        pa.field("start", pa.int32()),  # characters of the message's text
        pa.field("end", pa.int32()),
        pa.field("phrase", pa.string()),
        # All regions that were found; the first `kept` of them are the phrase's region.
        pa.field("boxes", pa.list_(pa.list_(pa.float32(), 4))),  # x0, y0, x1, y1 in pixels
        pa.field("masks", pa.list_(pa.binary())),  # COCO's compressed run lengths of (height, width)
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("predicted_iou", pa.list_(pa.float32())),
        pa.field("stability", pa.list_(pa.float32())),
        pa.field("kept", pa.int32()),
        pa.field("dropped", pa.string()),  # why the others are left out; empty if there are none
        pa.field("producer", pa.dictionary(pa.int32(), pa.string())),  # version of what found them
    ]
)
USED = ("sample", "message", "start", "end", "phrase", "height", "width", "image_sha256", "masks", "kept")


@dataclass(frozen=True)
class Manifest:
    """What a folder of regions is of."""

    source: str
    """Name of the source."""
    data: str
    """Its fingerprint."""
    samples: int
    """Of the source."""
    chosen: int
    """How many of them a teacher looks at."""
    share: float
    seed: int
    """Which of them: see `chosen_samples`."""
    producer: str
    phrases: str
    gates: Mapping[str, float]
    noise: str = ""
    span: int = SPAN
    """Samples of a part."""

    @property
    def parts(self) -> int:
        """How many parts there are when all is done."""
        return -(-self.chosen // self.span)


@dataclass(frozen=True)
class PartFacts:
    """What was met while a part was made."""

    images: int
    """Different images."""
    seconds: Mapping[str, float]
    """By the clock: read, find, encode."""
    unread: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    """Samples that could not be read: index, id, reason."""


def part_path(folder: Path, part: int) -> Path:
    """Where a part is."""
    return folder / PARTS / f"{part:06d}.parquet"


def write_part(folder: Path, part: int, rows: Sequence[Mapping[str, Any]], facts: PartFacts) -> None:
    """Write a part; it is there whole or not at all.

    Raises:
        OSError: no room, or a failing disk.
    """
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA)
    table = table.replace_schema_metadata({META: json.dumps(asdict(facts)).encode()})
    target = part_path(folder, part)
    target.parent.mkdir(parents=True, exist_ok=True)
    with file_appears(target) as hidden:
        pq.write_table(table, hidden, compression="zstd")


def read_facts(folder: Path, part: int) -> PartFacts:
    """What a part's metadata say. Raises DataError if it cannot be read."""
    path = part_path(folder, part)
    try:
        return PartFacts(**json.loads(pq.read_metadata(path).metadata[META]))
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); remove it and make it again") from None


def read_manifest(folder: Path) -> Manifest | None:
    """What the folder says it is of; None if it says nothing. Raises DataError if that cannot be read."""
    path = folder / MANIFEST
    try:
        return Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not what agevlm-train masks writes: {error}") from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Say what the folder is of.

    Raises:
        DataError: the folder cannot be made or written.
        OSError: no room.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file_appears(folder / MANIFEST) as hidden:
            hidden.write_text(json.dumps(asdict(manifest), indent=1) + "\n", encoding="utf-8")
    except (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError) as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror}; give another --out") from None


class RegionTable:
    """Regions that are used, by sample.

    Args:
        folder: as `agevlm-train masks` writes it.

    Raises:
        DataError: it is no such folder, or not complete, or a part of it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        manifest = read_manifest(folder)
        if manifest is None:
            raise DataError(f"{folder}: no {MANIFEST} in it; give a folder that agevlm-train masks wrote")
        self.folder, self.manifest = folder, manifest
        paths = [part_path(folder, part) for part in range(manifest.parts)]
        if missing := [path for path in paths if not path.is_file()]:
            raise DataError(
                f"{folder}: {len(missing)} of {len(paths)} parts are missing, first {missing[0].name}; finish it with "
                "the agevlm-train masks command that began it"
            )
        # Parts are never changed, so their names, sizes and times tell them apart.
        stats = [(path.name, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in paths]
        gathered = folder / f".used-{hashlib.sha256(repr(stats).encode()).hexdigest()[:16]}.arrow"
        if not gathered.is_file():
            _gather(folder, paths, gathered)
        self._path = gathered
        self._map()

    def _map(self) -> None:
        self._table = pa.ipc.open_file(pa.memory_map(str(self._path))).read_all()
        self._samples = self._table["sample"].to_numpy()

    def __getstate__(self) -> dict[str, Any]:
        # Each process maps the file for itself.
        return {k: v for k, v in self.__dict__.items() if k not in ("_table", "_samples")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    @property
    def digest(self) -> str:
        """Changes when the regions do."""
        if not hasattr(self, "_digest"):
            file = hashlib.sha256()
            with self._path.open("rb") as content:
                while block := content.read(1 << 22):
                    file.update(block)
            self._digest = file.hexdigest()[:16]
        return self._digest

    @property
    def samples(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Indices of the samples that have regions, ascending."""
        return np.unique(self._samples)

    def of(self, sample: int) -> list[dict[str, Any]]:
        """Rows of a sample, `USED` alone, their masks cut to those used; empty where none is."""
        first, last = np.searchsorted(self._samples, [sample, sample + 1])
        rows: list[dict[str, Any]] = self._table.slice(first, last - first).to_pylist()
        return rows


def _gather(folder: Path, paths: Sequence[Path], target: Path) -> None:
    """Rows that have a region, in the order of their samples, into one file that can be mapped."""
    schema = pa.schema([SCHEMA.field(name) for name in USED])
    try:
        with (
            file_appears(target) as hidden,
            pa.OSFile(str(hidden), "wb") as sink,
            pa.ipc.new_file(sink, schema) as writer,
        ):
            waiting: list[pa.Table] = []
            for table in _used(paths):
                waiting.append(table)
                if sum(len(one) for one in waiting) >= BATCH:
                    writer.write_table(pa.concat_tables(waiting).combine_chunks())
                    waiting = []
            if waiting:
                writer.write_table(pa.concat_tables(waiting).combine_chunks())
        for old in folder.glob(".used-*.arrow"):
            if old != target:
                old.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{target}: cannot be written: {error.strerror or error}; make room or let it be written"
        ) from None


def _used(paths: Sequence[Path]) -> Iterator[pa.Table]:
    last = -1
    for path in paths:
        try:
            rows = [row for row in pq.read_table(path, columns=list(USED)).to_pylist() if row["kept"]]
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: cannot be read ({error}); remove it and make it again") from None
        rows.sort(key=lambda row: row["sample"])
        if rows and rows[0]["sample"] <= last:
            raise DataError(f"{path}: its samples are not behind those of the part before it; make the folder again")
        last = rows[-1]["sample"] if rows else last
        for row in rows:
            row["masks"] = row["masks"][: row["kept"]]
        yield pa.Table.from_pylist(rows, schema=pa.schema([SCHEMA.field(name) for name in USED]))
