"""Conversations in LLaVA's format, as one JSON list or as JSON lines, with regions of phrases where there are any.

A record is `{"id", "image", "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"}, ...]}`. It may
have `"phrases": [{"message": 0, "start": 8, "end": 12, "segmentation": ...}]`: characters of a message as it stands in
the file, and COCO's polygons or RLE in pixels of the upright image, or a list of several RLE objects.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agevlm.data.images import decode, read_file
from agevlm.data.masks import decode_mask
from agevlm.data.paths import inside
from agevlm.errors import DataError
from train.data.samples import Message, Phrase, Sample
from train.data.sources import check_options

ROLE_OF = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
IMAGE = "<image>"
WHOLE_BYTES = 1 << 24
"""Files up to this size are hashed as a whole; of larger ones `BLOCKS` blocks spread over them."""
BLOCKS, BLOCK_BYTES = 256, 1 << 16


class LlavaSource:
    """A LLaVA file and its folder of images.

    JSON lines stay on disk: 8 bytes a record are held in memory. A JSON list is read as a whole.
    """

    def __init__(self, path: Path, images: Path | None) -> None:
        self.path, self.images = path, images
        self.name = path.stem
        self.fingerprint = _fingerprint(path)
        self._map: mmap.mmap | None = None
        self._records: list[Any] | None = None
        self._starts: array[int] = array("Q")
        self._lines: array[int] = array("Q")
        if path.suffix == ".json":
            self._records = _read_list(path)
            self.guided: Sequence[int] = array(
                "Q", (i for i, r in enumerate(self._records) if isinstance(r, dict) and r.get("phrases"))
            )
        else:
            self.guided = self._index()
        if not len(self):
            raise DataError(f"{path}: no record in it")

    @classmethod
    def open(cls, options: Mapping[str, Any]) -> LlavaSource:
        """From a stage's options: `path`, and `images` unless all is text.

        Raises:
            DataError: no such file or folder, or a file that is not JSON.
        """
        check_options("llava", options, {"path": True, "images": False})
        path = Path(str(options["path"])).expanduser()
        images = None if options.get("images") is None else Path(str(options["images"])).expanduser()
        if not path.is_file():
            raise DataError(f"source llava: no such file {path}; give its place with sources.N.options.path")
        if images is not None and not images.is_dir():
            raise DataError(f"source llava: no such folder {images}; give its place with sources.N.options.images")
        return cls(path, images)

    def __len__(self) -> int:
        return len(self._starts) if self._records is None else len(self._records)

    def __getstate__(self) -> dict[str, Any]:
        # Each worker process maps the file for itself.
        return {**self.__dict__, "_map": None}

    def read(self, index: int, epoch: int) -> Sample:
        """A sample. Raises DataError that names file, line and id if it, its image or its regions cannot be used."""
        where = f"{self.path}: record {index}"
        if self._records is not None:
            record = self._records[index]
        else:
            where = f"{self.path}:{self._lines[index]}"
            record = _parse(self._line(index), where)
        if not isinstance(record, dict):
            raise DataError(f"{where}: expected a JSON object with id, image and conversations, not {record!r:.80}")
        key = str(record.get("id", index))
        try:
            return self._sample(record, key)
        except DataError as error:
            raise DataError(f"{where} (id {key}): {error}") from None

    def _sample(self, record: Mapping[str, Any], key: str) -> Sample:
        image = self._image(record)
        turns = record.get("conversations")
        if not isinstance(turns, list) or not turns:
            raise DataError("conversations: expected a list of turns")
        messages, cuts = [], []
        for number, turn in enumerate(turns):
            message, cut = _message(turn, number)
            messages.append(message)
            cuts.append(cut)
        marks = sum(cut is not None for cut in cuts)
        if marks > 1 or (marks and image is None):
            raise DataError(f"{marks} times {IMAGE} in its text and {'no' if image is None else 'one'} image")
        if not any(m.role == "assistant" for m in messages):
            raise DataError("no turn is the assistant's (from gpt): there is nothing to learn from it")
        phrases = record.get("phrases") or []
        if phrases and image is None:
            raise DataError("phrases, but no image")
        made = tuple(
            _phrase(phrase, number, turns, messages, cuts, (image.height, image.width))
            for number, phrase in enumerate(phrases)
        )
        return Sample(key, tuple(messages), image, made)

    def _image(self, record: Mapping[str, Any]) -> Any:
        name = record.get("image")
        if isinstance(name, list):
            if len(name) > 1:
                raise DataError(f"{len(name)} images; this model takes one")
            name = name[0] if name else None
        # JSON's NaN and the text "nan" are what pandas made of a missing name.
        if name is None or name != name or name in ("", "nan"):
            return None
        if not isinstance(name, str):
            raise DataError(f"image: expected a file name, not {name!r}")
        if self.images is None:
            raise DataError(f"image {name}: the source has no folder of images; give it as options.images")
        return decode(read_file(inside(self.images, name), name))

    def _index(self) -> array[int]:
        """Find the lines, and those with phrases."""
        guided = array("Q")
        if not self.path.stat().st_size:
            return guided
        whole = self._bytes()
        start, number, size = 0, 0, len(whole)
        while start < size:
            end = whole.find(b"\n", start)
            end = size if end < 0 else end
            number += 1
            # One look at the text tells the few lines that may have phrases; only these are parsed here.
            if whole[start : min(end, start + 16)].strip() or whole[start:end].strip():
                if whole.find(b'"phrases"', start, end) >= 0:
                    record = _parse(whole[start:end], f"{self.path}:{number}")
                    if isinstance(record, dict) and record.get("phrases"):
                        guided.append(len(self._starts))
                self._starts.append(start)
                self._lines.append(number)
            start = end + 1
        return guided

    def _bytes(self) -> mmap.mmap:
        if self._map is None:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map

    def _line(self, index: int) -> bytes:
        whole, start = self._bytes(), self._starts[index]
        end = whole.find(b"\n", start)
        return whole[start : len(whole) if end < 0 else end]


def _parse(line: bytes, where: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}") from None


def _read_list(path: Path) -> list[Any]:
    try:
        records = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}; name JSON lines .jsonl") from None
    if not isinstance(records, list):
        raise DataError(f"{path}: expected a JSON list of records, not a {type(records).__name__}")
    return records


def _fingerprint(path: Path) -> str:
    """Of the file's size and its bytes, all of them or blocks spread over the file."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            digest.update(file.read())
        else:
            for block in range(BLOCKS):
                file.seek((size - BLOCK_BYTES) * block // (BLOCKS - 1))
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def _message(turn: Any, number: int) -> tuple[Message, tuple[int, int] | None]:
    """A turn without its image mark, and which characters went with the mark."""
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise DataError(f"conversations[{number}]: expected an object with from and value, not {turn!r:.80}")
    role = ROLE_OF.get(str(turn.get("from")))
    if role is None:
        raise DataError(f"conversations[{number}]: from {turn.get('from')!r} is unknown: {', '.join(ROLE_OF)}")
    text = turn["value"]
    start = text.find(IMAGE)
    if start < 0:
        return Message(role, text), None
    if text.count(IMAGE) > 1:
        raise DataError(f"conversations[{number}]: {text.count(IMAGE)} times {IMAGE}; this model takes one image")
    end = start + len(IMAGE)
    # The mark stands in a line of its own; that line goes with it.
    if text[end : end + 1] == "\n":
        end += 1
    elif text[start - 1 : start] == "\n":
        start -= 1
    return Message(role, text[:start] + text[end:]), (start, end)


def _phrase(
    phrase: Any,
    number: int,
    turns: Sequence[Mapping[str, Any]],
    messages: Sequence[Message],
    cuts: Sequence[tuple[int, int] | None],
    size: tuple[int, int],
) -> Phrase:
    where = f"phrases[{number}]"
    if not isinstance(phrase, dict):
        raise DataError(f"{where}: expected an object with message, start, end and segmentation, not {phrase!r:.80}")
    message, start, end = (phrase.get(key) for key in ("message", "start", "end"))
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in (message, start, end)):
        raise DataError(f"{where}: message, start and end must be whole numbers, not {message!r}, {start!r}, {end!r}")
    assert isinstance(message, int) and isinstance(start, int) and isinstance(end, int)  # noqa: PT018
    if not 0 <= message < len(messages):
        raise DataError(f"{where}: message {message} of {len(messages)}, counted from 0")
    told = turns[message]["value"]
    if not 0 <= start < end <= len(told):
        raise DataError(f"{where}: characters {start} to {end} of a message of {len(told)}")
    if (cut := cuts[message]) is not None:
        if start < cut[1] and end > cut[0]:
            raise DataError(f"{where}: characters {start} to {end} hold {IMAGE}")
        if start >= cut[1]:
            start, end = start - (cut[1] - cut[0]), end - (cut[1] - cut[0])
    return Phrase(message, start, end, _region(phrase.get("segmentation"), size, where))


def _region(segmentation: Any, size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """(height, width) bool: the union of polygons or RLE objects."""
    try:
        union = decode_mask(segmentation, *size)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    if not union.any():
        raise DataError(f"{where}: its region is empty")
    return union
