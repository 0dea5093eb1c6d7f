"""From nothing to trained arms in the scenes world: which tasks there are, and what each needs.

Vision and language are pretrained once (`base`); a seed draws its own adapter and cross-attention, its own order of
data and its own guided samples. Arms that are the same up to a stage share it: the baseline without guidance has
AGE-VLM's stages 1 and 2, and the concatenation whose language model is trained in stage 4 the other's stages 1 to 3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agevlm.appearing import file_appears
from agevlm.errors import TrainError
from agevlm.scenes.world import WORLD_VERSION
from train.config import load_stage
from train.scenes.tasks import Task
from train.scenes.trunk import TRUNKS

ARMS = ("age-vlm", "ca-baseline", "concat", "concat-unfrozen")
STAGES = {1: "align", 2: "vision", 3: "guide", 4: "instruct"}
ENTRY = ("-c", "from agevlm.cli import train_main; train_main()")
"""How a task calls our own command line."""
SHARED = {"ca-baseline": ("age-vlm", 2), "concat-unfrozen": ("concat", 3)}
"""An arm whose first stages are another's, and how many."""


@dataclass(frozen=True)
class Budget:
    """How much of everything."""

    train_scenes: int = 20_000
    held_out_scenes: int = 1_000
    trunk_steps: int | None = None
    """As the trunk's own recipe has it, if None."""
    language_steps: int = 5_000
    steps: Mapping[int, int] = field(default_factory=lambda: {1: 500, 2: 200, 3: 300, 4: 1_000})
    """Of each stage."""


SMOKE = Budget(400, 60, 30, 30, {1: 4, 2: 3, 3: 3, 4: 6})
"""Too little to learn anything: that all of it runs."""


@dataclass(frozen=True)
class Recipe:
    """Which arms and seeds to train, where, and with how much of everything."""

    out: Path
    seeds: tuple[int, ...] = (0,)
    arms: tuple[str, ...] = ARMS
    budget: Budget = field(default_factory=Budget)
    settings: tuple[str, ...] = ()
    """Further settings of every stage, as --set has them."""
    trunk: str = "convnet"
    """One of `train.scenes.trunk.TRUNKS`."""

    @property
    def data(self) -> Path:
        return self.out / "data"

    @property
    def rendered(self) -> Path:
        """Marks that all scenes of this budget are there."""
        return self.data / f"rendered-{self.budget.train_scenes}-{self.budget.held_out_scenes}"

    @property
    def base(self) -> Path:
        return self.out / "base"

    def run(self, arm: str, seed: int, stage: int) -> Path:
        """The run folder of a stage, its own or the one it shares."""
        other, last = SHARED.get(arm, (arm, 0))
        owner = other if stage <= last else arm
        return self.out / owner / f"seed-{seed}" / f"{stage}-{STAGES[stage]}"

    def model(self, arm: str, seed: int) -> Path:
        """The trained checkpoint of an arm."""
        return self.run(arm, seed, 4) / "model"


RECORD = "recipe.json"


def claim(recipe: Recipe) -> None:
    """Note in the folder what all of it is made with, or see that it is made with the same: what is done is not done
    again, and models of two recipes would stand side by side in one table.

    Raises:
        TrainError: the folder cannot be written, or holds the work of another recipe.
    """
    made: dict[str, Any] = {
        "budget": asdict(recipe.budget),
        "trunk": recipe.trunk,
        "settings": list(recipe.settings),
        "world": WORLD_VERSION,
    }
    made = json.loads(json.dumps(made))
    path = recipe.out / RECORD
    try:
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            if differing := [name for name in made if before.get(name) != made[name]]:
                told = "; ".join(f"{name} was {before.get(name)}, is {made[name]}" for name in differing)
                raise TrainError(f"{recipe.out} holds the work of another recipe: {told}; give another --out")
        else:
            recipe.out.mkdir(parents=True, exist_ok=True)
            with file_appears(path) as unfinished:
                unfinished.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    except ValueError as error:
        raise TrainError(f"{path}: not what agevlm-train scenes writes: {error}; give another --out") from None
    except (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError) as error:
        raise TrainError(f"{recipe.out}: cannot be written: {error.strerror}; give another --out") from None


def check_steps(recipe: Recipe, steps: Sequence[int]) -> None:
    """See that checkpoints of these steps of stage 4 will be there.

    Raises:
        TrainError: a step that is not kept.
    """
    for arm in recipe.arms if steps else ():
        config = f"scenes/{arm}/4-{STAGES[4]}"
        spec = load_stage(config, stage_settings(recipe, recipe.seeds[0], 4))
        first = spec.steps - (spec.keep - 1) * spec.save_every
        kept = [step for step in range(spec.save_every, spec.steps, spec.save_every) if step >= first]
        if missing := [step for step in steps if step not in (*kept, spec.steps)]:
            raise TrainError(
                f"--at-step {missing[0]}: stage 4 of {arm} has {spec.steps} steps, and checkpoints are kept of "
                f"{', '.join(map(str, (*kept, spec.steps)))}; see vars.steps_4, save_every and keep"
            )


def pretraining(recipe: Recipe) -> tuple[str, ...]:
    """How a task calls `train.scenes.pretrain`; the name of what it makes comes behind."""
    return ("-m", "train.scenes.pretrain", "--out", str(recipe.out), "--trunk", recipe.trunk)


def base_tasks(recipe: Recipe) -> list[Task]:
    """Rendering, and what stands in for pretraining."""
    budget = json.dumps(asdict(recipe.budget))
    common = (*pretraining(recipe), "--budget", budget)
    return [
        Task("data", (*common, "data"), recipe.rendered),
        Task("trunk", (*common, "trunk"), recipe.base / "trunk" / "scores.json", ("data",)),
        Task("language", (*common, "language"), recipe.base / "language" / "scores.json", ("data",)),
    ]


def seed_tasks(recipe: Recipe, seed: int) -> list[Task]:
    """Everything of one seed behind the base."""
    tasks: dict[str, Task] = {}
    for arm in recipe.arms:
        fusion = "concat" if arm.startswith("concat") else "cross"
        stage0 = recipe.base / f"seed-{seed}" / fusion
        name = f"seed-{seed}/{fusion}"
        join = (*pretraining(recipe), "join", "--seed", str(seed), "--fusion", fusion)
        tasks[name] = Task(name, join, stage0, ("trunk", "language"))
        before, model = name, stage0
        for stage in STAGES:
            run = recipe.run(arm, seed, stage)
            name = str(run.relative_to(recipe.out))
            if name not in tasks:
                config = f"scenes/{arm}/{stage}-{STAGES[stage]}"
                tasks[name] = stage_task(recipe, config, seed, stage, run, before, model, ())
            before, model = name, run / "model"
    return list(tasks.values())


def stage_settings(recipe: Recipe, seed: int, stage: int) -> tuple[str, ...]:
    """What every stage is told, as --set has it."""
    return (
        f"vars.runs={recipe.out}",
        f"vars.stage0={recipe.base / f'seed-{seed}'}",
        f"vars.data={recipe.data}",
        f"vars.scenes={recipe.budget.train_scenes}",
        f"vars.steps_{stage}={recipe.budget.steps[stage]}",
        f"vars.vision_block=model.vision_tower.trunk.{TRUNKS[recipe.trunk].last_block}",
        f"data_seed={seed}",
        *recipe.settings,
    )


def stage_task(
    recipe: Recipe, config: str, seed: int, stage: int, run: Path, before: str, model: Path, settings: Sequence[str]
) -> Task:
    """Train one stage into `run` by the command line, or go on with it."""
    sets = (*stage_settings(recipe, seed, stage), *settings)
    command = (*ENTRY, "run", "--config", config, "--seed", str(seed), "--out", str(run), "--init-from", str(model))
    return Task(
        str(run.relative_to(recipe.out)),
        (*command, *(part for one in sets for part in ("--set", one))),
        run / "model",
        (before,),
        (*ENTRY, "resume", str(run)),
        run / "stage.yaml",
    )


def recipe_tasks(recipe: Recipe) -> list[Task]:
    """All of it, the base first."""
    return [*base_tasks(recipe), *(task for seed in recipe.seeds for task in seed_tasks(recipe, seed))]
