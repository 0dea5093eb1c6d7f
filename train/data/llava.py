"""Conversations in LLaVA's format, as one JSON list or as JSON lines, with regions of phrases where there are any.

A record is `{"id", "image", "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"}, ...]}`. It may
have `"phrases": [{"message": 0, "start": 8, "end": 12, "segmentation": ...}]`: characters of a message as it stands in
the file, and COCO's polygons or RLE in pixels of the upright image, or a list of several RLE objects. A phrase without
a segmentation is one whose region is not known.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agevlm.data.images import EncodedFile
from agevlm.errors import DataError
from train.data.files import Records, check_folder, decode_image, fingerprint, read_image, read_region
from train.data.lines import JsonLines
from train.data.samples import BadSample, Message, Phrase, Sample, Words
from train.data.sources import check_options

ROLE_OF = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
IMAGE = "<image>"


class LlavaSource:
    """A LLaVA file and its folder of images.

    JSON lines stay on disk: 8 bytes a record are held in memory. A JSON list is read as a whole.
    """

    def __init__(self, path: Path, images: Path | None, name: str = "") -> None:
        self.path, self.images = path, images
        self.name = name or path.stem
        self.fingerprint = fingerprint(path)
        self._records: Records | JsonLines
        if path.suffix == ".json":
            records = _read_list(path)
            self.guided: Sequence[int] = array("q", (i for i, record in enumerate(records) if _has_region(record)))
            self._records = Records(records)
        else:
            self._records = JsonLines(path)
            self.guided = self._records.guided
        if not len(self):
            raise DataError(f"{path}: no record in it")

    @classmethod
    def open(cls, options: Mapping[str, Any]) -> LlavaSource:
        """From a stage's options: `path`, `images` unless all is text, and `name` if not that of the file.

        Raises:
            DataError: no such file or folder, or a file that is not JSON.
        """
        check_options("llava", options, {"path": True, "images": False, "name": False})
        path = Path(str(options["path"])).expanduser()
        images = None if options.get("images") is None else Path(str(options["images"])).expanduser()
        if not path.is_file():
            raise DataError(f"source llava: no such file {path}; give its place with sources.N.options.path")
        check_folder("llava", images)
        return cls(path, images, str(options.get("name") or ""))

    def __len__(self) -> int:
        return len(self._records)

    def read(self, index: int, epoch: int) -> Sample:
        """A sample.

        Raises:
            BadSample: the record, its image or its regions cannot be used; it names file, line and id.
            DataError: the folder of images is gone, or was never given.
        """
        key = str(index)
        try:
            record = self.record(index)
            key = str(record.get("id", index))
            return self._sample(record, key)
        except BadSample as bad:
            raise bad.at(self._where(index), key) from None
        except DataError as error:
            raise DataError(f"{self._where(index)} (id {key}): {error}") from None

    def _where(self, index: int) -> str:
        if isinstance(self._records, JsonLines):
            return f"{self.path}:{self._records.number(index)}"
        return f"{self.path}: record {index}"

    def record(self, index: int) -> Mapping[str, Any]:
        """A record as it is in the file. Raises BadSample if it is no JSON object."""
        record = self._records[index]
        if isinstance(self._records, JsonLines):
            try:
                record = json.loads(record)
            except (ValueError, RecursionError) as error:
                raise BadSample(f"not JSON: {error}") from None
        if not isinstance(record, dict):
            raise BadSample(f"expected a JSON object with id, image and conversations, not {record!r:.80}")
        return record

    def _sample(self, record: Mapping[str, Any], key: str) -> Sample:
        file = self._image_file(record)
        turns = record.get("conversations")
        if not isinstance(turns, list) or not turns:
            raise BadSample("conversations: expected a list of turns")
        messages, cuts = [], []
        for number, turn in enumerate(turns):
            message, cut = _message(turn, number)
            messages.append(message)
            cuts.append(cut)
        marks = sum(cut is not None for cut in cuts)
        if marks > 1 or (marks and file is None):
            raise BadSample(f"{marks} times {IMAGE} in its text and {'no' if file is None else 'one'} image")
        if not any(m.role == "assistant" for m in messages):
            raise BadSample("no turn is the assistant's (from gpt): there is nothing to learn from it", "silent")
        named = record.get("phrases") or []
        if not isinstance(named, list):
            raise BadSample(f"phrases: expected a list, not {named!r:.80}", "region")
        if named and file is None:
            raise BadSample("phrases, but no image", "region")
        if file is None:
            return Sample(key, tuple(messages))
        image = decode_image(file)
        found = [_words(phrase, number, turns, messages, cuts) for number, phrase in enumerate(named)]
        phrases = tuple(
            Phrase(words.message, words.start, words.end, read_region(region, image, f"phrases[{number}]"))
            for number, (words, region) in enumerate(found)
            if region is not None
        )
        alone = tuple(words for words, region in found if region is None)
        return Sample(key, tuple(messages), image, phrases, alone, file.name, file.sha256)

    def _image_file(self, record: Mapping[str, Any]) -> EncodedFile | None:
        name = record.get("image")
        if isinstance(name, list):
            if len(name) > 1:
                raise BadSample(f"{len(name)} images; this model takes one")
            name = name[0] if name else None
        # JSON's NaN and the text "nan" are what pandas made of a missing name.
        if name is None or name != name or name in ("", "nan"):
            return None
        if not isinstance(name, str):
            raise BadSample(f"image: expected a file name, not {name!r}")
        return read_image(self.images, name)


def _read_list(path: Path) -> list[Any]:
    try:
        records = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}; name JSON lines .jsonl") from None
    if not isinstance(records, list):
        raise DataError(f"{path}: expected a JSON list of records, not a {type(records).__name__}")
    return records


def _has_region(record: Any) -> bool:
    phrases = record.get("phrases") if isinstance(record, dict) else None
    return isinstance(phrases, list) and any(isinstance(p, dict) and p.get("segmentation") is not None for p in phrases)


def _message(turn: Any, number: int) -> tuple[Message, tuple[int, int] | None]:
    """A turn without its image mark, and which characters went with the mark."""
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise BadSample(f"conversations[{number}]: expected an object with from and value, not {turn!r:.80}")
    role = ROLE_OF.get(str(turn.get("from")))
    if role is None:
        raise BadSample(f"conversations[{number}]: from {turn.get('from')!r} is unknown: {', '.join(ROLE_OF)}")
    text = turn["value"]
    start = text.find(IMAGE)
    if start < 0:
        return Message(role, text), None
    if text.count(IMAGE) > 1:
        raise BadSample(f"conversations[{number}]: {text.count(IMAGE)} times {IMAGE}; this model takes one image")
    end = start + len(IMAGE)
    # The mark stands in a line of its own; that line goes with it.
    if text[end : end + 1] == "\n":
        end += 1
    elif text[start - 1 : start] == "\n":
        start -= 1
    return Message(role, text[:start] + text[end:]), (start, end)


def _words(
    phrase: Any,
    number: int,
    turns: Sequence[Mapping[str, Any]],
    messages: Sequence[Message],
    cuts: Sequence[tuple[int, int] | None],
) -> tuple[Words, Any]:
    """A phrase's words in their message without the image mark, and its segmentation; None where it has none."""
    where = f"phrases[{number}]"
    if not isinstance(phrase, dict):
        raise BadSample(
            f"{where}: expected an object with message, start, end and segmentation, not {phrase!r:.80}", "region"
        )
    message, start, end = (phrase.get(key) for key in ("message", "start", "end"))
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in (message, start, end)):
        raise BadSample(
            f"{where}: message, start and end must be whole numbers, not {message!r}, {start!r}, {end!r}", "region"
        )
    assert isinstance(message, int) and isinstance(start, int) and isinstance(end, int)  # noqa: PT018
    if not 0 <= message < len(messages):
        raise BadSample(f"{where}: message {message} of {len(messages)}, counted from 0", "region")
    told = turns[message]["value"]
    if not 0 <= start < end <= len(told):
        raise BadSample(f"{where}: characters {start} to {end} of a message of {len(told)}", "region")
    if (cut := cuts[message]) is not None:
        if start < cut[1] and end > cut[0]:
            raise BadSample(f"{where}: characters {start} to {end} hold {IMAGE}", "region")
        if start >= cut[1]:
            start, end = start - (cut[1] - cut[0]), end - (cut[1] - cut[0])
    return Words(message, start, end), phrase.get("segmentation")
