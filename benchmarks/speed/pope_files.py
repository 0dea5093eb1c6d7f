"""The fixture as files of a POPE run: question files of three splits, a folder of pictures, and the run's settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agevlm.vlm.choice import ModelChoice
from agevlm.vlm.contract import Fingerprint, Vlm
from benchmarks.speed.questions import SPLITS, question_rows

if TYPE_CHECKING:
    from benchmarks.pope.settings import PopeSettings


@dataclass(frozen=True)
class Given(ModelChoice):
    """A model that is there already (or made without weights), in the place of one that a user names."""

    make: Callable[[], Vlm] | None = None

    def folder(self) -> Path | None:
        """There is none to look into."""
        return None

    def fingerprint(self) -> Fingerprint:
        """Of the name: no file stands behind it."""
        return Fingerprint(self.name, {"name": self.name})

    def load(self) -> Vlm:
        """The model."""
        assert self.make is not None
        return self.make()


def write_pope(folder: Path, images: int, picture: Callable[[int], bytes], ending: str) -> None:
    """Write `coco_pope_*.json` and a folder `images`; 18 questions an image.

    Args:
        folder: an empty one.
        images: how many.
        picture: an image file's bytes by number.
        ending: of the image files' names.
    """
    (folder / "images").mkdir(parents=True)
    files = {split: (folder / f"coco_pope_{split}.json").open("w", encoding="ascii") for split in SPLITS}
    for index in range(images):
        name = f"COCO_val2014_{index:012}{ending}"
        (folder / "images" / name).write_bytes(picture(index))
        for place, text in enumerate(question_rows(index)):
            row = {
                "question_id": 6 * index + place % 6 + 1,
                "image": name,
                "text": text,
                "label": "yes" if place % 6 < 3 else "no",
            }
            files[SPLITS[place // 6]].write(json.dumps(row) + "\n")
    for file in files.values():
        file.close()


def pope_settings(folder: Path, model: ModelChoice, *, limit: int = 128, draws: int = 2000) -> PopeSettings:
    """The settings of `agevlm-eval pope` on what `write_pope` wrote, its run folder within."""
    from benchmarks.pope.protocols import PROTOCOLS
    from benchmarks.pope.settings import PopeSettings
    from benchmarks.prompts import load_prompt

    return PopeSettings(
        model=model,
        questions=tuple(str(folder / f"coco_pope_{split}.json") for split in SPLITS),
        images=folder / "images",
        splits=(),
        repope=None,
        prompt=load_prompt("default"),
        protocols=tuple(PROTOCOLS.values()),
        controls=(),
        max_new_tokens=limit,
        limit=None,
        seed=0,
        draws=draws,
        out=folder / "run",
        fresh=False,
        verify=0,
        json_out=None,
        allow_partial=False,
    )
