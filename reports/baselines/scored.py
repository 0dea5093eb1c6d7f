"""The numbers of an ablation's columns: what training logged, and headlines of evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agevlm.errors import AgeVlmError, DataError
from reports.baselines.joint import Sums, sums_of
from reports.baselines.linking import Makers, NoRun, Point, evaluated
from reports.document import Unit
from reports.opened import Run
from reports.runs.headline import FIELD, UNITS, Headline, headlines, lead
from reports.runs.listing import State, look_at

LOGGED = ("loss/text", "loss/guidance", "attention/iou")
"""Columns of the log unless others are chosen. `loss` itself has weights in it that runs may differ in."""
PERPLEXITY = "language/perplexity"


@dataclass(frozen=True)
class Metric:
    """A column."""

    name: str
    """As the log names it, or the benchmark and its headline: pope/F1."""
    about: str = ""
    """Of an evaluation: data, prompt and reading. Two metrics of a name differ in it."""
    unit: Unit = "number"


@dataclass
class Values:
    """One metric of all runs."""

    of: dict[tuple[int, int], float] = field(default_factory=dict)
    """By the identity of the training run and the steps trained."""
    folders: dict[tuple[int, int], Run] = field(default_factory=dict)
    sums: dict[tuple[int, int], Sums] = field(default_factory=dict)
    """Of those whose answers are at hand."""


def key(point: Point) -> tuple[int, int]:
    """A training run, which is one object, and the steps it trained."""
    return id(point.run), point.steps


def logged(points: Sequence[Point], remarks: list[str]) -> dict[Metric, Values]:
    """Everything that the log has at a point's steps, and the language check of a finished run.

    A number that is not finite is no value, and `remarks` says so: a mean over the other seeds would hide it.
    """
    found: dict[Metric, Values] = {}
    for point in points:
        row = dict(point.run.log.get(point.steps, {}))
        check = point.run.language or {}
        if point.steps == point.run.steps and isinstance(check.get("perplexity_after"), (int, float)):
            row[PERPLEXITY] = float(check["perplexity_after"])
        lost = [name for name, value in row.items() if not math.isfinite(value)]
        if lost:
            remarks.append(
                f"{point.run.folder}: {', '.join(lost)} not finite at step {point.steps}: in no mean, though the run "
                "failed there"
            )
        for name, value in row.items():
            if name not in ("step", "samples", *lost) and not name.startswith(("time/", "lr/", "source/")):
                found.setdefault(Metric(name), Values()).of[key(point)] = value
    return found


def scored(runs: Sequence[Run], makers: Makers, remarks: list[str]) -> tuple[dict[Metric, Values], list[Point]]:
    """Headlines of evaluations, each at the training run and steps whose weights it is of.

    An evaluation of a model that no known run made is left out, and `remarks` says why.

    Returns:
        The values by metric, and the points they are of.
    """
    found: dict[Metric, Values] = {}
    points: list[Point] = []
    for run in runs:
        made: dict[str, tuple[list[Point], Mapping[str, Any]]] = {}
        for name, parts in evaluated(run.manifest):
            try:
                made[name] = makers.points(name, parts), parts
            except NoRun as why:
                remarks.append(f"left out: {run.folder} ({name}): {why}")
        every = _headlines(run, remarks) if made else []
        for name, (own, parts) in made.items():
            points += own
            for headline in every:
                # Where a run is of one model, what a headline is about is its data.
                of_data = headline.about if run.benchmark in FIELD else ""
                if of_data or headline.about in ("", name):
                    about = ", ".join(filter(None, (of_data, _about(run), *_loaded(parts))))
                    metric = Metric(f"{run.benchmark}/{headline.measure}", about, UNITS[headline.unit])
                    for point in own:
                        _put(found.setdefault(metric, Values()), point, run, headline, remarks)
    return found, points


def _put(values: Values, point: Point, run: Run, headline: Headline, remarks: list[str]) -> None:
    place = key(point)
    if place in values.of:
        first = values.folders[place]
        if headline.value != values.of[place]:
            remarks.append(f"{point.run.folder}: evaluated twice, in {first.folder} and {run.folder}; the first counts")
        return
    if headline.value is None:
        return
    values.of[place], values.folders[place] = headline.value, run
    sums = sums_of(run, headline.measure, headline.about)
    # Made of the same answers by another version of the program, it may not be the same number.
    if sums is not None and abs(sums.value - headline.value) < 1e-9:
        values.sums[place] = sums


def _headlines(run: Run, remarks: list[str]) -> list[Headline]:
    """Of all its models; none, and why, where it is not whole."""
    if run.scores is None or not _whole(run, remarks):
        return []
    try:
        _about(run)
        return [one for one in headlines(run.benchmark, run.scores) if one.unit != "count"]
    except (AgeVlmError, KeyError, TypeError) as error:
        remarks.append(f"left out: {run.folder}: {error}")
        return []


def _loaded(parts: Mapping[str, Any]) -> Iterator[str]:
    """How a model was loaded, where that is not as it was trained."""
    if parts.get("dtype", "float32") != "float32":
        yield f"in {parts['dtype']}"
    if parts.get("quantisation", "null") != "null":
        yield f"quantised {parts['quantisation']}"


def _whole(run: Run, remarks: list[str]) -> bool:
    """Whether all of a run is scored; what the model failed on is only told."""
    listed = look_at(run.folder)
    if listed is None or listed.state is State.COMPLETE:
        return True
    said = f"{run.folder}: {listed.state}" + (f": {listed.detail}" if listed.detail else "")
    remarks.append(said if listed.state is State.FAILED else f"left out: {said}")
    return listed.state is State.FAILED


def _data(one: Mapping[str, Any]) -> str:
    """A published version by its name; anything else by its own name and a hash of it."""
    name, version = one.get("name", "no name"), str(one.get("data_version", ""))
    if version and not version.startswith("custom"):
        return version
    digest = version or one.get("digest") or one.get("sha256") or "no hash"
    return f"{name} ({str(digest)[:24]})"


def _about(run: Run) -> str:
    """What two evaluations must share to be in one column."""
    data = ", ".join(map(_data, run.manifest.get("data", ())))
    said = [data]
    if run.benchmark in FIELD:
        field_name = FIELD[run.benchmark]
        said += [f"prompt {run.manifest['prompt']['name']}", f"{field_name} {lead(run.scores or {}, field_name)}"]
    elif isinstance(prompt := run.manifest.get("prompt"), str):
        said.append(f"prompt “{' '.join(prompt.split())}”")
    if run.manifest.get("limit") is not None:
        said.append(f"limit {run.manifest['limit']}")
    return ", ".join(said)


def chosen(found: Mapping[Metric, Values], names: Sequence[str]) -> list[Metric]:
    """The columns: those named, else the usual ones of the log and all evaluations.

    Raises:
        DataError: a name that no run has a number of.
    """
    if names:
        known = list(dict.fromkeys(metric.name for metric in found))
        for name in names:
            if name not in known:
                raise DataError(f"--metric {name}: no run has it; there are: {', '.join(known)}")
        return [metric for name in names for metric in found if metric.name == name]
    usual = [metric for name in LOGGED for metric in found if metric.name == name and any(found[metric].of.values())]
    perplexity = Metric(PERPLEXITY)
    changed = perplexity in found and len({round(v, 9) for v in found[perplexity].of.values()}) > 1
    return [*usual, *([perplexity] if changed else []), *(m for m in found if m.about)]
