"""One folder, one recipe: what is done is not done again, so it must be of the same making."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from agevlm.errors import DataError, TrainError
from reports.scenes import commands
from train.config import load_stage
from train.scenes.ablations import ABLATIONS, ablation_tasks, last_model
from train.scenes.recipe import ARMS, SMOKE, Budget, Recipe, check_steps, claim, recipe_tasks


def test_a_folder_is_of_one_recipe(tmp_path):
    recipe = Recipe(tmp_path / "runs")
    claim(recipe)
    claim(replace(recipe, seeds=(1, 2), arms=("concat",)))  # more of the same
    for other, says in (
        (replace(recipe, budget=SMOKE), "budget was"),
        (replace(recipe, trunk="convnext"), "trunk was convnet, is convnext"),
        (replace(recipe, settings=("vars.captions=0",)), r"settings was \[\]"),
    ):
        with pytest.raises(TrainError, match=f"holds the work of another recipe: {says}.*give another --out"):
            claim(other)
    record = tmp_path / "runs" / "recipe.json"
    made = json.loads(record.read_text())
    record.write_text(json.dumps(made | {"world": "0"}))
    with pytest.raises(TrainError, match="world was 0"):
        claim(recipe)
    record.write_text("{")
    with pytest.raises(TrainError, match=r"recipe\.json: not what agevlm-train scenes writes"):
        claim(recipe)


def test_a_smoke_run_does_not_pass_for_the_whole(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr("train.scenes.tasks.run_tasks", lambda tasks, *more: ran.append(len(tasks)))
    call = ["--train-only", "--out", str(tmp_path / "runs")]
    assert CliRunner().invoke(commands.scenes, ["--smoke", *call]).exit_code == 0
    again = CliRunner().invoke(commands.scenes, call)
    assert isinstance(again.exception, TrainError)
    assert len(ran) == 1


def test_steps_that_are_not_kept_are_refused_before_anything_is_trained():
    recipe = Recipe(Path("runs"), arms=("concat-unfrozen",))
    check_steps(recipe, (250, 500, 750, 1000))
    for step in (2000, 100):
        with pytest.raises(TrainError, match=rf"--at-step {step}: .* 1000 steps, .* 250, 500, 750, 1000;"):
            check_steps(recipe, (250, step))
    check_steps(replace(recipe, settings=("vars.steps_4=2000",)), (250, 500, 1000, 2000))
    check_steps(replace(recipe, settings=("keep=2",)), (750, 1000))
    with pytest.raises(TrainError, match="kept of 750, 1000"):
        check_steps(replace(recipe, settings=("keep=2",)), (250,))
    check_steps(replace(recipe, budget=SMOKE), ())


def test_a_measurement_on_fewer_scenes_does_not_stand_for_one_on_more(tmp_path):
    recipe = Recipe(tmp_path)
    done = tmp_path / "evaluation" / "age-vlm" / "seed-0" / "scores.json"
    done.parent.mkdir(parents=True)
    done.write_text(json.dumps({"images": 12}))
    model = recipe.model("age-vlm", 0)
    assert commands._evaluation(recipe, model, "age-vlm/seed-0", 12).done == done
    with pytest.raises(DataError, match="measured on 12 scenes, fewer than --images 1000"):
        commands._evaluation(recipe, model, "age-vlm/seed-0", 1000)


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_variant_can_be_read_and_needs_what_is_made(name, tmp_path):
    recipe = Recipe(tmp_path, arms=("age-vlm", "ca-baseline"), budget=Budget())
    made = {task.name for task in recipe_tasks(recipe)}
    tasks = ablation_tasks(recipe, ABLATIONS[name], 0)
    specs = []
    for task in tasks:
        assert set(task.needs) <= made, task.name
        made.add(task.name)
        words = list(task.command)
        if "--config" in words:
            given = {word: words[i + 1] for i, word in enumerate(words) if word in ("--config", "--init-from", "--out")}
            sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
            specs.append(load_stage(given["--config"], sets))
            assert specs[-1].arm == name
            assert name in given["--out"]
    # It differs from AGE-VLM in something, and nothing but the last model is measured.
    assert specs or name == "no-stage-4"
    assert tasks[-1].done == last_model(recipe, ABLATIONS[name], 0) if tasks else True


def test_variants_of_the_share_of_regions_differ_in_it_alone(tmp_path):
    recipe = Recipe(tmp_path)
    for share in (1, 5, 50, 100):
        for task in ablation_tasks(recipe, ABLATIONS[f"share-{share}"], 0):
            words = list(task.command)
            spec = load_stage(words[words.index("--config") + 1], [w for w in words if "=" in w])
            assert spec.regions.share == share / 100
            assert spec.regions.batch_share == 0.5
    assert all(arm not in ABLATIONS for arm in ARMS)
