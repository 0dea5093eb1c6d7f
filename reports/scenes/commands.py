"""Commands that train every arm in the scenes world and measure them. Heavy imports happen inside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agevlm.terminal import consoles, stoppable

if TYPE_CHECKING:
    from train.scenes.recipe import Recipe
    from train.scenes.tasks import Task

SMOKE_IMAGES = 12


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--smoke", is_flag=True, help="So little of everything that it ends in two minutes."),
        click.option(
            "--images", default=1000, show_default=True, type=click.IntRange(2), help="Test scenes to ask about."
        ),
        click.option(
            "--trunk", default="convnet", show_default=True, help="convnet or convnext; give each its own --out."
        ),
        click.option("--workers", type=click.IntRange(1), help="Processes at once, one thread each.  [cores]"),
        click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Change a setting of every stage."),
        click.option("--seed", "seeds", multiple=True, default=(0,), type=click.IntRange(0), help="Repeatable.  [0]"),
        click.option(
            "--out", type=click.Path(path_type=Path), default=Path("runs/scenes"), show_default=True, help="Folder."
        ),
    ):
        command = option(command)
    return command


@click.command()
@_common
@click.option(
    "--arm", "arms", multiple=True, metavar="NAME", help="age-vlm, ca-baseline, concat, concat-unfrozen.  [all]"
)
@click.option(
    "--at-step",
    "steps",
    multiple=True,
    type=click.IntRange(1),
    help="Evaluate stage 4 also after so many steps, repeatable; a checkpoint is kept every 250.",
)
@click.option("--train-only", is_flag=True, help="Do not evaluate.")
def scenes(arms: tuple[str, ...], steps: tuple[int, ...], train_only: bool, **options: Any) -> None:
    """Train AGE-VLM and its baselines from nothing in the rendered world, and measure them on held-out scenes.

    Renders the scenes, pretrains a small vision trunk and a small language model, then trains the arms through their
    stages: about two hours for one seed on two CPU cores. Everything that is done stays done: after an interruption
    the same command goes on.

    \b
    agevlm-train scenes
    agevlm-train scenes --seed 0 --seed 1 --seed 2
    agevlm-train scenes --smoke --out /tmp/smoke
    """
    from agevlm.errors import DataError
    from train.scenes.recipe import ARMS, check_steps, recipe_tasks

    if unknown := sorted(set(arms) - set(ARMS)):
        raise DataError(f"--arm {unknown[0]}: there is no such arm; give one of {', '.join(ARMS)}")
    recipe, images = _recipe(arms=arms or ARMS, **options)
    check_steps(recipe, () if train_only else steps)
    tasks = recipe_tasks(recipe)
    models = {(arm, seed): recipe.model(arm, seed) for seed in recipe.seeds for arm in recipe.arms}
    if not train_only:
        tasks += [_evaluation(recipe, model, f"{arm}/seed-{seed}", images) for (arm, seed), model in models.items()]
        for step in steps:
            for arm, seed in models:
                tasks += _evaluation_at(recipe, recipe.run(arm, seed, 4), step, images)
    _run(recipe, tasks, options["workers"])
    if not train_only:
        _report(recipe, list(recipe.arms))


@click.command("scenes-ablate")
@_common
@click.option("--which", multiple=True, metavar="NAME", help="Variants, repeatable.  [all]")
def scenes_ablate(which: tuple[str, ...], **options: Any) -> None:
    """Train variants of AGE-VLM in the rendered world and measure them like the arms.

    Give the folder of `agevlm-train scenes`: what the variants share with it is not trained again. A smaller budget
    (--set vars.steps_4=500) needs a folder of its own, or the variants are compared with arms that learned longer.
    """
    from agevlm.errors import DataError
    from train.scenes.ablations import ABLATIONS, ablation_tasks, last_model
    from train.scenes.recipe import recipe_tasks

    if unknown := sorted(set(which) - set(ABLATIONS)):
        raise DataError(f"--which {unknown[0]}: there is no such variant; give one of {', '.join(ABLATIONS)}")
    recipe, images = _recipe(arms=("age-vlm", "ca-baseline"), **options)
    tasks = recipe_tasks(recipe)
    chosen = [ABLATIONS[name] for name in which or ABLATIONS]
    for seed in recipe.seeds:
        for one in chosen:
            tasks += ablation_tasks(recipe, one, seed)
            tasks.append(_evaluation(recipe, last_model(recipe, one, seed), f"{one.name}/seed-{seed}", images))
        for arm in recipe.arms:
            tasks.append(_evaluation(recipe, recipe.model(arm, seed), f"{arm}/seed-{seed}", images))
    _run(recipe, tasks, options["workers"])
    _report(recipe, [*recipe.arms, *(one.name for one in chosen)])


def _recipe(
    *,
    out: Path,
    seeds: Sequence[int],
    arms: Sequence[str],
    settings: Sequence[str],
    smoke: bool,
    images: int,
    trunk: str,
    **_: Any,
) -> tuple[Recipe, int]:
    from agevlm.errors import DataError
    from train.scenes.recipe import SMOKE, Budget, Recipe
    from train.scenes.trunk import TRUNKS

    if trunk not in TRUNKS:
        raise DataError(f"--trunk {trunk}: there is no such trunk; give one of {', '.join(TRUNKS)}")
    budget = SMOKE if smoke else Budget()
    # Tasks are processes of their own: a relative folder must not depend on where they are started.
    folder = out.expanduser().resolve()
    recipe = Recipe(folder, tuple(dict.fromkeys(seeds)), tuple(arms), budget, tuple(settings), trunk)
    return recipe, min(images, SMOKE_IMAGES) if smoke else min(images, budget.held_out_scenes)


def _evaluation(recipe: Recipe, model: Path, name: str, images: int) -> Task:
    """Of a trained arm or variant."""
    out, need = recipe.out / "evaluation" / name, str(model.parent.relative_to(recipe.out))
    return _evaluating(recipe, f"evaluation/{name}", model, out, need, images)


def _evaluation_at(recipe: Recipe, run: Path, step: int, images: int) -> list[Task]:
    """Of a stage's checkpoint: the model of that step, and what it knows."""
    from train.scenes.recipe import ENTRY
    from train.scenes.tasks import Task

    stage, model = str(run.relative_to(recipe.out)), run / f"at-{step}"
    export = (*ENTRY, "export", str(run), "--step", str(step), "--out", str(model))
    exported = Task(f"{stage}/at-{step}", export, model, (stage,))
    return [exported, _evaluating(recipe, f"{stage}/eval-{step}", model, run / f"eval-{step}", exported.name, images)]


def _images_of(scores: Path) -> int | None:
    """Of a measurement that is done."""
    import json

    return int(json.loads(scores.read_text(encoding="utf-8"))["images"]) if scores.exists() else None


def _evaluating(recipe: Recipe, name: str, model: Path, out: Path, need: str, images: int) -> Task:
    from agevlm.errors import DataError
    from train.scenes.tasks import Task

    if (before := _images_of(out / "scores.json")) is not None and before < images:
        raise DataError(f"{out} was measured on {before} scenes, fewer than --images {images}; remove it to do it anew")
    command = ("-m", "reports.scenes.evaluate_one", "--ckpt", str(model), "--data", str(recipe.data), "--out", str(out))
    size = ("--images", str(images), "--scenes", str(recipe.budget.held_out_scenes))
    return Task(name, (*command, *size), out / "scores.json", (need,))


def _run(recipe: Recipe, tasks: list[Task], workers: int | None) -> None:
    from train.scenes.recipe import claim
    from train.scenes.tasks import run_tasks

    claim(recipe)
    _, notes = consoles()
    count = workers or os.cpu_count() or 1
    # A polite kill must stop the tasks too, as Ctrl-C does.
    with stoppable():
        run_tasks(tasks, recipe.out / "logs", count, lambda said: notes.print(said, markup=False))


def _report(recipe: Recipe, arms: list[str]) -> None:
    from reports.scenes.figures import accuracy_by_steps, training_curves
    from reports.scenes.summary import print_summary, summarise

    console, notes = consoles()
    summary = summarise(recipe, arms)
    print_summary(summary, console)
    figures = recipe.out / "figures"
    training_curves(recipe, arms, figures / "training.png")
    accuracy_by_steps(summary, figures / "steps.png")
    _draw_attention(recipe, arms, figures / "attention.png")
    notes.print(f"all of it is in {recipe.out}")


def _draw_attention(recipe: Recipe, arms: Sequence[str], out: Path) -> None:
    """Where the first seed's arms with cross-attention look in the first test scenes, side by side."""
    from reports.scenes.evaluate import load_vlm, read_scores
    from reports.scenes.figures import Arm, attention_sheet
    from train.scenes.store import SceneStore

    seed, shown = recipe.seeds[0], []
    for name in ("age-vlm", "ca-baseline"):
        if name in arms:
            scores = read_scores(recipe.out / "evaluation" / name / f"seed-{seed}")
            shown.append(Arm(name, load_vlm(recipe.model(name, seed)), scores["looks"]["word_threshold"]))
    if shown:
        store = SceneStore.open(recipe.data, "test", recipe.budget.held_out_scenes)
        attention_sheet(store, shown, out)
