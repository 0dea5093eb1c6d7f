"""One POPE run: from question sets, images and a model's fingerprint to planned asks, and back to scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from agevlm.data.sources import ImageSource, require_images
from benchmarks.plan import Plan, Planner, drawn
from benchmarks.pope.types import LIMIT, QuestionSet
from benchmarks.prompts import Prompt
from benchmarks.showing import Shower


def limit_images(sets: Sequence[QuestionSet], limit: int | None, seed: int) -> tuple[QuestionSet, ...]:
    """`limit` seeded images (pairs in POPEv2) of each set, with all their questions in all splits.

    A larger limit takes the same images and more, and sets of the same images (RePOPE's) take the same ones. The limit
    becomes part of the data version: a score on some images is none on the published set.
    """
    if limit is None:
        return tuple(sets)
    limited = []
    for one in sets:
        chosen = drawn((q.cluster for q in one.questions), limit, seed)
        kept = tuple(q for q in one.questions if q.cluster in chosen)
        version = (
            f"{one.data_version}{LIMIT}{limit} seed {seed}" if len(kept) < len(one.questions) else one.data_version
        )
        limited.append(replace(one, data_version=version, questions=kept))
    return tuple(limited)


def plan_pope(
    sets: Sequence[QuestionSet],
    sources: Sequence[ImageSource],
    *,
    prompt: Prompt,
    conditions: Sequence[str],
    decoding: Mapping[str, Any],
    fingerprint: str,
    seed: int,
) -> Plan:
    """Plan every question under every condition; identical (image, prompt) pairs are planned once.

    A row of the plan also has the number of its set in the manifest.

    Args:
        sets: the questions.
        sources: where each set's images are, one per set.
        prompt: template of the asks.
        conditions: "image" and controls.
        decoding: settings that are part of an answer's identity.
        fingerprint: the model's digest, likewise.
        seed: of the order and the controls.

    Raises:
        DataError: images are missing (how many, the first names), or a control is impossible.
    """
    planner = Planner(decoding, fingerprint)
    rows = []
    for number, (one, source) in enumerate(zip(sets, sources, strict=True)):
        require_images(source, (q.image for q in one.questions))
        clusters: dict[str, set[str]] = {}
        for q in one.questions:
            clusters.setdefault(q.cluster, set()).add(q.image)
        shower = Shower(source, clusters, conditions, seed, one.name)
        for question in one.questions:
            text = prompt.of(question.text)
            keys = {c: planner.add(shower.of(question.image, c), text) for c in conditions}
            plain = {k: v for k, v in asdict(question).items() if k != "where"}
            rows.append({"set": number, "question": plain, "keys": keys})
    return Plan(planner.groups(seed), rows)
