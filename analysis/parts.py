"""Records of an analysis: Parquet files, one added for every few image groups, each there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agevlm.errors import RunFolderError

SIX = "[0-9]" * 6
MANY = 64
"""So many files are put into one."""
GROUP = "group"
"""The column that says which image group a row belongs to; a group is there whole or not at all."""


class Parts:
    """What one model gave, group by group, in `FOLDER/probes/NAME-*.parquet`.

    A group is on disk when `append` returns. One process at a time may write; the run folder's lock sees to that.
    A group for which there is nothing to record is appended with no rows, and is done all the same.
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema) -> None:
        """`schema` names the columns of a row, `group` (string) among them."""
        self.folder, self.name, self.schema = folder / "probes", name, schema

    @property
    def files(self) -> list[Path]:
        """The files that count, in the order of writing: none that a merged one has taken the place of."""
        singles = sorted(self.folder.glob(f"{self.name}-{SIX}.parquet"))
        merged = sorted(self.folder.glob(f"{self.name}-to-{SIX}.parquet"))
        last = max((_number(path) for path in merged), default=0)
        return [*merged, *(path for path in singles if _number(path) > last)]

    def done(self) -> set[str]:
        """The groups that are there."""
        found: set[str] = set()
        for path in self.files:
            found |= set(_groups(self._opened(path).schema_arrow))
        return found

    def append(self, groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Add groups with their rows, in one file.

        Raises:
            RunFolderError: the disk is full or failing; what was there before stays.
        """
        rows = [{**row, GROUP: group} for group, own in groups.items() for row in own]
        table = pa.Table.from_pylist(rows, schema=self.schema)
        numbers = [_number(path) for path in self.files]
        self._write(f"{self.name}-{max(numbers, default=0) + 1:06d}.parquet", _marked(table, groups))
        if sum(not _is_merged(path) for path in self.files) >= MANY:
            self._merge()

    def read(self, columns: Sequence[str] | None = None, remarks: list[str] | None = None) -> pa.Table:
        """All rows, in the order of writing.

        Args:
            columns: only these; None for all.
            remarks: takes what is to be said of damaged files, whose rows are then left out; None: they are an error.

        Raises:
            RunFolderError: a file is damaged.
        """
        if remarks is None:
            return self._tables(self.files, columns)
        tables = [self._tables((), columns)]
        for path in self.files:
            try:
                tables.append(self._tables([path], columns))
            except RunFolderError as error:
                remarks.append(str(error))
        return pa.concat_tables(tables)

    def bytes(self) -> int:
        """On disk."""
        return sum(path.stat().st_size for path in self.files)

    def _merge(self) -> None:
        """The small files as one. Killed in the middle, either they count or the new one does."""
        small = [path for path in self.files if not _is_merged(path)]
        groups = [group for path in small for group in _groups(self._opened(path).schema_arrow)]
        self._write(f"{self.name}-to-{_number(small[-1]):06d}.parquet", _marked(self._tables(small, None), groups))
        for path in self.folder.glob(f"{self.name}-{SIX}.parquet"):
            path.unlink()

    def _tables(self, files: Sequence[Path], columns: Sequence[str] | None) -> pa.Table:
        schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        return pa.concat_tables([schema.empty_table(), *(self._content(path, schema) for path in files)])

    def _content(self, path: Path, schema: pa.Schema) -> pa.Table:
        file = self._opened(path)
        try:
            # A column that is not there is a ValueError of the cast.
            return file.read(schema.names).replace_schema_metadata(None).cast(schema)
        except (pa.ArrowException, ValueError, OSError) as error:
            raise _damaged(path, error) from None

    def _opened(self, path: Path) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from None

    def _write(self, name: str, table: pa.Table) -> None:
        temporary = self.folder / f".{self.name}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                pq.write_table(table, file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.folder / name)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise RunFolderError(
                f"{self.folder / name}: {error.strerror}; what was recorded before is safe, make room and try again"
            ) from error


def _damaged(path: Path, error: Exception) -> RunFolderError:
    return RunFolderError(f"{path}: damaged ({error}); remove it, and the same command makes its rows again")


def _number(path: Path) -> int:
    return int(path.stem.rsplit("-", 1)[1])


def _is_merged(path: Path) -> bool:
    return path.stem.rsplit("-", 2)[-2] == "to"


def _marked(table: pa.Table, groups: Any) -> pa.Table:
    """A table that says which groups it holds, those without rows too."""
    return table.replace_schema_metadata({b"groups": json.dumps(list(groups)).encode()})


def _groups(schema: pa.Schema) -> list[str]:
    held: list[str] = json.loads((schema.metadata or {}).get(b"groups", b"[]"))
    return held
