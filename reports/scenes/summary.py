"""What came out of several arms and seeds: means with intervals, paired differences, cost. Everything is computed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from agevlm.errors import DataError
from benchmarks.statistics.scores import Floats
from reports.scenes.asking import AnswerRow, kinds_of, measures
from reports.scenes.causal import CausalRow
from reports.scenes.evaluate import read_evaluation, read_scores
from reports.scenes.files import SCORES, plain, write_json, write_whole
from reports.scenes.intervals import image_draws, over_seeds
from reports.scenes.looks import MEASURES, LookRow
from train.scenes.recipe import STAGES, Recipe

FIRST = "age-vlm"
"""The arm that the others are compared with."""
FOLDER = "evaluation"
SECONDS = "time/elapsed"
SEEING = "seeing"
"""Accuracy minus the same without the image, question by question."""


@dataclass(frozen=True)
class Measured:
    """One score's values, row by row."""

    keys: tuple[tuple[Any, ...], ...]
    """What was measured: the same in two models where both can be compared."""
    values: tuple[float, ...]
    images: tuple[int, ...]
    scenes: int
    """How many there are to resample."""


@dataclass(frozen=True)
class Summary:
    """Every number of the tables. `plain` makes JSON of it."""

    seeds: dict[str, list[int]]
    """Of each arm the seeds that are evaluated."""
    missing: list[str]
    """Arms and seeds that are not."""
    arms: dict[str, dict[str, dict[str, Any]]]
    """Arm -> score -> value, low, high, and each_seed."""
    differences: dict[str, dict[str, dict[str, Any]]]
    """Other arm -> score -> AGE-VLM's minus its, on the same images and seeds."""
    steps: dict[str, dict[int, dict[str, dict[str, Any]]]]
    """Arm -> steps of stage 4 -> score -> value, low, high."""
    step_differences: dict[str, dict[int, dict[str, dict[str, Any]]]]
    """Other arm -> steps of stage 4 -> score -> AGE-VLM's minus its; of steps that both were asked the same after."""
    attention: dict[str, str]
    """What shows each arm the image."""
    language: dict[str, dict[int, dict[int, dict[str, Any]]]]
    """Arm -> seed -> stage -> the language check."""
    cost: dict[str, dict[int, dict[int, dict[str, float]]]]
    """Arm -> seed -> stage -> steps and seconds; a shared stage counts for each of its arms."""
    images: int
    """Test scenes."""


def measured(folder: Path) -> dict[str, Measured]:
    """All scores of an evaluation by name: kind/score of answers, looks/..., hiding/..."""
    answers, looks, hidden = read_evaluation(folder)
    scores = read_scores(folder)
    found: dict[str, Measured] = {}

    def add(name: str, rows: Sequence[Any], keys: Callable[[Any], tuple[Any, ...]], values: Any, scenes: int) -> None:
        kept = [(keys(row), float(v), row.image) for row, v in zip(rows, values, strict=True) if v is not None]
        if kept:
            columns = tuple(zip(*kept, strict=True))
            found[name] = Measured(columns[0], columns[1], columns[2], scenes)

    for kind, own in kinds_of(answers).items():
        every = measures(own)
        for name, values in every.items():
            add(f"{kind}/{name}", own, _answer_key, values, scores["images"])
        seeing = np.array(every["accuracy"], float) - np.array(every["blind"], float)
        add(f"{kind}/{SEEING}", own, _answer_key, seeing, scores["images"])
    for name in MEASURES:
        clipped = np.clip([float(getattr(row, name)) for row in looks], 0, 1)
        add(f"looks/{name}", looks, _object_key, clipped, scores["looks"]["scenes"])
    for name in ("without_object", "without_others"):
        add(f"hiding/{name}", hidden, _object_key, [getattr(row, name) for row in hidden], scores["hiding"]["scenes"])
    return found


def _answer_key(row: AnswerRow) -> tuple[Any, ...]:
    return row.key


def _object_key(row: LookRow | CausalRow) -> tuple[Any, ...]:
    return row.image, row.category


def _weights(known: dict[int, Floats], scenes: int) -> Floats:
    if scenes not in known:
        known[scenes] = image_draws(scenes)
    return known[scenes]


def means(seeds: Mapping[int, Mapping[str, Measured]], known: dict[int, Floats]) -> dict[str, dict[str, Any]]:
    """Of each score its mean over seeds, an interval over seeds and images, and each seed's own mean.

    Raises:
        DataError: seeds that were evaluated on different numbers of scenes.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for own in seeds.values() for name in own):
        having = {seed: own[name] for seed, own in seeds.items() if name in own}
        weights = _weights(known, _one({m.scenes for m in having.values()}, name))
        lowest = -1.0 if name.endswith(f"/{SEEING}") else 0.0
        interval = over_seeds([(m.values, m.images) for m in having.values()], weights, lowest=lowest)
        each = {seed: float(np.mean(m.values)) for seed, m in having.items()}
        found[name] = {**vars(interval), "each_seed": each}
    return found


def differences(
    first: Mapping[int, Mapping[str, Measured]], other: Mapping[int, Mapping[str, Measured]], known: dict[int, Floats]
) -> dict[str, dict[str, Any]]:
    """First minus other, row by row, over the seeds that both have; only of scores whose rows are the same.

    Raises:
        DataError: the arms were asked different questions.
    """
    found: dict[str, dict[str, Any]] = {}
    common = [seed for seed in first if seed in other]
    names = dict.fromkeys(name for seed in common for name in first[seed] if name in other[seed])
    for name in names:
        if name.startswith("hiding/"):
            # Only what a model says is there is hidden from it: not the same objects.
            continue
        pairs = {s: (first[s][name], other[s][name]) for s in common if name in first[s] and name in other[s]}
        if any(a.keys != b.keys for a, b in pairs.values()):
            raise DataError(f"{name}: the arms were not asked the same; evaluate all of them on the same scenes")
        weights = _weights(known, _one({m.scenes for pair in pairs.values() for m in pair}, name))
        gains = {s: (np.subtract(a.values, b.values), a.images) for s, (a, b) in pairs.items()}
        interval = over_seeds(list(gains.values()), weights, lowest=-1.0)
        each = {s: float(np.mean(gain)) for s, (gain, _) in gains.items()}
        found[name] = {**vars(interval), "each_seed": each}
    return found


def _one(scenes: set[int], name: str) -> int:
    if len(scenes) > 1:
        raise DataError(
            f"{name}: evaluated on {' and '.join(map(str, sorted(scenes)))} scenes; evaluate all on as many"
        )
    return scenes.pop()


def stage_folders(recipe: Recipe, arm: str, seed: int) -> dict[int, Path]:
    """Run folders of an arm's (or a variant's) stages, shared ones included."""
    from train.scenes.ablations import ABLATIONS, run_folder

    if arm in ABLATIONS:
        return {stage: run_folder(recipe, ABLATIONS[arm], seed, stage) for stage in ABLATIONS[arm].stages}
    return {stage: recipe.run(arm, seed, stage) for stage in STAGES}


def read_log(run: Path) -> list[dict[str, Any]]:
    """Rows of a run's log.jsonl; none where there is none."""
    log = run / "log.jsonl"
    if not log.is_file():
        return []
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def cost(run: Path) -> dict[str, float] | None:
    """Steps and seconds of a stage by the clock; None without a log. A resumed run's clock starts anew."""
    rows = [row for row in read_log(run) if row.get(SECONDS) is not None]
    if not rows:
        return None
    seconds = [row[SECONDS] for row in rows]
    ended = [a for a, b in pairwise(seconds) if b < a]
    return {"steps": rows[-1]["step"], "seconds": sum(ended) + seconds[-1]}


def evaluations_by_step(run: Path) -> dict[int, Path]:
    """Evaluations `eval-STEP` of a stage's checkpoints."""
    found = {p.name.removeprefix("eval-"): p for p in run.glob("eval-*") if (p / SCORES).is_file()}
    return {int(step): found[step] for step in sorted((s for s in found if s.isdigit()), key=int)}


def gather(recipe: Recipe, arms: Sequence[str]) -> Summary:
    """Read what is there and compute everything; see `summarise`."""
    known: dict[int, Floats] = {}
    rows: dict[str, dict[int, dict[str, Measured]]] = {}
    seeds: dict[str, list[int]] = {}
    missing: list[str] = []
    attention: dict[str, str] = {}
    language: dict[str, dict[int, dict[int, dict[str, Any]]]] = {}
    costs: dict[str, dict[int, dict[int, dict[str, float]]]] = {}
    stepped: dict[str, dict[int, dict[int, dict[str, Measured]]]] = {}
    images = 0
    for arm in arms:
        by_step: dict[int, dict[int, dict[str, Measured]]] = {}
        for seed in recipe.seeds:
            folder = recipe.out / FOLDER / arm / f"seed-{seed}"
            folders = stage_folders(recipe, arm, seed)
            if (folder / SCORES).is_file():
                rows.setdefault(arm, {})[seed] = measured(folder)
                scores = read_scores(folder)
                attention[arm], images = scores["looks"]["attention"], max(images, scores["images"])
            else:
                missing.append(f"{arm}/seed-{seed}")
            for stage, run in folders.items():
                if (run / "language.json").is_file():
                    report = json.loads((run / "language.json").read_text(encoding="utf-8"))
                    language.setdefault(arm, {}).setdefault(seed, {})[stage] = report
                if (spent := cost(run)) is not None:
                    costs.setdefault(arm, {}).setdefault(seed, {})[stage] = spent
            if 4 in folders:
                for step, place in evaluations_by_step(folders[4]).items():
                    by_step.setdefault(step, {})[seed] = measured(place)
        seeds[arm] = sorted(rows.get(arm, {}))
        if by_step:
            # The end belongs to the curve; a checkpoint that was kept of it is the same model.
            for seed, own in rows.get(arm, {}).items():
                if (last := costs.get(arm, {}).get(seed, {}).get(4)) is not None:
                    by_step.setdefault(int(last["steps"]), {}).setdefault(seed, own)
            stepped[arm] = dict(sorted(by_step.items()))
    every = {arm: means(own, known) for arm, own in rows.items()}
    others = {arm: differences(rows[FIRST], own, known) for arm, own in rows.items() if FIRST in rows and arm != FIRST}
    steps = {arm: {step: means(s, known) for step, s in own.items()} for arm, own in stepped.items()}
    apart = {
        arm: _by_step(stepped[FIRST], own, known) for arm, own in stepped.items() if FIRST in stepped and arm != FIRST
    }
    return Summary(
        seeds,
        missing,
        every,
        others,
        steps,
        apart,
        attention,
        language,
        costs,
        images,
    )


def _by_step(
    first: Mapping[int, Mapping[int, Mapping[str, Measured]]],
    other: Mapping[int, Mapping[int, Mapping[str, Measured]]],
    known: dict[int, Floats],
) -> dict[int, dict[str, dict[str, Any]]]:
    """`differences` after each number of steps that both were measured after on as many scenes."""

    def scenes(seeds: Mapping[int, Mapping[str, Measured]]) -> set[tuple[str, int]]:
        return {(name, m.scenes) for own in seeds.values() for name, m in own.items() if not name.startswith("hiding/")}

    same = [step for step in first if step in other and scenes(first[step]) == scenes(other[step])]
    return {step: differences(first[step], other[step], known) for step in same}


def summarise(recipe: Recipe, arms: Sequence[str]) -> Summary:
    """What evaluations in `OUT/evaluation/ARM/seed-K` found, together; also written beside them.

    `summary.json` holds everything, `summary.md` the tables.

    Args:
        recipe: whose seeds and folders are read.
        arms: arms and variants, in the order in which they are shown.

    Raises:
        DataError: the arms were evaluated on different scenes.
    """
    from reports.scenes.tables import markdown

    summary = gather(recipe, arms)
    write_json(recipe.out / FOLDER / "summary.json", plain(summary))
    write_whole(recipe.out / FOLDER / "summary.md", markdown(summary))
    return summary


def print_summary(summary: Summary, console: Any) -> None:
    """The tables on a console."""
    from reports.scenes.tables import rich_tables

    for piece in rich_tables(summary):
        console.print(piece)
