"""JSON lines on disk: which line is where, and which have regions. 8 bytes of memory a record."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.data.samples import BadSample

BLOCK = 1 << 20
"""Bytes that are searched at a time."""
PHRASES = re.compile(rb'"phrases"\s*:\s*\[')
"""Cannot be inside a text: there its quotes would be escaped."""
REGION = re.compile(rb'"segmentation"\s*:\s*[\[{]')
NEWLINE, BLANK = ord("\n"), ord(" ")


class JsonLines:
    """The records of a file, a line each; blank lines are none.

    Nothing is parsed, so a line that is not JSON is found when it is read.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        # Arrays grow in place: blocks gathered in a list would take as much memory again.
        self._starts, self._blank = array("q"), array("q")
        self.guided = array("q")
        """Indices of records with phrases, at least one of which has a region."""
        lines = 0
        for first, block, size in _blocks(path):
            ends = np.flatnonzero(np.frombuffer(block, np.uint8, size) == NEWLINE)
            begins = np.concatenate([[0], ends[ends < size - 1] + 1])
            bounds = np.append(begins, size)
            empty = _blank_lines(block, bounds)
            kept = np.delete(begins, empty)
            self.guided.frombytes((len(self._starts) + _with_regions(block, np.append(kept, size))).tobytes())
            self._starts.frombytes((first + kept).tobytes())
            self._blank.frombytes((lines + empty).tobytes())
            lines += len(begins)
        self._end = os.path.getsize(path)

    def __len__(self) -> int:
        return len(self._starts)

    def __getstate__(self) -> dict[str, Any]:
        # Each process opens the file for itself.
        return {**self.__dict__, "_fd": None}

    def __getitem__(self, index: int) -> bytes:
        """A record's line. Raises BadSample if the file has become shorter."""
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        start = self._starts[index]
        end = self._starts[index + 1] if index + 1 < len(self._starts) else self._end
        # Not mapped into memory: a file that is cut short meanwhile would kill the process without a word.
        line = os.pread(self._fd, end - start, start)
        if len(line) < end - start:
            raise BadSample(f"{self.path}:{self.number(index)}: the file is shorter than it was")
        return line

    def number(self, index: int) -> int:
        """A record's line in the file, from 1."""
        records_before = np.frombuffer(self._blank, np.int64) - np.arange(len(self._blank))
        return index + int(records_before.searchsorted(index, side="right")) + 1


def _blocks(path: Path) -> Iterator[tuple[int, bytearray, int]]:
    """Whole lines, many at a time: where they begin in the file, and memory with so many bytes of them in front."""
    memory, first, held = bytearray(BLOCK), 0, 0
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(memoryview(memory)[held:]):
            held += read
            if end := memory.rfind(b"\n", 0, held) + 1:
                yield first, memory, end
                first, held = first + end, held - end
                memory[:held] = memory[end : end + held]
            elif held == len(memory):
                memory += bytes(held)  # a line that is longer than all this
    if held:
        yield first, memory, held


def _blank_lines(block: bytearray, bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of the lines between these bounds are blank."""
    heads = np.frombuffer(block, np.uint8)[bounds[:-1]]
    # Blanks and control characters sort before all that JSON begins with.
    found = [i for i in np.flatnonzero(heads <= BLANK) if not block[bounds[i] : bounds[i + 1]].strip()]
    return np.array(found, np.int64)


def _with_regions(block: bytearray, bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of the lines have phrases with a region."""
    at = np.array([match.end() for match in PHRASES.finditer(block, 0, bounds[-1])], np.int64)
    lines = bounds.searchsorted(at, side="right") - 1
    spans = zip(at.tolist(), bounds[lines + 1].tolist(), strict=True)
    found = [REGION.search(block, *span) is not None for span in spans]
    return np.unique(lines[np.array(found, bool)])
