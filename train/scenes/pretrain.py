"""The tasks behind `agevlm-train scenes` that are no stages: rendering, trunk, language model, joining them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from agevlm.cli import run
from train.scenes.recipe import Budget, Recipe

SPREAD = 0.08
"""Of the new weights: about 1 / sqrt(width). With LLaMA's 0.02 a product of small matrices learns late."""
CROSS_LAYERS = (1, 4, 7)
"""Of nine fused layers: before the second, fourth and sixth of LLaMA's."""


@click.group()
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--trunk", default="convnet")
@click.option("--budget", default="{}")
@click.pass_context
def main(context: click.Context, out: Path, trunk: str, budget: str) -> None:
    """Called by the recipe, one process a task."""
    given: dict[str, Any] = json.loads(budget)
    if "steps" in given:
        given["steps"] = {int(stage): steps for stage, steps in given["steps"].items()}
    context.obj = Recipe(out, budget=Budget(**given), trunk=trunk)


def _stores(recipe: Recipe) -> tuple[Any, Any]:
    from train.scenes.store import SceneStore

    held_out = SceneStore.open(recipe.data, "validation", recipe.budget.held_out_scenes)
    return SceneStore.open(recipe.data, "train", recipe.budget.train_scenes), held_out


def _write_scores(folder: Path, scores: dict[str, float]) -> None:
    (folder / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    click.echo(json.dumps(scores))


@main.command()
@click.pass_obj
def data(recipe: Recipe) -> None:
    """Render all splits."""
    from train.scenes.store import SceneStore

    _stores(recipe)
    SceneStore.open(recipe.data, "test", recipe.budget.held_out_scenes)
    recipe.rendered.touch()


@main.command()
@click.pass_obj
def trunk(recipe: Recipe) -> None:
    """Vision."""
    import torch

    from train.scenes.trunk import TRUNKS, pretrain_trunk

    torch.set_num_threads(1)
    train, held_out = _stores(recipe)
    out = recipe.base / "trunk"
    chosen = TRUNKS[recipe.trunk]
    chosen = replace(chosen, steps=recipe.budget.trunk_steps or chosen.steps)
    scores = pretrain_trunk(train, held_out, out, chosen, 0, click.echo)
    _write_scores(out, scores)


@main.command()
@click.pass_obj
def language(recipe: Recipe) -> None:
    """Language."""
    import torch

    from train.scenes.language_model import LanguageRecipe, pretrain_language

    torch.set_num_threads(1)
    train, held_out = _stores(recipe)
    out = recipe.base / "language"
    chosen = LanguageRecipe(steps=recipe.budget.language_steps)
    _write_scores(out, pretrain_language(train.facts, out, chosen, 0, held_out.facts, click.echo))


@main.command()
@click.option("--seed", required=True, type=int)
@click.option("--fusion", required=True)
@click.option("--layers", help="Of cross-attention, if others than the recipe's.")
@click.option("--name", help="Of the folder.  [the fusion]")
@click.pass_obj
def join(recipe: Recipe, seed: int, fusion: str, layers: str | None, name: str | None) -> None:
    """Stage 0."""
    from agevlm.model.assemble import AssembleSettings, assemble
    from train.scenes.trunk import TRUNKS
    from train.scenes.words import CHAT_TEMPLATE

    cross = fusion == "cross"
    places = CROSS_LAYERS if layers is None else tuple(map(int, layers.split(",")))
    assemble(
        AssembleSettings(
            llama=str(recipe.base / "language"),
            vision=str(recipe.base / "trunk"),
            out=recipe.base / f"seed-{seed}" / (name or fusion),
            image_size=96,
            num_stages=TRUNKS[recipe.trunk].num_stages,
            fusion=fusion,
            cross_layers=places if cross else None,
            visual_positions="sincos",
            chat_template=CHAT_TEMPLATE,
            seed=seed,
            initializer_range=SPREAD,
        )
    )


if __name__ == "__main__":
    run(main)
