"""Where question rows lie: JSON lines, JSON arrays, parquet files, the Hugging Face hub.

A container knows nothing of a benchmark's fields beyond what tells rows from other JSON: it hands out rows with the
place each one came from, and the encoded images where it holds any.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agevlm.errors import DataError

_SPACE = re.compile(r"[ \t\r\n]*")
_ROW_KEYS = {"question_id", "query", "question", "prompt"}
_MOVED = {"lmms-lab/POPE": "lmms-lab-encoder/POPE"}


class NotQuestionsError(DataError):
    """The file is sound JSON of another kind (a manifest, an annotation file)."""


@dataclass(frozen=True)
class Row:
    """One question as its container has it."""

    fields: Mapping[str, Any]
    where: str
    """File and line, or file and row."""


def json_rows(path: Path) -> list[Row]:
    """The rows of a JSON-lines file or a JSON array; the content decides, not the file's ending.

    Raises:
        NotQuestionsError: the whole file is one JSON object that is no question.
        DataError: missing, empty, not UTF-8, or broken JSON, with file and line.
    """
    text = _text(path)
    start = _skip(text, 0)
    if start == len(text):
        raise DataError(f"{path}:1: the file is empty; fetch it again")
    rows = _array(path, text, start) if text[start] == "[" else _lines(path, text)
    if not rows:
        raise DataError(f"{path}:1: the file holds no questions")
    return rows


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from None


def _lines(path: Path, text: str) -> list[Row]:
    rows: list[Row] = []
    # only \n ends a line: str.splitlines would also break at characters that JSON allows within strings
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    for number, line in lines:
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            whole = _whole_object(text) if not rows else None
            if whole is None:
                raise DataError(f"{where}: not JSON: {error.msg}; the line is damaged or cut short") from None
            return [_row(path, whole, where)]
        if len(lines) == 1 and isinstance(value, dict):
            return [_row(path, value, where)]
        if not isinstance(value, dict):
            raise DataError(f"{where}: a question is a JSON object, not {type(value).__name__}")
        rows.append(Row(value, where))
    return rows


def _whole_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _row(path: Path, value: dict[str, Any], where: str) -> Row:
    if not _ROW_KEYS & value.keys():
        raise NotQuestionsError(f"{path}: one JSON object with {_some(value)}, not a list of questions")
    return Row(value, where)


def _some(value: Mapping[str, Any]) -> str:
    keys = ", ".join(repr(key) for key in list(value)[:4])
    return f"the keys {keys}{', ...' if len(value) > 4 else ''}" if value else "no keys"


def _array(path: Path, text: str, start: int) -> list[Row]:
    # element by element instead of json.loads, so that an error in a row's fields can name the line it begins on
    decoder = json.JSONDecoder()
    rows: list[Row] = []
    line, counted, at = 1, 0, _skip(text, start + 1)
    try:
        while text[at : at + 1] != "]" or rows:
            line, counted = line + text.count("\n", counted, at), at
            value, at = decoder.raw_decode(text, at)
            if not isinstance(value, dict):
                raise DataError(f"{path}:{line}: a question is a JSON object, not {type(value).__name__}")
            rows.append(Row(value, f"{path}:{line}"))
            at = _skip(text, at)
            if text[at : at + 1] == "]":
                break
            if text[at : at + 1] != ",":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
            at = _skip(text, at + 1)
        if _skip(text, at + 1) != len(text):
            raise json.JSONDecodeError("Extra data after the array", text, _skip(text, at + 1))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}; the file is damaged or cut short") from None
    return rows


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


class ParquetImages(Mapping[str, bytes]):
    """Encoded images by name, read from parquet files when first asked for.

    Each row group is read at most once; of its rows only the first copy of each image is kept, so that the 9,000 rows
    of POPE's parquet cost the memory of its 500 encoded files.
    """

    def __init__(self, places: Mapping[str, tuple[Path, int, int]]):
        """`places` maps an image's name to the file, row group and row of its first copy."""
        self._places = dict(places)
        self._held: dict[str, bytes] = {}

    def __getitem__(self, name: str) -> bytes:
        if name not in self._held:
            path, group, _ = self._places[name]
            self._read(path, group)
        return self._held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _read(self, path: Path, group: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        wanted = {row: name for name, (file, part, row) in self._places.items() if (file, part) == (path, group)}
        row = 0
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=32, row_groups=[group], columns=["image"]):
                    column = batch.column(0)
                    for offset in range(len(column)):
                        if name := wanted.get(row + offset):
                            self._held[name] = _encoded(column[offset].as_py(), name, f"{path}: row group {group}")
                    row += len(column)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: row group {group} cannot be read: {error}; fetch the file again") from None


class HubImages(Mapping[str, bytes]):
    """Encoded images by name from a `datasets` table that lies memory-mapped on disk."""

    def __init__(self, rows: Mapping[str, int], read: Callable[[int], Any], source: str):
        """`rows` maps an image's name to the row of its first copy; `read` gives that row's image value."""
        self._rows, self._read, self._source = dict(rows), read, source

    def __getitem__(self, name: str) -> bytes:
        row = self._rows[name]
        return _encoded(self._read(row), name, f"{self._source}: row {row}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def _encoded(value: Any, name: str, where: str) -> bytes:
    if isinstance(value, Mapping):
        data, path = value.get("bytes"), value.get("path")
        if data is None and path and Path(path).is_file():
            data = Path(path).read_bytes()
        value = data
    if not isinstance(value, bytes) or not value:
        raise DataError(f"{where}: no encoded bytes for image {name}; fetch the data again or give an image folder")
    return value


def image_name(source: str) -> str:
    """The file name for the `image_source` of a parquet row: with `.jpg` where it has no ending."""
    return source if re.search(r"\.[A-Za-z0-9]{1,5}$", source) else f"{source}.jpg"


def parquet_rows(
    paths: Sequence[Path], image_key: str = "image_source"
) -> tuple[list[Row], Mapping[str, bytes] | None]:
    """The rows of parquet files (shards of one table), and their images if there is an `image` column.

    `image_key` is the column that names them.

    Raises:
        DataError: a file that is missing, no parquet, or lacks the column that names the images.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[Row] = []
    places: dict[str, tuple[Path, int, int]] = {}
    for path in paths:
        number = 0
        try:
            with pq.ParquetFile(path) as file:
                names = file.schema_arrow.names
                light = [name for name in names if name != "image"]
                for group in range(file.num_row_groups):
                    for index, fields in enumerate(file.read_row_group(group, columns=light).to_pylist()):
                        rows.append(Row(fields, f"{path}: row {number}"))
                        number += 1
                        source = fields.get(image_key)
                        if "image" in names and isinstance(source, str):
                            places.setdefault(image_name(source), (path, group, index))
        except FileNotFoundError:
            raise DataError(f"{path}: no such file") from None
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: not a sound parquet file: {error}; fetch it again") from None
    if not rows:
        raise DataError(f"{', '.join(map(str, paths))}: no rows; fetch the data again")
    return rows, ParquetImages(places) if places else None


def hub_rows(name: str, image_key: str = "image_source") -> tuple[list[Row], Mapping[str, bytes] | None]:
    """The rows of a hub data set's `test` split and its images by the column `image_key`, neither decoded nor held.

    `lmms-lab/POPE` is looked for under its other home if the hub does not know it.

    Raises:
        DataError: anything that keeps the data set from loading (no network, unknown name, no such split).
    """
    import datasets

    try:
        try:
            table = datasets.load_dataset(name, split="test")
        except datasets.exceptions.DatasetNotFoundError:
            if name not in _MOVED:
                raise
            name = _MOVED[name]
            table = datasets.load_dataset(name, split="test")
        columns = table.column_names
        pictures = None
        if "image" in columns:
            pictures = table.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
        light = table.select_columns([column for column in columns if column != "image"])
        rows = [Row(dict(fields), f"{name}: row {number}") for number, fields in enumerate(light)]
    except Exception as error:  # the hub client's failures are of many unrelated types
        raise DataError(
            f"{name}: cannot be loaded from the hub: {type(error).__name__}: {error}; without network give the local "
            "parquet files of the data set (or the folder that holds them) or its JSON files instead"
        ) from error
    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        if isinstance(source := row.fields.get(image_key), str):
            first.setdefault(image_name(source), number)
    if pictures is None or not first:
        return rows, None
    return rows, HubImages(first, lambda number: pictures[number]["image"], name)
