"""Phrases with masks as conversations: referring expressions, and captions whose phrases are grounded.

An expression is asked for ("Where is the left dog?" "At the top left.", which is where the region's centre lies) or
given as a description ("Describe one thing in the image." "The left dog."). A caption is given as it is. The words are
phrases with their regions. `train.data.grounded_rows` lists the forms of data that are read.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

from agevlm.data.annotations import load_instances
from agevlm.data.images import EncodedFile
from agevlm.data.masks import Mask
from agevlm.errors import DataError
from train.data.coco import INSTRUCTIONS
from train.data.files import Records, check_folder, check_size, decode_image, fingerprint, read_image, read_region
from train.data.grounded_rows import BOXES, EXPRESSIONS, REGIONS, Annotations, is_known, record_of
from train.data.samples import BadSample, Message, Phrase, Sample, Words
from train.validation import Where, build

WHERE = ("Where is {}?", "Where in the image is {}?", "In which part of the image is {}?")
DESCRIBE = (
    "Describe one thing in the image.",
    "Name something in the image.",
    "What is one thing that the image shows?",
)
PICKLED = (".p", ".pkl", ".pickle", ".pth", ".pt", ".npy")


@dataclass(frozen=True)
class GroundedOptions:
    """Which data set, and what is said of it."""

    path: str
    """A .json, .jsonl or .parquet file, or a folder of .parquet files."""
    images: str | None = None
    """Folder of the images that the rows name; None if a Parquet file holds the images."""
    instances: str | None = None
    """COCO-style instances.json, for rows that name an `ann_id`."""
    split: str = "train"
    """Of rows that say of which split they are, only these are taken."""
    boxes: str = ""
    """xywh or xyxy: what the numbers of `bbox` are, for rows that have no segmentation. Empty: boxes are no regions."""
    describe: float = 0.5
    """Share of expressions that the assistant gives as a description; the user asks for the others."""
    name: str = ""
    """Of the source; that of the file or folder if empty."""
    seed: int = 0
    """Of what is said."""


class GroundedSource:
    """See the module; one sample a row."""

    def __init__(self, files: Sequence[Path], options: GroundedOptions) -> None:
        self.files, self.options = files, options
        self.path = Path(options.path).expanduser()
        self.images = None if options.images is None else Path(options.images).expanduser()
        self.name = options.name or self.path.stem
        annotations, said = None, [fingerprint(file) for file in files]
        if options.instances is not None:
            instances = load_instances(Path(options.instances).expanduser())
            annotations, said = Annotations.of_file(instances), [*said, instances.sha256]
        said += [options.split, options.boxes, str(options.describe), str(options.seed)]
        self.fingerprint = hashlib.sha256(json.dumps(said).encode()).hexdigest()
        guided = array("q")
        self._records = Records(self._all(annotations, guided))
        self.guided: Sequence[int] = guided
        self._group = lru_cache(maxsize=2)(self._read_group)

    @classmethod
    def open(cls, options: Mapping[str, Any]) -> GroundedSource:
        """From a stage's options: see `GroundedOptions`.

        Raises:
            ConfigError: an unknown option, or one of a wrong type.
            DataError: an option out of its range; a file or folder that is missing, pickled, or of no known form.
        """
        chosen: GroundedOptions = build(GroundedOptions, options, (), Where("source grounded"))
        if not 0 <= chosen.describe <= 1:
            raise DataError(f"source grounded: describe: {chosen.describe} is no share: give a number from 0 to 1")
        if chosen.boxes not in ("", *BOXES):
            raise DataError(f"source grounded: boxes: {chosen.boxes!r} is unknown: give one of {', '.join(BOXES)}")
        path = Path(chosen.path).expanduser()
        if path.suffix in PICKLED:
            raise DataError(
                f"source grounded: {path} is a pickled file, which can run code when it is read; give the data set as "
                ".json, .jsonl or .parquet (for RefCOCO there are such releases)"
            )
        files = _of_split(sorted(path.glob("*.parquet")), chosen.split) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            says = "has no .parquet file" if path.is_dir() else "is not there"
            raise DataError(f"source grounded: {path} {says}; give its place with sources.N.options.path")
        if files[0].suffix not in (".json", ".jsonl", ".parquet"):
            raise DataError(f"source grounded: {path}: expected .json, .jsonl or .parquet")
        check_folder("grounded", None if chosen.images is None else Path(chosen.images).expanduser())
        return cls(files, chosen)

    def __len__(self) -> int:
        return len(self._records)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_group"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._group = lru_cache(maxsize=2)(self._read_group)

    def _all(self, annotations: Annotations | None, guided: array[int]) -> Iterator[dict[str, Any]]:
        """The records of the split; those with a region are added to `guided`."""
        splits: dict[str, int] = {}
        taken = 0
        for number, (row, place) in enumerate(_rows(self.files)):
            if not number and isinstance(row, dict) and not is_known(row):
                raise DataError(
                    f"{self.path}: its rows have {', '.join(row)}; expected referring expressions (one of "
                    f"{', '.join(EXPRESSIONS)}, and one of {', '.join(REGIONS)}) or grounded captions (caption, and "
                    "groundings or refs)"
                )
            split = row.get("split") if isinstance(row, dict) else None
            if split is not None and split != self.options.split:
                splits[str(split)] = splits.get(str(split), 0) + 1
                continue
            record = record_of(row, number, annotations, self.options.boxes)
            if record.get("region") or any(phrase["region"] for phrase in record.get("phrases", ())):
                guided.append(taken)
            taken += 1
            yield {**record, "row": number + 1, "place": place}
        if not taken:
            found = ", ".join(f"{split} ({count:,})" for split, count in splits.items()) or "none"
            raise DataError(
                f"{self.path}: no row of split {self.options.split!r}; there are: {found}; see options.split"
            )

    def read(self, index: int, epoch: int) -> Sample:
        """A sample.

        Raises:
            BadSample: its row, its image or a region cannot be used.
            DataError: the folder of images is gone, or was never given.
        """
        record = self._records[index]
        try:
            if "bad" in record:
                raise BadSample(record["bad"], record["reason"])
            file = self._file(record)
            image = decode_image(file)
            draw = Random(f"{self.options.seed}/{index}/{epoch}")
            said = self._caption if "caption" in record else self._expression
            messages, phrases, words = said(record, image, draw)
        except BadSample as bad:
            raise bad.at(f"{self.path}: row {record['row']}", record["id"]) from None
        return Sample(record["id"], messages, image, phrases, words, file.name, file.sha256)

    def _expression(self, record: Mapping[str, Any], image: Any, draw: Random) -> _Said:
        if record["size"] is not None:
            check_size(image, record["size"])
        region = read_region(record["region"], image, "region")
        expression = draw.choice(record["expressions"])
        if draw.random() < self.options.describe:
            question, answer = draw.choice(DESCRIBE), f"{expression[0].upper()}{expression[1:]}."
            phrase = Phrase(1, 0, len(answer) - 1, region)
        else:
            template = draw.choice(WHERE)
            question, answer = template.format(expression), f"{place_of(region)}."
            start = template.index("{}")
            phrase = Phrase(0, start, start + len(expression), region)
        return (Message("user", question), Message("assistant", answer)), (phrase,), ()

    def _caption(self, record: Mapping[str, Any], image: Any, draw: Random) -> _Said:
        caption, words = record["caption"], []
        regions: dict[tuple[int, int], Mask] = {}
        for number, one in enumerate(record["phrases"]):
            region = read_region(one["region"], image, f"phrases[{number}]") if one["region"] else None
            for start, end in one["spans"]:
                if not 0 <= start < end <= len(caption):
                    raise BadSample(f"phrases[{number}]: characters {start} to {end} of {len(caption)}", "region")
                if region is None:
                    words.append(Words(1, start, end))
                else:
                    # Words that are named twice stand for both regions.
                    regions[start, end] = regions.get((start, end), False) | region
        phrases = [Phrase(1, start, end, region) for (start, end), region in regions.items()]
        messages = (Message("user", draw.choice(INSTRUCTIONS)), Message("assistant", caption))
        return messages, tuple(phrases), tuple(words)

    def _file(self, record: Mapping[str, Any]) -> EncodedFile:
        if self.images is not None or record["place"] is None:
            if not record["image"]:
                raise BadSample("it names no image", "image")
            return read_image(self.images, record["image"])
        number, group, row = record["place"]
        held = self._group(number, group)[row].as_py()
        if not held or not held.get("bytes"):
            raise BadSample("its image is empty", "image")
        return EncodedFile(record["image"] or str(held.get("path") or ""), held["bytes"])

    def _read_group(self, number: int, group: int) -> Any:
        """The images of a row group: what Parquet can read at least."""
        from pyarrow.parquet import ParquetFile

        with ParquetFile(self.files[number]) as file:
            return file.read_row_group(group, columns=["image"], use_threads=False).column("image")


_Said = tuple[tuple[Message, ...], tuple[Phrase, ...], tuple[Words, ...]]


def _of_split(files: Sequence[Path], split: str) -> list[Path]:
    """Of files that are called after several splits (train-00000-of-00002.parquet, ...), those of one.

    Raises:
        DataError: none is of that split.
    """
    called = {file: match[1] for file in files if (match := re.match(r"([A-Za-z]+)-\d", file.name))}
    if len(called) < len(files) or len(set(called.values())) < 2:
        return list(files)
    found = [file for file in files if called[file] == split]
    if not found:
        raise DataError(
            f"source grounded: {files[0].parent} has files of {', '.join(sorted(set(called.values())))}, none of split "
            f"{split!r}; see options.split"
        )
    return found


def place_of(region: Mask) -> str:
    """In which third of the image's height and width a region's centre of mass lies, in words."""
    height, width = region.shape
    y, x = (float(axis.mean()) for axis in region.nonzero())
    row = ("At the top", "", "At the bottom")[int(3 * (y + 0.5) / height)]
    column = ("left", "", "right")[int(3 * (x + 0.5) / width)]
    if not row:
        return f"On the {column}" if column else "In the middle"
    return f"{row} {column}" if column else row


def _rows(files: Sequence[Path]) -> Iterator[tuple[Any, tuple[int, int, int] | None]]:
    """Rows, and where their images are: the file's number, the row group, the row in it."""
    for number, file in enumerate(files):
        try:
            if file.suffix == ".parquet":
                yield from _parquet(number, file)
            elif file.suffix == ".jsonl":
                lines = (line for line in file.read_bytes().split(b"\n") if line.strip())
                yield from ((_parsed(line), None) for line in lines)
            else:
                rows = json.loads(file.read_bytes())
                if not isinstance(rows, list):
                    raise DataError(f"{file}: expected a JSON list of rows, not a {type(rows).__name__}")
                yield from ((row, None) for row in rows)
        except (ValueError, OSError) as error:
            raise DataError(f"{file}: cannot be read: {error}") from None


def _parsed(line: bytes) -> Any:
    """A row; a line that is not JSON stays text, which is no row."""
    try:
        return json.loads(line)
    except ValueError:
        return line.decode("utf-8", "replace")


def _parquet(number: int, path: Path) -> Iterator[tuple[Any, tuple[int, int, int] | None]]:
    from pyarrow import types
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        schema = file.schema_arrow
        inside = "image" in schema.names and types.is_struct(schema.field("image").type)
        columns = [name for name in schema.names if not (inside and name == "image")]
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=columns, use_threads=False)
            for place, row in enumerate(table.to_pylist()):
                yield row, (number, group, place) if inside else None
