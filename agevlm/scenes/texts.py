"""Texts beside rendered scenes on disk: CV-Scenes, captions right and wrong, statements true and false."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from agevlm.scenes.language import Facts, Text, caption, draw_statements, mismatched_caption
from agevlm.scenes.questions import cv_scenes, to_jsonl
from agevlm.scenes.types import SPLIT_SIZE

CV_SCENES, CAPTIONS, STATEMENTS = "cv-scenes.jsonl", "captions.jsonl", "statements.jsonl"
STATEMENTS_EACH = 4
"""True ones of a scene; as many false ones."""


@dataclass(frozen=True)
class Described:
    """A scene on disk that texts are about."""

    seed: int
    file_name: str
    facts: Facts
    annotations: tuple[int, ...]
    """Ids in instances.json, in the order of the facts' instances."""


def write_texts(folder: Path, scenes: Sequence[Described]) -> None:
    """Write all three files. A scene's texts depend on its seed alone, and its CV-Scenes on its place in its split.

    cv-scenes.jsonl has CV-Bench's fields. captions.jsonl: `caption` and `mismatched`, a caption in which one object is
    replaced by another that is not there. statements.jsonl: `kind` (exist, absence, count, color, relation, depth),
    `true`. Texts come with `mentions`: start and end of words; kind, which is object, or attribute, relation or
    negation for what is said of objects; and the ids of the annotations that it names or is said of, none for what is
    not there or not so.
    """
    numbers = [scene.seed % SPLIT_SIZE for scene in scenes]
    questions = list(cv_scenes([scene.facts for scene in scenes], numbers=numbers))
    (folder / CV_SCENES).write_text(
        to_jsonl(questions, [scene.file_name for scene in scenes]), encoding="utf-8", newline="\n"
    )
    for name, rows in ((CAPTIONS, _captions(scenes)), (STATEMENTS, _statements(scenes))):
        with (folder / name).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def _captions(scenes: Sequence[Described]) -> Iterator[dict[str, Any]]:
    for scene in scenes:
        draw = Random(f"captions:{scene.seed}")
        if scene.facts.present:
            yield {
                **_about(scene),
                "caption": _with_mentions(scene, caption(scene.facts, draw)),
                "mismatched": _with_mentions(scene, mismatched_caption(scene.facts, draw)),
            }


def _statements(scenes: Sequence[Described]) -> Iterator[dict[str, Any]]:
    for scene in scenes:
        for true in (True, False):
            draw = Random(f"statements:{scene.seed}:{true}")
            for said in draw_statements(scene.facts, draw, STATEMENTS_EACH, true):
                yield {**_about(scene), "kind": said.kind, "true": true, **_with_mentions(scene, said.text)}


def _about(scene: Described) -> dict[str, Any]:
    return {"image_id": scene.seed, "file_name": scene.file_name}


def _with_mentions(scene: Described, text: Text) -> dict[str, Any]:
    mentions = [
        {
            "start": m.start,
            "end": m.end,
            "kind": m.kind,
            "annotation_ids": [scene.annotations[i] for i in m.instances],
        }
        for m in text.mentions
    ]
    return {"text": text.text, "mentions": mentions}
