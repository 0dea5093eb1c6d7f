"""A comparison as plain values, for `--json`: fractions, not per cent; null where undefined."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from benchmarks.statistics.paired import Difference
from reports.compare.comparison import Lead
from reports.compare.flips import Flip
from reports.compare.numbers import Group
from reports.compare.sides import Side


def to_json(lead: Lead) -> dict[str, Any]:
    """All of it: the headline, every number, group and category, every flip."""
    one = lead.comparison
    return {
        "benchmark": one.base.benchmark,
        "base": _side(one.base),
        "other": _side(one.other),
        "difference": "other - base",
        "different": [{"what": u.aspect, "base": u.base, "other": u.other} for u in one.unlike],
        "same_model": one.same_model,
        "shared": len(one.pairing.pairs),
        "images": one.images,
        "only_base": one.pairing.only_base,
        "only_other": one.pairing.only_other,
        "changed": one.pairing.changed,
        "not_counted": list(one.pairing.not_counted),
        "unanswered": list(one.pairing.unanswered),
        "headline": {
            "name": one.headline.name,
            "metric": lead.metric,
            **_difference(lead.difference),
            "p_holm": _finite(lead.p),
            "verdict": lead.verdict,
        },
        "numbers": [{"name": n.name, **{score: _difference(d) for score, d in n.scores.items()}} for n in one.numbers],
        "groups": [_group(g) for g in one.groups],
        "categories": [_group(g) for g in one.categories],
        "flips": [_flip(f) for f in one.flips],
    }


def _side(side: Side) -> dict[str, Any]:
    manifest: Mapping[str, Any] = side.opened.manifest
    return {
        "letter": side.letter,
        "label": side.label,
        "folder": str(side.folder),
        "model": manifest.get("model", {}).get("ckpt"),
        "fingerprint": manifest.get("model", {}).get("fingerprint"),
        "data": [one.get("data_version") for one in manifest.get("data", ())],
        "prompt": manifest.get("prompt", {}).get("name"),
        "reading": side.opened.reading,
        "condition": side.opened.condition,
        "remarks": list(side.opened.remarks),
    }


def _difference(one: Difference) -> dict[str, Any]:
    return {
        "base": _finite(one.second),
        "other": _finite(one.first),
        "difference": _finite(one.gain.value),
        "low": _finite(one.gain.low),
        "high": _finite(one.gain.high),
        "standard_error": _finite(one.standard_error),
        "minimum_detectable_effect": _finite(one.detectable),
        "p": _finite(one.p),
    }


def _group(one: Group) -> dict[str, Any]:
    return {
        "name": one.name,
        "n": one.n,
        "images": one.images,
        "base": one.base,
        "other": one.other,
        "difference": one.gain.value,
        "low": _finite(one.gain.low),
        "high": _finite(one.gain.high),
        "only_base_right": one.only_base,
        "only_other_right": one.only_other,
        "mcnemar_p": one.mcnemar,
        "design_effect": _finite(one.design_effect),
        "p": one.p,
        "p_holm": one.holm,
        "verdict": one.verdict,
    }


def _flip(one: Flip) -> dict[str, Any]:
    return {
        "right": "other" if one.gained else "base",
        "split": one.base.split,
        "id": one.base.number,
        "category": one.base.category,
        "image": one.base.image,
        "question": one.base.text,
        "official": one.base.official,
        "base_answer": one.base.answer,
        "other_answer": one.other.answer,
        "base_logprobs": {name: _finite(value) for name, value in one.base.logprobs.items()},
        "other_logprobs": {name: _finite(value) for name, value in one.other.logprobs.items()},
        "base_margin": one.margins[0],
        "other_margin": one.margins[1],
        "sure": one.sure,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
