"""`agevlm-eval ablation` on tiny runs that were trained and evaluated by the real commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from reports.baselines.linking import weights_of
from reports.runs.showing import open_run
from reports.scenes.intervals import image_draws
from tests.benchmarks.runs.launch import OPTIONS, command_here
from tests.benchmarks.runs.stub import make_data
from tests.reports.baselines.runs import make_stage, model, train, written

FORMS, SEEDS = ("squared", "literal"), (0, 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Four runs, two Dice forms by two seeds, and POPE-like questions asked of each model."""
    root = tmp_path_factory.mktemp("trained")
    make_stage(root)
    data = make_data(root / "pope-data", 8)
    for form in FORMS:
        for seed in SEEDS:
            run = root / f"{form}-{seed}"
            settings = ("--seed", str(seed), "--set", f"data_seed={seed}", "--set", f"guidance.form={form}")
            assert train(root, "run", "--config", str(root / "stage.yaml"), "--out", str(run), *settings) == 0
            where = ("--ckpt", str(run / "model"), "--out", str(root / f"pope-{form}-{seed}"))
            done = command_here("pope", *where, *data.options, "--max-new-tokens", "2", *OPTIONS)
            assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def folders(trained):
    return [trained / f"{form}-{seed}" for form in FORMS for seed in SEEDS]


@pytest.fixture
def evaluations(trained):
    return [trained / f"pope-{form}-{seed}" for form in FORMS for seed in SEEDS]


def last(folder: Path, name: str) -> float:
    return json.loads((folder / "log.jsonl").read_text().splitlines()[-1])[name]


def metric(row: dict, name: str) -> dict:
    (found,) = [one for one in row["metrics"] if one["metric"] == name]
    return found


@pytest.mark.slow
def test_rows_are_dice_forms_and_cells_means_over_seeds(call, trained, folders):
    code, out, err = call("ablation", *folders, "--json", "-")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [row["settings"] for row in rows] == [{"guidance.form": form} for form in FORMS]
    for row, form in zip(rows, FORMS, strict=True):
        assert row["runs"] == {str(seed): str(trained / f"{form}-{seed}") for seed in SEEDS}
        for name in ("loss/text", "loss/guidance", "attention/iou"):
            values = [last(trained / f"{form}-{seed}", name) for seed in SEEDS]
            found = metric(row, name)
            # Student's t by another implementation.
            low, high = stats.t.interval(0.95, 1, np.mean(values), stats.sem(values))
            assert found["value"] == pytest.approx(np.mean(values))
            assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))
            assert (found["n"], found["interval_over"]) == (2, "seeds")
            assert found["each"] == {"0": values[0], "1": values[1]}
            assert values[0] != values[1]

    assert rows[0]["minus_first"] == []
    (found,) = [one for one in rows[1]["minus_first"] if one["metric"] == "attention/iou"]
    pairs = [
        last(trained / f"literal-{s}", "attention/iou") - last(trained / f"squared-{s}", "attention/iou") for s in SEEDS
    ]
    low, high = stats.t.interval(0.95, 1, np.mean(pairs), stats.sem(pairs))
    assert (found["value"], found["low"], found["high"]) == (
        pytest.approx(np.mean(pairs)),
        pytest.approx(low),
        pytest.approx(high),
    )


@pytest.mark.slow
def test_evaluations_are_known_by_the_weights_and_drawn_on_shared_images(call, trained, folders, evaluations):
    code, out, err = call("ablation", *folders, *evaluations, "--json", "-")
    assert (code, err) == (0, "")
    for row, form in zip(json.loads(out), FORMS, strict=True):
        found = metric(row, "pope/accuracy")
        assert found["interval_over"] == "seeds and images"
        runs = [open_run(trained / f"pope-{form}-{seed}", None, None, "image").questions for seed in SEEDS]
        names = sorted({question.image for question in runs[0]})
        weights = image_draws(len(names))
        each = np.zeros((len(weights), len(SEEDS)))
        values = []
        for place, questions in enumerate(runs):
            shares, whole = [], []
            for split in ("random", "popular", "adversarial"):
                right, asked = np.zeros(len(names)), np.zeros(len(names))
                for question in questions:
                    if question.split == split:
                        right[names.index(question.image)] += question.read.verdict == "right"
                        asked[names.index(question.image)] += question.read.verdict in ("right", "wrong")
                shares.append((weights @ right) / (weights @ asked))
                whole.append(right.sum() / asked.sum())
            each[:, place] = np.mean(shares, axis=0)
            values.append(np.mean(whole))
        assert found["each"] == {str(s): pytest.approx(v) for s, v in zip(SEEDS, values, strict=True)}
        assert found["value"] == pytest.approx(np.mean(values))
        of_seeds, of_images = np.var(values, ddof=1) / 2, each.mean(1).var(ddof=1)
        free = (of_seeds + of_images) ** 2 / (of_seeds**2 + of_images**2 / (len(names) - 1))
        reach = stats.t.ppf(0.975, free) * (of_seeds + of_images) ** 0.5
        assert of_seeds > 0
        limits = max(0, np.mean(values) - reach), min(1, np.mean(values) + reach)
        assert (found["low"], found["high"]) == tuple(map(pytest.approx, limits))


@pytest.mark.slow
def test_evaluations_alone_lead_to_their_runs(call, trained, evaluations):
    code, out, err = call("ablation", *evaluations, "--metric", "pope/F1", "--json", "-")
    assert code == 0
    rows = json.loads(out)
    assert [row["settings"] for row in rows] == [{"guidance.form": form} for form in FORMS]
    assert [list(row["runs"].values()) for row in rows] == [
        [str(trained / f"{form}-{seed}") for seed in SEEDS] for form in FORMS
    ]
    for row, form in zip(rows, FORMS, strict=True):
        assert [one["metric"] for one in row["metrics"]] == ["pope/F1"]
        for seed in SEEDS:
            scores = json.loads((trained / f"pope-{form}-{seed}" / "scores.json").read_text())["rows"]
            own = [r for r in scores if (r["condition"], r["split"]) == ("image", "mean")]
            assert metric(row, "pope/F1")["each"][str(seed)] == pytest.approx(own[0]["f1"])
    assert err.count("read too, as what was evaluated is of it") == 4


@pytest.mark.slow
def test_the_terminal_and_the_notes(call, trained, folders, evaluations):
    code, out, _ = call("ablation", *folders[:3], "--eval", evaluations[0])
    assert code == 0
    said = " ".join(out.split())
    assert "(1 seed)" in said
    assert "(1 of 2 seeds)" in said
    assert "guidance.form literal: seeds 0 alone." in said
    assert "loss/guidance is another quantity under each guidance.form" in said
    assert "95 % intervals by Student's t over seeds" in said
    assert "So few seeds (2)" in said
    # One seed of the second form: nothing to say of a difference.
    assert "Difference from" not in said
    assert "The same in all: arm age-vlm; stage 1 guide" in said


@pytest.mark.slow
def test_what_was_evaluated_brings_its_run_along(call, folders, evaluations):
    code, out, err = call("ablation", folders[0], evaluations[1], "--json", "-")
    assert code == 0
    assert f"{folders[1]}: read too" in " ".join(err.split())
    assert list(json.loads(out)[0]["runs"]) == ["0", "1"]


@pytest.mark.slow
def test_an_evaluation_of_other_weights_is_refused_with_the_reason(call, folders, evaluations, tmp_path):
    changed = tmp_path / "pope"
    changed.mkdir()
    for file in evaluations[0].iterdir():
        if file.name in ("run.json", "scores.json"):
            text = file.read_text()
            if file.name == "run.json":
                manifest = json.loads(text)
                manifest["model"]["parts"]["weights"] = "f" * 64
                text = json.dumps(manifest)
            (changed / file.name).write_text(text)
    code, out, err = call("ablation", folders[0], changed, "--json", "-")
    assert code == 0
    said = " ".join(err.split())
    assert "its weights (ffffffff) are of no training run that was given" in said
    assert "is another by now" in said
    assert all("pope" not in one["metric"] for one in json.loads(out)[0]["metrics"])


@pytest.mark.slow
def test_an_exported_checkpoint_is_a_row_of_its_steps(call, capsys, trained, folders, tmp_path):
    out = tmp_path / "elsewhere"
    assert train(trained, "export", str(folders[0]), "--step", "2", "--out", str(out)) == 0
    capsys.readouterr()
    data = make_data(tmp_path / "data", 4)
    done = command_here("pope", "--ckpt", str(out), "--out", str(tmp_path / "pope"), *data.options,
                        "--max-new-tokens", "2", *OPTIONS)  # fmt: skip
    assert done.returncode == 0, done.stderr
    code, said, err = call("ablation", folders[0], tmp_path / "pope", "--json", "-")
    assert (code, err) == (0, "")
    rows = json.loads(said)
    assert [row["settings"] for row in rows] == [{"trained steps": "3"}, {"trained steps": "2"}]
    log = [json.loads(line) for line in (folders[0] / "log.jsonl").read_text().splitlines()]
    assert metric(rows[1], "loss/text")["value"] == log[1]["loss/text"]
    assert metric(rows[1], "pope/accuracy")["n"] == 1
    # In a row over both, neither takes the other's place.
    code, table, _ = call("ablation", folders[0], tmp_path / "pope", "--by", "arm")
    assert f"{folders[0].name} at step 2" in table
    code, said, _ = call("ablation", folders[0], tmp_path / "pope", "--by", "arm", "--json", "-")
    (row,) = json.loads(said)
    assert metric(row, "loss/text")["value"] == pytest.approx((log[1]["loss/text"] + log[2]["loss/text"]) / 2)
    assert all(one["metric"] != "pope/accuracy" for one in rows[0]["metrics"])


@pytest.mark.slow
def test_an_evaluation_that_was_interrupted_is_left_out(call, folders, evaluations, tmp_path):
    run = shutil.copytree(evaluations[0], tmp_path / "pope")
    (answers,) = run.glob("answers-*.jsonl")
    lines = answers.read_text().splitlines(keepends=True)
    answers.write_text("".join(lines[: len(lines) // 2]))
    code, out, err = call("ablation", folders[0], run, "--json", "-")
    assert code == 0
    assert f"left out: {run}: resumable" in " ".join(err.split())
    assert all("pope" not in one["metric"] for one in json.loads(out)[0]["metrics"])


# --- files written by hand --------------------------------------------------------------------------------------------


def test_one_seed_has_no_interval(call, tmp_path):
    code, out, _ = call("ablation", written(tmp_path / "a"), "--json", "-")
    assert code == 0
    (row,) = json.loads(out)
    found = metric(row, "loss/text")
    assert (found["value"], found["low"], found["high"], found["n"]) == (1.0, None, None, 1)
    assert found["interval_over"] is None


def test_differences_are_on_the_seeds_of_both(call, tmp_path):
    runs = [
        written(tmp_path / f"{form}-{seed}", seed, guidance={"weight": 1.0, "form": form}, loss=loss)
        for form, losses in (("squared", (1.0, 1.5, 9.0)), ("mass", (1.25, 2.25)))
        for seed, loss in enumerate(losses)
    ]
    code, out, _ = call("ablation", *runs)
    assert code == 0
    _, _, differences = out.partition("Difference from guidance.form squared")
    # 0.25 and 0.75: mean 0.5, t(0.975, 1) = 12.706 times 0.25.
    assert "+0.500" in differences
    assert "-2.677 … +3.677" in differences
    assert "A difference whose interval holds 0 is a tie" in " ".join(differences.split())


def test_a_run_without_guidance_is_no_form_of_its_loss(call, tmp_path):
    log = '{"step": 10, "loss/text": 1.0, "loss/guidance": 0.5}\n'
    guidances = [None if weight is None else {"weight": weight, "form": "squared"} for weight in (1.0, 0.0, None)]
    runs = [
        written(tmp_path / f"{place}-{seed}", seed, guidance=guidance, log=log)
        for place, guidance in enumerate(guidances)
        for seed in (0, 1)
    ]
    code, out, _ = call("ablation", *runs)
    assert code == 0
    assert "another quantity" not in out
    _, _, differences = out.partition("Difference from")
    assert "loss/guidance" in differences.partition("Each training run")[0]


@pytest.mark.parametrize("setting", [{"noise": 0.5}, {"answers": True}, {"tokens": "all"}, {"layers": [1]}])
def test_attention_that_is_measured_elsewhere_is_not_compared(call, tmp_path, setting):
    usual = {"weight": 1.0, "form": "squared", "noise": 0.0, "answers": False, "tokens": "last", "layers": [1, 4]}
    runs = [
        written(tmp_path / f"{place}-{seed}", seed, guidance=guidance)
        for place, guidance in enumerate((usual, usual | setting))
        for seed in (0, 1)
    ]
    code, out, _ = call("ablation", *runs)
    assert code == 0
    (name,) = setting
    assert f"rows that differ in guidance.{name} are not to be compared by them" in " ".join(out.split())
    head, _, differences = out.partition("Difference from")
    assert "attention/iou" in head
    assert "loss/text" in differences
    assert "attention/iou" not in differences.partition("Each training run")[0]
    code, out, _ = call("ablation", *runs, "--json", "-")
    assert [one["metric"] for one in json.loads(out)[1]["minus_first"]] == ["loss/text"]


def test_by_a_setting_says_what_else_is_averaged_over(call, tmp_path):
    runs = [
        written(tmp_path / f"{form}-{weight}", guidance={"weight": weight, "form": form}, loss=weight)
        for form in ("squared", "mass")
        for weight in (0.5, 1.0)
    ]
    code, out, _ = call("ablation", *runs, "--by", "guidance.form")
    assert code == 0
    assert "A row is a mean over runs that differ in guidance.weight too" in " ".join(out.split())
    code, out, _ = call("ablation", *runs, "--by", "guidance.form", "--json", "-")
    rows = json.loads(out)
    assert [row["settings"] for row in rows] == [{"guidance.form": "squared"}, {"guidance.form": "mass"}]
    assert [metric(row, "loss/text")["value"] for row in rows] == [0.75, 0.75]
    code, out, _ = call("ablation", *runs, "--json", "-")
    assert len(json.loads(out)) == 4


def test_stages_make_rows(call, tmp_path):
    one, two = ({"stage": n, "name": f"s{n}", "arm": "age-vlm", "steps": 5, "spec_hash": "x"} for n in (1, 2))
    runs = [written(tmp_path / "whole", before=(one, two)), written(tmp_path / "without", before=(two,))]
    code, out, _ = call("ablation", *runs, "--json", "-")
    assert code == 0
    assert [row["settings"] for row in json.loads(out)] == [{"stages": "1-2-3"}, {"stages": "2-3"}]


def test_earlier_stages_with_other_settings_are_not_repeats(call, tmp_path):
    runs = []
    for name, form in (("a", "squared"), ("b", "mass")):
        first = written(tmp_path / name / "2", stage=2, guidance={"weight": 1.0, "form": form})
        record = json.loads((first / "model" / "training.json").read_text())
        record.pop("lineage")
        base = str(first / "model")
        runs.append(written(tmp_path / name / "3", seed=len(runs), before=(record,), init_from=base))
    code, out, _ = call("ablation", *runs, "--json", "-")
    assert code == 0
    assert [row["settings"] for row in json.loads(out)] == [
        {"stage 2: guidance.form": "squared"},
        {"stage 2: guidance.form": "mass"},
    ]
    # Where their folder is gone they cannot be told apart, and the table says so.
    (tmp_path / "a" / "2" / "run.json").unlink()
    code, out, _ = call("ablation", *runs)
    assert code == 0
    assert "not by their other settings" in " ".join(out.split())


def test_a_run_in_the_middle_is_left_out_and_says_its_step(call, tmp_path):
    runs = [written(tmp_path / "a"), written(tmp_path / "b", 1, done=5)]
    code, out, err = call("ablation", *runs, "--json", "-")
    assert code == 0
    assert f"{tmp_path / 'b'}: step 5 of 10; go on with: agevlm-train resume" in " ".join(err.split())
    assert list(json.loads(out)[0]["runs"]) == ["0"]
    code, _, err = call("ablation", runs[1])
    assert code == 2
    assert "no finished training run" in err


def test_a_damaged_line_is_named_and_the_others_used(call, tmp_path):
    log = '{"step": 5, "loss/text": 2.0}\n{"step": 7, nonsense\n{"loss/text": 1.0}\n{"step": 10, "loss/text": 1.5}\n'
    code, out, err = call("ablation", written(tmp_path / "a", log=log), "--json", "-")
    assert code == 0
    assert "log.jsonl:2: damaged" in err
    assert "log.jsonl:3: not a row of a log" in " ".join(err.split())
    assert metric(json.loads(out)[0], "loss/text")["value"] == 1.5


def test_a_log_without_its_end_gives_no_last_loss(call, tmp_path):
    run = written(tmp_path / "a", log='{"step": 5, "loss/text": 2.0}\n{"step": 10, "loss/te')
    code, out, err = call("ablation", run, "--json", "-")
    assert code == 0
    assert "its log ends at step 5 of 10" in err
    assert json.loads(out)[0]["metrics"] == []


def test_a_loss_that_is_none_is_not_left_out_in_silence(call, tmp_path):
    log = '{"step": 10, "loss/text": null, "attention/iou": 0.5}\n'
    code, out, err = call("ablation", written(tmp_path / "a"), written(tmp_path / "b", 1, log=log))
    assert code == 0
    assert f"{tmp_path / 'b'}: loss/text not finite at step 10" in " ".join(err.split())
    assert "1.000 (1 of 2 seeds)" in out


def evaluated(made, checkpoint, to, version, **parts):
    """An evaluation of a model that was written by hand."""
    shutil.copytree(made / "pope", to)
    for file in ("run.json", "scores.json"):
        held = json.loads((to / file).read_text())
        for row in [*held.get("rows", ()), *held.get("data", ())]:
            row["data_version"] = version
        if "model" in held:
            held["model"]["ckpt"] = str(checkpoint)
            held["model"]["parts"] |= {"weights": weights_of(checkpoint), **parts}
        (to / file).write_text(json.dumps(held))
    return to


def test_other_questions_are_another_column(call, made, tmp_path):
    runs = [written(tmp_path / str(seed), seed) for seed in (0, 1)]
    versions = ("pope-coco@3df3ba1", "pope-coco@e3e3926")
    found = [
        evaluated(made, run / "model", tmp_path / f"pope-{run.name}", v) for run, v in zip(runs, versions, strict=True)
    ]
    code, out, _ = call("ablation", *runs, *found)
    assert code == 0
    said = " ".join(out.split())
    for place, version in enumerate(versions, start=1):
        assert f"pope/F1, % ({place}): {version}, prompt default, protocol default" in said
    code, out, _ = call("ablation", *runs, *found, "--json", "-")
    (row,) = json.loads(out)
    counts = [(one["about"][:17], one["n"]) for one in row["metrics"] if one["metric"] == "pope/F1"]
    assert counts == [(version, 1) for version in versions]


def test_one_model_evaluated_twice_counts_once(call, made, tmp_path):
    run = written(tmp_path / "0")
    found = [evaluated(made, run / "model", tmp_path / name, "pope-coco@3df3ba1") for name in ("one", "two")]
    scores = json.loads((found[1] / "scores.json").read_text())
    for row in scores["rows"]:
        row["f1"] = 0.5
    (found[1] / "scores.json").write_text(json.dumps(scores))
    code, out, err = call("ablation", run, *found, "--json", "-")
    assert code == 0
    assert f"evaluated twice, in {found[0]} and {found[1]}; the first counts" in " ".join(err.split())
    assert metric(json.loads(out)[0], "pope/F1")["value"] != 0.5


def test_half_precision_is_another_column(call, made, tmp_path):
    runs = [written(tmp_path / str(seed), seed) for seed in (0, 1)]
    found = [
        evaluated(made, run / "model", tmp_path / f"pope-{run.name}", "pope-coco@3df3ba1", dtype=dtype)
        for run, dtype in zip(runs, ("float32", "bfloat16"), strict=True)
    ]
    code, out, _ = call("ablation", *runs, *found, "--json", "-")
    assert code == 0
    abouts = [one["about"] for one in json.loads(out)[0]["metrics"] if one["metric"] == "pope/F1"]
    assert [about.endswith("in bfloat16") for about in abouts] == [False, True]


def test_a_checkpoint_that_two_runs_may_have_made(call, made, tmp_path):
    runs = [written(tmp_path / name) for name in ("a", "b")]
    identity = json.loads((runs[0] / "run.json").read_text())
    # Another name for the arm leaves the hash of the settings as it is.
    (runs[1] / "run.json").write_text(json.dumps(identity | {"spec": identity["spec"] | {"arm": "other"}}))
    away, inside = model(tmp_path / "at-5", identity, 5), model(runs[1] / "at-5", identity, 6)
    found = [evaluated(made, one, tmp_path / f"pope-{n}", "pope-coco@3df3ba1") for n, one in enumerate((away, inside))]
    code, out, err = call("ablation", *runs, *found, "--json", "-")
    assert code == 0
    assert f"several of them may have made {away}; give one of them" in " ".join(err.split())
    steps = [(row["settings"]["arm"], row["settings"]["trained steps"]) for row in json.loads(out)]
    assert steps == [("age-vlm", "10"), ("other", "10"), ("other", "6")]


def test_an_evaluation_of_a_model_nobody_made(call, made, tmp_path):
    code, _, err = call("ablation", written(tmp_path / "a"), made / "pope")
    assert code == 0
    said = " ".join(err.split())
    assert "are of no training run that was given, and no trained checkpoint is at stub" in said
    code, _, err = call("ablation", made / "pope")
    assert code == 2
    assert "no finished training run to show" in err


def test_a_run_without_a_log(call, tmp_path):
    run = written(tmp_path / "a")
    (run / "log.jsonl").unlink()
    code, _, err = call("ablation", run)
    assert code == 0
    assert f"{run}: no log.jsonl" in err


def test_two_runs_of_the_same_settings_and_seed_are_refused_by_name(call, tmp_path):
    runs = [written(tmp_path / "a"), written(tmp_path / "b")]
    code, _, err = call("ablation", *runs)
    assert code == 2
    assert str(runs[0]) in err
    assert str(runs[1]) in err
    # The same folder twice is no second run.
    code, out, _ = call("ablation", runs[0], runs[0], "--json", "-")
    assert code == 0
    assert json.loads(out)[0]["runs"] == {"0": str(runs[0])}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--by", "guidance.frm"], "there are: guidance.form"),
        (["--by", "zzzz"], "there are: arm, stage"),
        (["--by", "seed"], "seeds are repeats"),
        (["--metric", "loss/val"], "there are: loss/text, attention/iou"),
    ],
)
def test_unknown_names(call, tmp_path, arguments, says):
    code, _, err = call("ablation", written(tmp_path / "a"), *arguments)
    assert code == 2
    assert says in err


def test_folders_that_are_none(call, tmp_path):
    damaged = written(tmp_path / "damaged")
    (damaged / "run.json").write_text('{"spec": {"steps": "many"}}')
    (tmp_path / "empty").mkdir()
    code, _, err = call("ablation", written(tmp_path / "a"), damaged, tmp_path / "empty", "--json", "-")
    assert code == 0
    said = " ".join(err.split())
    assert f"left out: {damaged}: run.json or training.json is damaged" in said
    assert f"left out: {tmp_path / 'empty'}: not a run folder" in said
    code, _, err = call("ablation", tmp_path / "empty")
    assert code == 2
