"""What the task files `agevlm_cvbench_*` call: CV-Bench's documents, read by our own protocols.

A document is a row of the hub's nyu-visionx/CV-Bench: prompt, choices, answer as "(B)", source, image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.cvbench.readings import OFFICIAL_PROMPT, read

PREFIX = "agevlm_cvbench_"
PROTOCOLS = ("rules", "official", "strict")
"""The first names the plain metric `accuracy`."""
IMAGE = "image"
"""Key of the source image in what goes to the aggregation: the cluster of the clustered standard error."""


def doc_to_visual(doc: Mapping[str, Any]) -> list[Any]:
    """The document's image."""
    return [doc["image"].convert("RGB")]


def doc_to_text(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> str:
    """The data set's own prompt in the task's template (`{prompt}` is its place)."""
    template = str((lmms_eval_specific_kwargs or {}).get("template", OFFICIAL_PROMPT))
    return template.replace("{prompt}", doc["prompt"])


def doc_to_target(doc: Mapping[str, Any]) -> str:
    """The right option's letter in brackets."""
    return str(doc["answer"])


def right_option(doc: Mapping[str, Any]) -> int:
    """The right option's place in `choices`. Raises ValueError for an answer that names none of them."""
    letter = str(doc["answer"]).strip("() ").upper()
    place = ord(letter) - ord("A") if len(letter) == 1 else -1
    if not 0 <= place < len(doc["choices"]):
        raise ValueError(f"row {doc.get('idx')}: answer {doc['answer']!r} is none of {len(doc['choices'])} options")
    return place


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Whether the answer is right under each protocol, with its id, source and image."""
    gold = right_option(doc)
    source = str(doc["source"])
    image = f"{source}/{doc.get('source_filename') or doc.get('filename') or doc.get('idx')}"
    entries = {}
    for name in PROTOCOLS:
        reading = read(name, results[0], doc["choices"])
        ending = "" if name == PROTOCOLS[0] else f"_{name}"
        entries[f"{PREFIX}accuracy{ending}"] = {
            "id": doc.get("idx"),
            "score": float(reading.option == gold),
            "source": source,
            IMAGE: image,
            "option": reading.option,
            "rule": reading.rule,
        }
    unread = float(entries[f"{PREFIX}accuracy"]["option"] is None)
    entries[f"{PREFIX}unparsed"] = {"score": unread, "source": source, IMAGE: image}
    return entries


def mean_of_sources(entries: Sequence[Mapping[str, Any]]) -> float:
    """The mean of the sources' accuracies: of ADE20K and COCO in 2D, Omni3D's own in 3D.

    The plain mean of the two tasks, which the group takes, is then CV-Bench's official number,
    1/2 ((ADE20K + COCO) / 2 + Omni3D).
    """
    scores: dict[str, list[float]] = {}
    for entry in entries:
        scores.setdefault(entry["source"], []).append(entry["score"])
    return float(sum(sum(values) / len(values) for values in scores.values()) / len(scores))


def unparsed(entries: Sequence[Mapping[str, Any]]) -> float:
    """Share of answers that name no option."""
    return float(sum(entry["score"] for entry in entries) / len(entries))
