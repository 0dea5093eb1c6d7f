from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from rich.console import Console

from agevlm.errors import DataError
from reports.scenes import evaluate as evaluation
from reports.scenes.asking import AnswerRow
from reports.scenes.causal import CausalRow
from reports.scenes.evaluate import evaluate
from reports.scenes.evaluate_one import main
from reports.scenes.figures import (
    MOST_BYTES,
    Arm,
    accuracy_by_steps,
    attention_sheet,
    sheet_objects,
    training_curves,
)
from reports.scenes.files import ANSWERS, CAUSAL, LOOKS, SCORES, write_json, write_rows
from reports.scenes.intervals import image_draws, over_seeds
from reports.scenes.looks import LookRow
from reports.scenes.summary import cost, print_summary, summarise
from reports.scenes.tables import markdown
from tests.reports.scenes.toys import Planted, planted_on_object
from train.scenes.recipe import Recipe
from train.scenes.store import SceneStore

IMAGES = 30


def _write(folder: Path, skill: float, seed: int, look: float = 0.5) -> None:
    """An evaluation as `evaluate` would write it."""
    draw = np.random.default_rng([seed, int(100 * skill)])
    answers = []
    for i in range(IMAGES):
        for kind in ("random", "popular", "adversarial", "count"):
            for k in range(2):
                right, wrong = ("yes", "no") if k else ("no", "yes")
                said = right if draw.random() < skill else wrong
                answers.append(AnswerRow(i, kind, str(k), right, said, "no"))
    looks = []
    for i in range(IMAGES):
        one = LookRow(i, "cup", look, 0.6, True, 1.0, look, 0.6, False, 1.0, 0.8, 0.1)
        looks.append(replace(one, word_iou=look + 0.1 * draw.random()))
    write_rows(folder / ANSWERS, answers)
    write_rows(folder / LOOKS, looks)
    write_rows(folder / CAUSAL, [CausalRow(i, "cup", 9, i % 5 == 0, True) for i in range(10)])
    kinds = {"attention": "cross-attention", "scenes": IMAGES}
    write_json(folder / SCORES, {"images": IMAGES, "looks": kinds, "hiding": {"scenes": 10}})


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    recipe = Recipe(tmp_path, (0, 1, 2), ("age-vlm", "ca-baseline"))
    for seed in recipe.seeds:
        _write(tmp_path / f"evaluation/age-vlm/seed-{seed}", 0.95, seed, 0.5)
        _write(tmp_path / f"evaluation/ca-baseline/seed-{seed}", 0.75, seed, 0.2)
        for step, skill in ((100, 0.6), (1000, 0.9)):
            _write(recipe.run("age-vlm", seed, 4) / f"eval-{step}", skill, seed)
        (recipe.run("age-vlm", seed, 4) / "eval-note").mkdir()
        for stage in (1, 2, 3, 4):
            run = recipe.run("age-vlm", seed, stage)
            run.mkdir(parents=True, exist_ok=True)
            rows = [
                {"step": s, "loss/text": 2.0 / s, "loss/guidance": None, "gate/attn/1": -0.1, "gate/attn/4": 0.3}
                for s in range(10, 60, 10)
            ]
            clock = (5.0, 9.0, 4.0, 8.0, 60.0)
            lines = [json.dumps({**r, "time/elapsed": t}) + "\n" for r, t in zip(rows, clock, strict=True)]
            (run / "log.jsonl").write_text("".join(lines) + '{"step": 60, "unfin')
            report: dict[str, object] = {"frozen": True, "identical": True, "largest_difference": 0.0}
            (run / "language.json").write_text(
                json.dumps({**report, "perplexity_before": 9.5, "perplexity_after": 9.5})
            )
    return recipe


def test_three_seeds(recipe: Recipe) -> None:
    summary = summarise(recipe, recipe.arms)
    assert summary.seeds == {"age-vlm": [0, 1, 2], "ca-baseline": [0, 1, 2]}
    assert summary.missing == []
    ours = summary.arms["age-vlm"]["random/accuracy"]
    assert ours["value"] == pytest.approx(np.mean(list(ours["each_seed"].values())))
    assert ours["low"] < ours["value"] < ours["high"]
    gain = summary.differences["ca-baseline"]["pope/accuracy"]
    theirs = summary.arms["ca-baseline"]["pope/accuracy"]
    assert gain["value"] == pytest.approx(summary.arms["age-vlm"]["pope/accuracy"]["value"] - theirs["value"])
    # The better arm is first: the difference is positive, and clearly so.
    assert 0 < gain["low"] < gain["value"]
    assert summary.differences["ca-baseline"]["looks/word_iou"]["value"] == pytest.approx(0.3, abs=0.03)
    assert not any(name.startswith("hiding/") for name in summary.differences["ca-baseline"])
    assert "age-vlm" not in summary.differences
    # The logs end after 50 steps: what the end of the stage is.
    assert list(summary.steps["age-vlm"]) == [50, 100, 1000]
    end, all_of_it = summary.steps["age-vlm"][50], summary.arms["age-vlm"]
    assert end["pope/accuracy"] == all_of_it["pope/accuracy"]
    assert summary.step_differences == {}
    early, late = (summary.steps["age-vlm"][s]["pope/accuracy"]["value"] for s in (100, 1000))
    assert early < late
    # A run resumed after 9 s took 9 + 60 s; shared stages count for both arms.
    assert summary.cost["age-vlm"][0][1] == {"steps": 50, "seconds": 69.0}
    assert list(summary.cost["ca-baseline"][0]) == [1, 2]
    assert summary.language["ca-baseline"][2][2]["identical"] is True
    written = json.loads((recipe.out / "evaluation" / "summary.json").read_text())
    assert written["arms"]["age-vlm"]["random/accuracy"]["value"] == pytest.approx(ours["value"], abs=1e-6)
    text = (recipe.out / "evaluation" / "summary.md").read_text()
    assert text == markdown(summary)
    assert f"{100 * ours['value']:.1f} [{100 * ours['low']:.1f}, {100 * ours['high']:.1f}]" in text
    assert "one seed" not in text
    assert "3 seeds" in text
    assert "50 · 1.1 min" in text
    page = io.StringIO()
    print_summary(summary, Console(file=page, width=220))
    assert "POPE-Scenes" in page.getvalue()
    assert "every logit the same" in page.getvalue()


def test_one_seed_resamples_images_alone_and_says_so(recipe: Recipe) -> None:
    one = replace(recipe, seeds=(1,))
    summary = summarise(one, one.arms)
    found = summary.arms["age-vlm"]["random/accuracy"]
    answers = (recipe.out / "evaluation/age-vlm/seed-1" / ANSWERS).read_text().splitlines()
    rows = [AnswerRow(**json.loads(line)) for line in answers]
    own = [(float(r.said == r.answer), r.image) for r in rows if r.kind == "random"]
    values, images = zip(*own, strict=True)
    longhand = over_seeds([(values, images)], image_draws(IMAGES))
    assert {k: found[k] for k in ("value", "low", "high")} == pytest.approx(vars(longhand))
    assert "one seed" in markdown(summary)
    three = summarise(recipe, recipe.arms).arms["age-vlm"]["random/accuracy"]
    assert three["each_seed"][1] == found["value"]


def test_what_is_missing_is_said(recipe: Recipe) -> None:
    summary = summarise(recipe, ("age-vlm", "concat"))
    assert summary.missing == ["concat/seed-0", "concat/seed-1", "concat/seed-2"]
    assert "Not evaluated: concat/seed-0" in markdown(summary)
    empty = summarise(Recipe(recipe.out / "nothing", (0,), ("age-vlm",)), ("age-vlm",))
    assert empty.arms == {}


def test_arms_on_different_scenes_are_not_compared(recipe: Recipe) -> None:
    folder = recipe.out / "evaluation/ca-baseline/seed-0"
    lines = (folder / ANSWERS).read_text().splitlines(keepends=True)
    (folder / ANSWERS).write_text("".join(lines[1:]))
    with pytest.raises(DataError, match="not asked the same"):
        summarise(recipe, recipe.arms)


def test_cost_without_a_log(tmp_path: Path) -> None:
    assert cost(tmp_path) is None


def test_figures(recipe: Recipe, test_store: SceneStore, tmp_path: Path) -> None:
    summary = summarise(recipe, recipe.arms)
    arms = [Arm(name, Planted(test_store, planted_on_object(test_store)), 0.5) for name in recipe.arms]
    pictures = [
        training_curves(recipe, recipe.arms, tmp_path / "curves.png"),
        accuracy_by_steps(summary, tmp_path / "steps.png"),
        attention_sheet(test_store, arms, tmp_path / "sheet.png", count=4),
    ]
    for path in pictures:
        assert path is not None
        assert path.stat().st_size <= MOST_BYTES
        with Image.open(path) as picture:
            assert min(picture.size) > 200
            assert len(picture.convert("RGB").getcolors(1 << 20) or range(1000)) > 20
    nothing = Recipe(tmp_path / "nothing", (0,), ("age-vlm",))
    assert training_curves(nothing, nothing.arms, tmp_path / "none.png") is None
    assert accuracy_by_steps(replace(summary, steps={}), tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()


def test_the_sheet_shows_the_first_scenes_with_three_categories(test_store: SceneStore) -> None:
    objects = sheet_objects(test_store, 5)
    wanted = [i for i in range(20) if len(test_store.facts[i].present) >= 3][:5]
    assert [i for i, _ in objects] == wanted
    assert all(name in test_store.facts[i].present for i, name in objects)


@pytest.mark.parametrize("fusion", ["cross", "concat"])
def test_evaluate_writes_everything_and_goes_on_where_it_is(
    checkpoints: dict[str, Path],
    scenes: Path,
    test_store: SceneStore,
    validation_store: SceneStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fusion: str,
) -> None:
    out = tmp_path / fusion
    options = ["--ckpt", str(checkpoints[fusion]), "--data", str(scenes), "--out", str(out), "--images", "4"]
    ended = CliRunner().invoke(main, [*options, "--scenes", "20"], catch_exceptions=False)
    assert ended.exit_code == 0
    refused = CliRunner().invoke(main, [*options, "--scenes", "2"])
    assert isinstance(refused.exception, DataError)
    assert str(refused.exception) == "--images 4: only 2 scenes are rendered"
    other = CliRunner().invoke(main, [*options, "--scenes", "20", "--split", "validation"])
    assert isinstance(other.exception, DataError)
    assert "was measured with scenes test-20" in str(other.exception)
    assert "adversarial" in ended.output
    scores = json.loads((out / SCORES).read_text())
    assert scores["images"] == 4
    assert 0 <= scores["answers"]["pope"]["accuracy"]["low"] <= scores["answers"]["pope"]["accuracy"]["high"] <= 1
    assert scores["looks"]["layers"] == ([1, 3] if fusion == "cross" else [0, 1])
    on_image = scores["looks"]["word_on_image"]["value"]
    assert on_image == pytest.approx(1, abs=1e-3) if fusion == "cross" else on_image < 0.99
    assert scores["looks"]["thresholds_chosen_on"].startswith("4 scenes of validation-20")
    assert {p.name for p in out.iterdir()} == {ANSWERS, LOOKS, CAUSAL, SCORES}

    def refuse(_: Path) -> None:
        raise AssertionError("evaluated again")

    monkeypatch.setattr(evaluation, "load_vlm", refuse)
    assert evaluate(checkpoints[fusion], test_store, validation_store, out, 4) == scores
    (out / SCORES).unlink()
    with pytest.raises(AssertionError, match="evaluated again"):
        evaluate(checkpoints[fusion], test_store, validation_store, out, 4)


def test_what_the_image_adds_is_paired_and_may_be_negative(tmp_path: Path) -> None:
    recipe = Recipe(tmp_path, (0,), ("age-vlm", "ca-baseline"))
    _write(tmp_path / "evaluation/age-vlm/seed-0", 0.9, 0)
    _write(tmp_path / "evaluation/ca-baseline/seed-0", 0.1, 0)
    summary = summarise(recipe, recipe.arms)
    for arm, sign in (("age-vlm", 1), ("ca-baseline", -1)):
        own = summary.arms[arm]
        gain = own["count/seeing"]
        assert gain["value"] == pytest.approx(own["count/accuracy"]["value"] - own["count/blind"]["value"])
        assert sign * gain["value"] > 0.2
        assert min(sign * gain["low"], sign * gain["high"]) > 0
    text = markdown(summary)
    assert "with the image minus without it" in text
    assert f"-{-100 * summary.arms['ca-baseline']['count/seeing']['value']:.1f} [-" in text


def test_arms_are_compared_after_the_same_steps(recipe: Recipe) -> None:
    for seed in recipe.seeds:
        _write(recipe.run("ca-baseline", seed, 4) / "eval-100", 0.55, seed, 0.2)
    again = summarise(recipe, recipe.arms)
    gain = again.step_differences["ca-baseline"]
    assert list(gain) == [100]
    early = (
        again.steps["age-vlm"][100]["pope/accuracy"]["value"]
        - again.steps["ca-baseline"][100]["pope/accuracy"]["value"]
    )
    assert gain[100]["pope/accuracy"]["value"] == pytest.approx(early)
    assert "after so many steps of stage 4, in points" in markdown(again)
    # Measured on other scenes, they are not compared.
    path = recipe.run("ca-baseline", 0, 4) / "eval-100" / SCORES
    scores = json.loads(path.read_text())
    path.write_text(json.dumps({**scores, "images": 5 * IMAGES}))
    assert summarise(replace(recipe, seeds=(0,)), recipe.arms).step_differences == {"ca-baseline": {}}
