"""From CV-Bench's questions, images and a model's fingerprint to planned asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from agevlm.data.sources import ImageSource, require_images
from benchmarks.cvbench.prompts import CvPrompt
from benchmarks.cvbench.questions import QuestionSet
from benchmarks.cvbench.ranked import ranked_texts
from benchmarks.plan import Plan, Planner
from benchmarks.showing import Shower


def plan_cvbench(
    questions: QuestionSet,
    source: ImageSource,
    *,
    prompt: CvPrompt,
    conditions: Sequence[str],
    decoding: Mapping[str, Any],
    ranked: bool,
    fingerprint: str,
    seed: int,
) -> Plan:
    """Plan every question under every condition; identical (image, prompt, options) are planned once.

    Args:
        questions: the questions.
        source: where their images are.
        prompt: template of the asks.
        conditions: "image" and controls.
        decoding: settings that are part of an answer's identity.
        ranked: whether the options are to be ranked too.
        fingerprint: the model's digest, likewise part of the identity.
        seed: of the order and the controls.

    Raises:
        DataError: images are missing (how many, the first names), or a control is impossible.
    """
    require_images(source, (q.image for q in questions.questions))
    clusters: dict[str, set[str]] = {}
    for q in questions.questions:
        clusters.setdefault(q.cluster, set()).add(q.image)
    shower = Shower(source, clusters, conditions, seed, questions.data_version)
    planner = Planner(decoding, fingerprint)
    rows = []
    for q in questions.questions:
        text = prompt.of(q.prompt, len(q.options))
        options = ranked_texts(q.options) if ranked else ()
        keys = {c: planner.add(shower.of(q.image, c), text, options) for c in conditions}
        rows.append({"question": {k: v for k, v in asdict(q).items() if k != "where"}, "keys": keys})
    return Plan(planner.groups(seed), rows)
