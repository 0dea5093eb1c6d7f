"""Which tasks there are: what arms share, what each needs, and that none reads what it must not."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from agevlm.scenes.types import split_seeds
from train.config import load_stage
from train.scenes import pretrain
from train.scenes.recipe import ARMS, SMOKE, STAGES, Budget, Recipe, base_tasks, recipe_tasks, seed_tasks
from train.scenes.source import ScenesOptions

OUT = Path("runs/made")
RECIPE = Recipe(OUT, seeds=(0, 1))


def options(task):
    """--name value pairs of a stage's command."""
    words = list(task.command)
    return {word: words[i + 1] for i, word in enumerate(words) if word.startswith("--") and word != "--set"}


def settings(task):
    words = list(task.command)
    return [words[i + 1] for i, word in enumerate(words) if word == "--set"]


def stages(recipe=RECIPE):
    return [task for task in recipe_tasks(recipe) if "--config" in task.command]


def test_needs_exist_and_come_before():
    for recipe in (RECIPE, *(Recipe(OUT, arms=(arm,)) for arm in ARMS)):
        made = set()
        for task in recipe_tasks(recipe):
            assert set(task.needs) <= made, task.name
            assert task.name not in made
            made.add(task.name)
        assert len(made) > 6


def test_no_two_tasks_write_one_folder():
    tasks = recipe_tasks(RECIPE)
    assert max(Counter(task.done for task in tasks).values()) == 1
    folders = [Path(options(task)["--out"]) for task in stages()]
    assert len(set(folders)) == len(folders)
    for task in stages():
        assert task.done == Path(options(task)["--out"]) / "model"
    for one in folders:
        assert not any(one != other and one in other.parents for other in folders)
    # Nor one log.
    assert len({task.name.replace("/", "-") for task in tasks}) == len(tasks)


def trained(arm, seed):
    """The arm whose folder each stage of an arm is in."""
    return [RECIPE.run(arm, seed, stage).relative_to(OUT).parts[0] for stage in STAGES]


def test_arms_share_the_stages_in_which_they_are_the_same():
    assert trained("age-vlm", 0) == ["age-vlm"] * 4
    assert trained("ca-baseline", 0) == ["age-vlm", "age-vlm", "ca-baseline", "ca-baseline"]
    assert trained("concat", 0) == ["concat"] * 4
    assert trained("concat-unfrozen", 0) == ["concat", "concat", "concat", "concat-unfrozen"]
    assert len(stages()) == 2 * (4 + 2 + 4 + 1)
    assert {RECIPE.model(arm, seed) for arm in ARMS for seed in (0, 1)} <= {task.done for task in stages()}


def loaded(arm, stage):
    return asdict(load_stage(f"scenes/{arm}/{stage}-{STAGES[stage]}"))


@pytest.mark.parametrize(("arm", "owner", "last"), [("ca-baseline", "age-vlm", 2), ("concat-unfrozen", "concat", 3)])
def test_shared_stages_are_the_same_but_for_their_names_and_the_next_is_not(arm, owner, last):
    names = {"arm", "name", "follows", "init_from", "out"}
    for stage in STAGES:
        one, other = ({k: v for k, v in loaded(a, stage).items() if k not in names} for a in (arm, owner))
        assert (one == other) == (stage <= last), stage


def test_each_stage_begins_with_the_model_of_the_one_before():
    by_done = {task.done: task for task in recipe_tasks(RECIPE)}
    for task in stages():
        (need,) = task.needs
        before = by_done[Path(options(task)["--init-from"])]
        assert before.name == need
        number = int(Path(options(task)["--out"]).name[0])
        assert options(task)["--config"].split("/")[-1] == f"{number}-{STAGES[number]}"
        if number == 1:
            fusion = "concat" if "concat" in options(task)["--config"] else "cross"
            assert before.done.name == fusion
            assert options(before)["--fusion"] == fusion
        else:
            assert Path(options(before)["--out"]).name[0] == str(number - 1)


def test_seeds_share_nothing_but_the_base():
    base = {task.name for task in base_tasks(RECIPE)}
    zero, one = ({task.name for task in seed_tasks(RECIPE, seed)} for seed in (0, 1))
    assert base == {"data", "trunk", "language"}
    assert not zero & one
    assert len(zero) == len(one) == 2 + 11
    for task in seed_tasks(RECIPE, 1):
        if "--config" not in task.command:
            assert options(task)["--seed"] == "1"
            continue
        assert options(task)["--seed"] == "1"
        assert "data_seed=1" in settings(task)
        assert "seed-1" in options(task)["--out"]
        assert "seed-1" in options(task)["--init-from"]


def test_an_interrupted_stage_is_resumed_in_its_folder():
    for task in stages():
        out = options(task)["--out"]
        assert task.again[-2:] == ("resume", out)
        assert task.started == Path(out) / "stage.yaml"


@pytest.mark.parametrize("recipe", [RECIPE, Recipe(OUT, budget=SMOKE, settings=("log_every=1",))])
def test_every_stage_loads_with_its_settings_and_learns_from_training_scenes_alone(recipe):
    for task in stages(recipe):
        spec = load_stage(options(task)["--config"], settings(task))
        number = int(Path(options(task)["--out"]).name[0])
        assert spec.steps == recipe.budget.steps[number]
        assert [source.kind for source in spec.sources] == ["scenes"]
        chosen = ScenesOptions(**spec.sources[0].options)
        assert chosen.split == "train"
        assert chosen.count == recipe.budget.train_scenes
        assert Path(chosen.root) == recipe.data
        assert spec.log_every == (1 if recipe.settings else 25)


def invoke(*arguments, budget=SMOKE):
    common = ["--out", "made", "--budget", json.dumps(asdict(budget))]
    result = CliRunner().invoke(pretrain.main, [*common, *arguments])
    assert result.exit_code == 0, result.output + repr(result.exception)


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """What pretraining opens and gets, without doing any of it."""
    monkeypatch.chdir(tmp_path)
    seen: list = []

    class Store:
        def __init__(self, split, count):
            self.split, self.facts = split, [(split, i) for i in range(count)]

    class Opens:
        @staticmethod
        def open(root, split, count):
            assert root == Path("made/data")
            root.mkdir(parents=True, exist_ok=True)
            seen.append((split, count))
            return Store(split, count)

    def vision(train, held_out, out, recipe, seed, say):
        seen.append(("learns from", train.split, "tells of", held_out.split, recipe.steps))
        out.mkdir(parents=True)
        return {}

    def language(facts, out, recipe, seed, held_out, say):
        splits = {split for split, _ in facts}, {split for split, _ in held_out}
        seen.append(("learns from", *splits[0], "tells of", *splits[1], recipe.steps))
        out.mkdir(parents=True)
        return {}

    monkeypatch.setattr("train.scenes.store.SceneStore", Opens)
    monkeypatch.setattr("train.scenes.trunk.pretrain_trunk", vision)
    monkeypatch.setattr("train.scenes.language_model.pretrain_language", language)
    return seen


@pytest.mark.parametrize(("command", "steps"), [("trunk", SMOKE.trunk_steps), ("language", SMOKE.language_steps)])
def test_pretraining_learns_from_training_scenes_and_is_told_of_by_validation(opened, command, steps):
    invoke(command)
    assert opened[:2] == [("validation", 60), ("train", 400)]
    assert opened[2:] == [("learns from", "train", "tells of", "validation", steps)]
    recipe = Recipe(Path("made"), budget=SMOKE)
    done = {task.name: task.done for task in base_tasks(recipe)}
    assert done[command].is_file()


def test_the_data_task_renders_what_all_others_open(opened):
    invoke("data")
    assert set(opened) == {("train", 400), ("validation", 60), ("test", 60)}
    assert Recipe(Path("made"), budget=SMOKE).rendered.is_file()


def test_a_budget_arrives_as_it_was_given(opened):
    budget = Budget(7, 5, 3, 2, {1: 1, 2: 2, 3: 3, 4: 4})
    words = list(base_tasks(Recipe(OUT, budget=budget))[1].command)
    assert words[:2] == ["-m", "train.scenes.pretrain"]
    given = json.loads(words[words.index("--budget") + 1])
    assert Budget(**{**given, "steps": {int(k): v for k, v in given["steps"].items()}}) == budget
    invoke("trunk", budget=budget)
    assert opened[-1][-1] == 3


def test_seeds_of_the_splits_lie_apart_for_any_budget():
    splits = {split: split_seeds(split, 100_000_000) for split in ("train", "validation", "test")}
    borders = sorted((seeds[0], seeds[-1]) for seeds in splits.values())
    assert all(before[1] < after[0] for before, after in pairwise(borders))
    with pytest.raises(ValueError, match="100,000,000"):
        split_seeds("train", 100_000_001)
