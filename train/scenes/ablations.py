"""What happens to AGE-VLM if one thing is done otherwise: variants of the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from train.scenes.pretrain import CROSS_LAYERS
from train.scenes.recipe import STAGES, Recipe, pretraining, stage_task
from train.scenes.tasks import Task


@dataclass(frozen=True)
class Ablation:
    """One variant of AGE-VLM."""

    name: str
    what: str
    """For tables."""
    stages: tuple[int, ...] = (1, 2, 3, 4)
    """Stages that are trained, in order."""
    begins: int = 3
    """The first stage that differs: those before are AGE-VLM's own."""
    settings: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """By stage, as --set has them."""
    layers: tuple[int, ...] = CROSS_LAYERS
    """Of cross-attention, in the fused stack."""


def _guided(*settings: str, stages: tuple[int, ...] = (3, 4)) -> dict[int, tuple[str, ...]]:
    return dict.fromkeys(stages, settings)


def _positions(name: str, what: str, layers: tuple[int, ...]) -> Ablation:
    modules = ", ".join(f"model.language_model.layers.{i}" for i in layers)
    settings = (f"trainable.cross.modules=[{modules}]",)
    return Ablation(name, what, begins=1, settings=dict.fromkeys(STAGES, settings), layers=layers)


ABLATIONS = {
    one.name: one
    for one in (
        Ablation("no-stage-1", "stage 2 starts from nothing", (2, 3, 4), 2, {2: ("follows=[0]",)}),
        Ablation("no-stage-2", "vision is first trained in stage 3", (1, 3, 4), 3, {3: ("follows=[1]",)}),
        Ablation("no-stage-3", "guided in stage 4 alone", (1, 2, 4), 4, {4: ("follows=[2]",)}),
        Ablation("no-stage-4", "no instruction tuning", (1, 2, 3), 4),
        Ablation(
            "guide-3-alone", "no guidance in stage 4", begins=4, settings=_guided("guidance.weight=0", stages=(4,))
        ),
        *(
            Ablation(
                f"share-{share}",
                f"{share}% of the pictures have regions",
                settings=_guided(f"regions.share={share / 100}"),
            )
            for share in (1, 5, 50, 100)
        ),
        *(
            Ablation(f"form-{form}", f"Dice: {form}", settings=_guided(f"guidance.form={form}"))
            for form in ("literal", "area", "max", "mass")
        ),
        Ablation(
            "words-alone", "object words alone are guided, not the answer", settings=_guided("guidance.answers=false")
        ),
        *(
            Ablation(
                f"noise-{noise}",
                f"{noise}% of the regions are another picture's",
                settings=_guided(f"guidance.noise={noise / 100}"),
            )
            for noise in (25, 50)
        ),
        _positions("layers-first", "cross-attention at 1, 2, 3", (1, 2, 3)),
        _positions("layers-last", "cross-attention at 6, 7, 8", (6, 7, 8)),
        _positions("layers-one", "cross-attention at 3 alone", (3,)),
        Ablation(
            "unfrozen",
            "the language model is trained in stage 4",
            begins=4,
            settings={4: ("trainable.language.modules=[model.language_model]", "trainable.language.lr=5e-4")},
        ),
    )
}
"""All variants by name. Those of guidance 0 and 10% are the arms ca-baseline and age-vlm."""


def run_folder(recipe: Recipe, ablation: Ablation, seed: int, stage: int) -> Path:
    """Of one stage of a variant: AGE-VLM's own before the variant begins to differ."""
    if stage < ablation.begins:
        return recipe.run("age-vlm", seed, stage)
    return recipe.out / "ablations" / ablation.name / f"seed-{seed}" / f"{stage}-{STAGES[stage]}"


def last_model(recipe: Recipe, ablation: Ablation, seed: int) -> Path:
    """The checkpoint that a variant ends with."""
    return run_folder(recipe, ablation, seed, ablation.stages[-1]) / "model"


def ablation_tasks(recipe: Recipe, ablation: Ablation, seed: int) -> list[Task]:
    """The stages of a variant that are its own; those it shares, and the base, are the recipe's tasks."""
    own_base = ablation.layers != CROSS_LAYERS
    base = recipe.base / f"seed-{seed}" / (f"cross-{'-'.join(map(str, ablation.layers))}" if own_base else "cross")
    tasks = []
    before, model = f"seed-{seed}/{base.name}", base
    if own_base:
        join = (*pretraining(recipe), "join", "--seed", str(seed), "--fusion", "cross")
        layers = ("--layers", ",".join(map(str, ablation.layers)), "--name", base.name)
        tasks.append(Task(before, (*join, *layers), base, ("trunk", "language")))
    for stage in ablation.stages:
        run = run_folder(recipe, ablation, seed, stage)
        name = str(run.relative_to(recipe.out))
        if stage >= ablation.begins:
            config = f"scenes/age-vlm/{stage}-{STAGES[stage]}"
            settings = (f"arm={ablation.name}", *ablation.settings.get(stage, ()))
            tasks.append(stage_task(recipe, config, seed, stage, run, before, model, settings))
        before, model = name, run / "model"
    return tasks
