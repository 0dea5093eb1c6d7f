"""The settings of training runs as text, and which of them tell runs apart. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reports.baselines.linking import Point
from train.config import NOT_MATHS

SEEDS = frozenset({"seed", "data_seed"})
"""Runs that differ in these alone are repeats of one another."""
_IGNORED = (NOT_MATHS - {"arm", "name"}) | SEEDS | {"micro_batch_size", "gradient_checkpointing", "stage", "sources"}
_OF_FILES = frozenset({"transformers_version", "dtype", "torch_dtype", "architectures", "_name_or_path"})
"""Of a model's config.json: they say how it is stored."""
NONE_THERE = "none"
LONG = 40
"""Characters of a text that makes a column too wide."""
Settings = dict[str, str]


def settings_of(points: Sequence[Point]) -> list[Settings]:
    """All that the result of each depends on but its seeds, by name.

    Of the stages before a run's settings as their run folders have them; where one of these is gone, by what the
    model's record says, arm and steps. What is not at hand of every run is left out of all.
    """
    runs = [point.run for point in points]
    lineage = all(run.before is not None for run in runs)
    earlier = all(run.earlier is not None for run in runs)
    architecture = all(run.architecture is not None for run in runs)
    return [_settings(point, lineage, earlier, architecture) for point in points]


def _settings(point: Point, lineage: bool, earlier: bool, architecture: bool) -> Settings:
    run, before = point.run, (point.run.before or ()) if lineage else ()
    found = {"arm": _text(run.spec["arm"]), "stage": f"{run.spec['stage']} {run.spec['name']}"}
    if lineage:
        found["stages"] = "-".join(str(one["stage"]) for one in (*before, run.spec))
    found |= {name: text for name, text in _own(run.spec).items() if name not in ("arm", "name")}
    found["trained steps"] = _text(point.steps)
    data = run.identity.get("data", ())
    found["data"] = ", ".join(f"{name} ({size:,} samples, {digest[:8]})" for name, digest, size in data)
    for stage, spec in (run.earlier or {}).items() if earlier else ():
        found |= {f"stage {stage}: {name}": text for name, text in _own(spec).items() if name != "name"}
    for one in before:
        found |= {f"stage {one['stage']}: {name}": _text(one[name]) for name in ("arm", "steps")}
    flat = _flat(run.architecture or {}) if architecture else ()
    return found | {f"model.{name}": text for name, text in flat if name not in _OF_FILES}


def _own(spec: Mapping[str, Any]) -> Settings:
    found = dict(_flat({name: value for name, value in spec.items() if name not in _IGNORED}))
    for number, source in enumerate(spec.get("sources", ())):
        head = f"sources.{number}"
        found |= {f"{head}.kind": _text(source["kind"]), f"{head}.weight": _text(source["weight"])}
        # Where files lie says nothing of what is in them: that is the setting `data`.
        options = {name: value for name, value in source.get("options", {}).items() if "/" not in str(value)}
        found |= dict(_flat(options, f"{head}.options."))
    return found | {"guidance": NONE_THERE if spec.get("guidance") is None else "yes"}


def _flat(values: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{head}{name}.")
        else:
            yield f"{head}{name}", _text(value)


def _text(value: Any) -> str:
    if value is None:
        return NONE_THERE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        # The shortest text that is the number: 1.0 and 1 are one setting.
        return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or NONE_THERE
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def differing(every: Sequence[Settings]) -> list[str]:
    """Names of the settings that differ, in their order; one that a run has not got differs from any it may have."""
    names = dict.fromkeys(name for one in every for name in one)
    return [name for name in names if len({one.get(name) for one in every}) > 1]


def telling(every: Sequence[Settings], names: Sequence[str]) -> list[str]:
    """Of the settings that differ those worth a column; the others follow from these, and no two runs look alike.

    A setting of the stage itself has one where the runs that have it differ in it, and its texts are short. Anything
    else (long lists of modules, the model's layout, the data, the stages before) only where it tells runs apart that
    no column so far does.
    """
    kept = [name for name in names if _of_its_own(name, every)]
    for name in names:
        if name not in kept and not _follows(name, kept, every):
            kept.append(name)
    return [name for name in names if name in kept]


def _of_its_own(name: str, every: Sequence[Settings]) -> bool:
    texts = {one[name] for one in every if name in one}
    other = name == "data" or name.startswith(("model.", "stage ")) or (name == "trained steps" and _repeats(every))
    return not other and len(texts) > 1 and max(map(len, texts)) <= LONG


def _repeats(every: Sequence[Settings]) -> bool:
    return all(one["trained steps"] == one["steps"] for one in every)


def _follows(name: str, others: Sequence[str], every: Sequence[Settings]) -> bool:
    """Whether a setting is a function of others."""
    places = [tuple(one.get(other) for other in others) for one in every]
    return len(set(places)) == len({(place, one.get(name)) for place, one in zip(places, every, strict=True)})


def equal(every: Sequence[Settings]) -> Settings:
    """The settings that all runs share, of the stage itself."""
    first = every[0]
    return {
        name: text
        for name, text in first.items()
        if not name.startswith(("model.", "stage "))
        and name not in ("trained steps", "guidance")
        and all(one.get(name) == text for one in every)
    }
