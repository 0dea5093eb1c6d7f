"""Training runs as rows: grouped by their settings, repeats by seed, means with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from agevlm.errors import AgeVlmError, DataError, RunFolderError
from benchmarks.statistics.clusters import Interval
from reports.baselines.joint import alike, over_seeds_and_images
from reports.baselines.linking import Makers, Point
from reports.baselines.scored import Metric, Values, chosen, key, logged, scored
from reports.baselines.seeds import over_seed_values
from reports.baselines.settings import SEEDS, Settings, differing, equal, settings_of, telling
from reports.baselines.training import RUN, Training, is_training, open_training
from reports.opened import Run, open_runs

LOOKING = ("guidance.layers", "guidance.tokens", "guidance.answers", "guidance.noise")
"""Where training measures attention, and against which regions: its loss and looks are of these."""


@dataclass(frozen=True)
class Mean:
    """One cell."""

    interval: Interval
    each: Mapping[str, float]
    """By the run's seed, or its folder where other settings differ too."""
    over: str
    """seeds, seeds and images, or empty: one seed, no interval."""


@dataclass(frozen=True)
class Row:
    """Runs of the same settings."""

    settings: Mapping[str, str]
    """Of the columns; settings that a run has not got are left out."""
    runs: Mapping[str, Path]
    """Folders by seed, or by folder."""
    means: Mapping[Metric, Mean]
    over_first: Mapping[Metric, Mean]
    """These minus the first row's, on the seeds of both; none in the first row, nor where rows mix settings."""


@dataclass(frozen=True)
class Ablation:
    """All that a table says."""

    columns: Sequence[str]
    metrics: Sequence[Metric]
    rows: Sequence[Row]
    same: Settings
    """Settings that all runs share."""
    following: Sequence[str]
    """Settings that differ, but follow from the columns."""
    mixed: Sequence[str]
    """Settings in which runs of one row differ beside their seeds."""
    windows: Sequence[int]
    """Steps between the rows of the logs."""
    forms: bool
    """Whether the form of the guidance loss differs."""
    looking: Sequence[str]
    """Of `LOOKING` those that differ."""
    lost: bool
    """Whether the settings of earlier stages are not at hand of every run."""
    remarks: Sequence[str]


def ablate(
    folders: Sequence[Path], evaluations: Sequence[Path], by: Sequence[str] = (), metrics: Sequence[str] = ()
) -> Ablation:
    """Read training runs and evaluations of their models, and group them.

    Args:
        folders: run folders of training stages or of evaluations.
        evaluations: run folders of evaluations alone.
        by: settings that make rows; all that differ if empty.
        metrics: names of columns; the usual ones if empty.

    Raises:
        DataError: no run is left; a setting or metric that none has; two runs of the same settings and seed.
    """
    remarks: list[str] = []
    trainings, runs = _opened(folders, evaluations, remarks)
    makers = Makers(trainings)
    found, points = scored(runs, makers, remarks)
    points = _points(makers, points, remarks)
    if not points:
        raise DataError("; ".join(["no finished training run to show", *remarks]))
    found = logged(points, remarks) | found
    every = settings_of(points)
    names = differing(every)
    if by:
        _known(by, every)
    groups = _grouped(points, every, list(by) or names)
    mixed = [name for name in names if by and any(len({every[i].get(name) for i in own}) > 1 for own in groups)]
    columns = list(by) or telling(every, names)
    wanted = chosen(found, metrics)
    named = [_named([points[i] for i in own], bool(mixed)) for own in groups]
    rows = [
        Row(
            {name: every[places[0]][name] for name in columns if name in every[places[0]]},
            {label: point.run.folder for label, point in own.items()},
            _means(wanted, found, own),
            {} if mixed or own is named[0] else _means(wanted, found, own, named[0]),
        )
        for places, own in zip(groups, named, strict=True)
    ]
    return Ablation(
        columns,
        wanted,
        rows,
        equal(every),
        [] if by else [name for name in names if name not in columns],
        mixed,
        sorted({int(point.run.spec.get("log_every", 0)) for point in points}),
        bool(_differing(every, ("guidance.form",))),
        _differing(every, LOOKING),
        any(point.run.earlier is None for point in points),
        remarks,
    )


def _opened(
    folders: Sequence[Path], evaluations: Sequence[Path], remarks: list[str]
) -> tuple[list[Training], list[Run]]:
    trainings: list[Training] = []
    others: list[Path] = []
    for folder in dict.fromkeys(path.resolve() for path in folders):
        try:
            # A folder that is no run may hold evaluations.
            if (folder / RUN).exists() and is_training(folder):
                trainings.append(open_training(folder))
                remarks += trainings[-1].remarks
            else:
                others.append(folder)
        except AgeVlmError as error:
            remarks.append(f"left out: {error}")
    asked = [*others, *(path.resolve() for path in evaluations)]
    if not asked:
        return trainings, []
    try:
        runs, left_out = open_runs(asked)
    except RunFolderError as error:
        runs, left_out = [], [str(error)]
    remarks += [f"left out: {why}" for why in left_out]
    return trainings, runs


def _points(makers: Makers, evaluated: Sequence[Point], remarks: list[str]) -> list[Point]:
    """Every finished run at its end, and what was evaluated before it."""
    found: dict[tuple[int, int], Point] = {}
    for run in makers.runs:
        if run.finished:
            point = Point(run, run.steps)
            found[key(point)] = point
            if run.log and run.steps not in run.log:
                remarks.append(
                    f"{run.folder}: its log ends at step {max(run.log)} of {run.steps}: no losses of its end"
                )
        else:
            remarks.append(
                f"left out: {run.folder}: step {run.done} of {run.steps}; go on with: agevlm-train resume {run.folder}"
            )
    for point in evaluated:
        found.setdefault(key(point), point)
    remarks += [f"{run.folder}: read too, as what was evaluated is of it" for run in makers.added]
    return list(found.values())


def _differing(every: Sequence[Settings], names: Sequence[str]) -> list[str]:
    """Those in which runs that have them differ."""
    return [name for name in names if len({one[name] for one in every if name in one}) > 1]


def _known(by: Sequence[str], every: Sequence[Settings]) -> None:
    known = list(dict.fromkeys(name for one in every for name in one))
    for name in by:
        if name in SEEDS:
            raise DataError(f"--by {name}: seeds are repeats of a row, not rows; without --by each row says its seeds")
        if name not in known:
            near = get_close_matches(name, known, 5) or [n for n in known if not n.startswith(("stage ", "model."))]
            raise DataError(f"--by {name}: no such setting; there are: {', '.join(near)}")


def _grouped(points: Sequence[Point], every: Sequence[Settings], names: Sequence[str]) -> list[list[int]]:
    """Places of the runs of each row, in the order in which the rows first come."""
    groups: dict[tuple[str | None, ...], list[int]] = {}
    seen: dict[tuple[Any, ...], Path] = {}
    for place, (point, settings) in enumerate(zip(points, every, strict=True)):
        whole = (point.run.seed, tuple(sorted(settings.items())))
        if whole in seen:
            raise DataError(
                f"{seen[whole]} and {point.run.folder}: the same settings and seed, so the second repeats nothing; "
                "give one of them"
            )
        seen[whole] = point.run.folder
        groups.setdefault(tuple(settings.get(name) for name in names), []).append(place)
    return list(groups.values())


def _named(points: Sequence[Point], mixed: bool) -> dict[str, Point]:
    """The runs of a row by their seeds; by their folders, and steps before the end, where they differ in more."""
    return {folder_name(point) if mixed else seed_name(point.run): point for point in points}


def folder_name(point: Point) -> str:
    """The folder; two points of one run differ in their steps."""
    early = "" if point.steps == point.run.steps else f" at step {point.steps}"
    return f"{point.run.folder}{early}"


def seed_name(run: Training) -> str:
    """The seed; that of the data behind it where it is another."""
    seed, data = run.seed
    return str(seed) if seed == data else f"{seed} (data {data})"


def _means(
    metrics: Sequence[Metric],
    found: Mapping[Metric, Values],
    own: Mapping[str, Point],
    first: Mapping[str, Point] | None = None,
) -> dict[Metric, Mean]:
    """Of each metric that any run has; `first`: minus these runs', seed by seed."""
    means = {}
    for metric in metrics:
        values = found[metric]
        points = {label: [point] for label, point in own.items()}
        if first is not None:
            points = {label: [*pair, first[label]] for label, pair in points.items() if label in first}
        having = [label for label, pair in points.items() if all(key(point) in values.of for point in pair)]
        if having:
            means[metric] = _mean(metric, values, {label: [key(point) for point in points[label]] for label in having})
    return means


def _mean(metric: Metric, values: Values, places: Mapping[str, Sequence[tuple[int, int]]]) -> Mean:
    """The mean over seeds of one place's value, or of the first's minus the second's."""
    each = {label: values.of[pair[0]] - sum(values.of[place] for place in pair[1:]) for label, pair in places.items()}
    sums = [[values.sums[place] for place in pair if place in values.sums] for pair in places.values()]
    whole = all(len(found) == len(pair) for found, pair in zip(sums, places.values(), strict=True))
    if len(each) > 1 and whole and alike([one for pair in sums for one in pair]):
        minus = [one for pair in sums for one in pair[1:]]
        return Mean(over_seeds_and_images([pair[0] for pair in sums], minus), each, "seeds and images")
    lowest = -1.0 if any(len(pair) > 1 for pair in places.values()) else 0.0
    bounds = (lowest, 1.0) if metric.unit == "percent" else ()
    return Mean(over_seed_values(list(each.values()), *bounds), each, "seeds" if len(each) > 1 else "")
