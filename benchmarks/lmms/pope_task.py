"""What the task files `agevlm_pope_*` call: POPE's documents, read and counted by our own protocols.

A document is a row of the hub's POPE (lmms-lab-encoder/POPE): question, answer (yes or no), image_source, image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

from benchmarks.pope.protocols import PROTOCOLS
from benchmarks.prompts import load_prompt, strip_suffix
from benchmarks.reading import Label
from benchmarks.statistics.scores import score_counts

PREFIX = "agevlm_pope_"
SCORES = ("accuracy", "precision", "recall", "f1", "yes_ratio")
BESIDE = ("official",)
"""Protocols whose accuracy and F1 stand beside the default protocol's scores."""
IMAGE = "image"
"""Key of the image in what goes to the aggregation: the cluster of lmms-eval's clustered standard error."""


def doc_to_visual(doc: Mapping[str, Any]) -> list[Any]:
    """The document's image."""
    return [doc["image"].convert("RGB")]


def doc_to_text(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> str:
    """The question in the template that the task names as `prompt` (default, official, or a file)."""
    template = (lmms_eval_specific_kwargs or {}).get("prompt", "default")
    return load_prompt(template).of(strip_suffix(doc["question"]))


def doc_to_target(doc: Mapping[str, Any]) -> str:
    """yes or no."""
    return str(doc["answer"])


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What one answer adds to every metric.

    Accuracy and yes ratio are means over answers, so their entries carry a `score` and get lmms-eval's standard
    errors; precision, recall and F1 are none, so theirs carry counts alone and get none.
    """
    word = str(doc["answer"]).strip().lower()
    if word not in ("yes", "no"):
        raise ValueError(f"answer of question {doc.get('question_id')} must be yes or no, not {doc['answer']!r}")
    gold, answer = word == "yes", results[0]
    image = str(doc.get("image_source") or doc.get("question_id"))
    entries: dict[str, dict[str, Any]] = {}
    for name in ("default", *BESIDE):
        protocol = PROTOCOLS[name]
        label = protocol.read(answer, gold).label
        effect = protocol.count(label, gold)
        entry = {IMAGE: image, "label": label.value, "counts": list(astuple(effect))}
        scored = {"accuracy": effect.correct, "yes_ratio": effect.yes}
        ending = "" if name == "default" else f"_{name}"
        for score in SCORES if name == "default" else ("accuracy", "f1"):
            extra = {"score": float(scored[score])} if score in scored else {}
            entries[f"{PREFIX}{score}{ending}"] = {**entry, **extra}
        if name == "default":
            unread = float(label not in (Label.YES, Label.NO))
            entries[f"{PREFIX}unparsed"] = {**entry, "score": unread}
    return entries


def _aggregate(score: str, entries: Sequence[Mapping[str, Any]]) -> float:
    totals = [sum(column) for column in zip(*(entry["counts"] for entry in entries), strict=True)]
    return float(score_counts(totals)[score])


def accuracy(entries: Sequence[Mapping[str, Any]]) -> float:
    """Corpus accuracy."""
    return _aggregate("accuracy", entries)


def precision(entries: Sequence[Mapping[str, Any]]) -> float:
    """Corpus precision; NaN where nothing was read as yes."""
    return _aggregate("precision", entries)


def recall(entries: Sequence[Mapping[str, Any]]) -> float:
    """Corpus recall."""
    return _aggregate("recall", entries)


def f1(entries: Sequence[Mapping[str, Any]]) -> float:
    """Corpus F1, from counts over all answers."""
    return _aggregate("f1", entries)


def yes_ratio(entries: Sequence[Mapping[str, Any]]) -> float:
    """Share of yes among the *answers*."""
    return _aggregate("yes_ratio", entries)


def unparsed(entries: Sequence[Mapping[str, Any]]) -> float:
    """Share of answers that the default protocol cannot read."""
    return float(sum(entry["score"] for entry in entries) / len(entries))
