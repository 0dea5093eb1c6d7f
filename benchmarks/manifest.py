"""The manifest of a run: what was run on what, and every launch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agevlm.vlm.contract import Fingerprint
from benchmarks.plan import Plan
from benchmarks.run import Tally
from benchmarks.run_folder import SCHEMA, RunFolder, environment, now
from benchmarks.settings import RunSettings


def open_launch(
    settings: RunSettings,
    folder: RunFolder,
    plan: Plan,
    fingerprint: Fingerprint,
    *,
    benchmark: str,
    data: Sequence[Mapping[str, Any]],
    extra: Mapping[str, Any],
    processes: int,
    reused: int,
) -> None:
    """Write questions.jsonl and run.json for a launch that begins; earlier launches stay listed.

    `data` describes each set of questions, `extra` is what a benchmark has to say besides.
    """
    old = folder.manifest()
    launch = {"started": now(), "processes": processes, "answers_before": reused}
    folder.write_rows("questions.jsonl", plan.rows)
    folder.write_json(
        "run.json",
        {
            "schema": SCHEMA,
            "benchmark": benchmark,
            "created": old.get("created", now()),
            "data": list(data),
            "images": str(settings.images) if settings.images else "in the question files",
            "limit": settings.limit,
            "conditions": list(settings.conditions),
            "prompt": {"name": settings.prompt.name, "template": settings.prompt.template},
            "decoding": settings.decoding,
            "seed": settings.seed,
            "scoring": {"seed": settings.seed, "draws": settings.draws},
            **extra,
            "model": {
                "ckpt": settings.model.name,
                "fingerprint": fingerprint.digest,
                "parts": dict(fingerprint.parts),
                **_session(old, fingerprint),
            },
            **environment(),
            "launches": [*old.get("launches", []), launch],
        },
    )


def _session(old: Mapping[str, Any], fingerprint: Fingerprint) -> dict[str, Any]:
    """How the model described itself in an earlier launch, if it is the same model; a launch may load none."""
    model = old.get("model", {})
    return (
        {"session": model["session"]} if model.get("fingerprint") == fingerprint.digest and "session" in model else {}
    )


def close_launch(folder: RunFolder, total: Tally, description: Mapping[str, object]) -> None:
    """Note in run.json what the launch did and how the model described itself (empty if none was loaded)."""
    manifest = folder.manifest()
    manifest["launches"][-1] |= {
        "ended": now(),
        "answers": total.answers,
        "errors": total.errors,
        "image_groups": total.groups,
        "seconds": round(total.seconds, 3),
    }
    if description:
        manifest["model"]["session"] = dict(description)
    folder.write_json("run.json", manifest)
