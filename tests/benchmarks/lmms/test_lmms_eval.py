"""lmms-eval itself, in child processes: killed and started again, by our command, and the simple class by hand."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time

import pytest

from agevlm.vlm import Ask
from agevlm.vlm.hf.session import HfVlm
from benchmarks.cvbench.readings import OFFICIAL_PROMPT, read
from benchmarks.cvbench.score import official_mean
from benchmarks.pope.types import SPLITS
from benchmarks.prompts import DEFAULT
from benchmarks.records import load_answers, read_commits
from tests.benchmarks.lmms.harness import PYTHON, environment, make_local, needs_lmms_eval
from tests.benchmarks.runs.launch import command_here

pytestmark = [pytest.mark.slow, needs_lmms_eval]

MODEL = "scenes/age-vlm"
TASKS = "local_pope,local_cvbench,local_mmvp"
TOKENS = {"pope": 128, "cvbench": 128, "mmvp": 16}
MMVP_SUFFIX = "\nAnswer with the option's letter from the given choices directly."


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return make_local(tmp_path_factory.mktemp("local"))


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    return environment(tmp_path_factory.mktemp("environment"))


@pytest.fixture(scope="module")
def killed(local, env):
    """`lmms-eval eval --model agevlm` with SIGKILL after its first answers: where they are, and the file's bytes."""
    run = local.folder / "run"
    log = local.folder / "killed.log"
    command = [PYTHON, "-m", "lmms_eval", "--model", "agevlm", "--model_args", f"pretrained={MODEL},records={run}"]
    command += ["--include_path", str(local.tasks), "--tasks", TASKS, "--verbosity", "WARNING"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=env, cwd=local.folder, stdout=output, stderr=subprocess.STDOUT)
        answers = run / "answers-00000.jsonl"
        while process.poll() is None and not (answers.exists() and any(True for _ in read_commits(answers))):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        code = process.wait()
    assert code == -signal.SIGKILL, log.read_text()[-3000:]
    whole = sum(size for _, size in read_commits(answers))
    return run, answers.read_bytes()[:whole]


@pytest.fixture(scope="module")
def again(killed, local, env):
    """The same tasks by `agevlm-eval lmms` on what the killed run left."""
    run, _ = killed
    command = [PYTHON, "-c", "from agevlm.cli import eval_main; eval_main()", "lmms", "--tasks", TASKS]
    command += ["--ckpt", MODEL, "--include-path", str(local.tasks), "--out", str(run), "--json", "-"]
    done = subprocess.run(command, env=env, cwd=local.folder, capture_output=True, text=True)
    log = run / "lmms-eval.log"
    assert done.returncode == 0, done.stderr + (log.read_text()[-3000:] if log.exists() else "")
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def ours():
    vlm = HfVlm.load(MODEL, device="cpu")
    yield vlm
    vlm.close()


def plain_answers(vlm, local, rows, prompt, tokens):
    """Each question by itself, one image at a time."""
    texts = []
    for row in rows:
        encoded = vlm.encode([local.picture(row)])
        texts.append(vlm.answer(encoded, [Ask(prompt(row), 0, tokens)])[0].text)
    return texts


def values(rows, task):
    return {r["metric"]: r["value"] for r in rows if r["task"] == task}


def test_a_killed_run_goes_on_and_asks_only_what_is_missing(killed, again, local):
    run, before = killed
    asked = {(r["image"]["bytes"], r["question"]) for rows in local.pope.values() for r in rows}
    distinct = len(asked) + sum(map(len, local.cvbench.values())) + len(local.mmvp)
    written = (run / "answers-00000.jsonl").read_bytes()
    first, all_lines = before.count(b"\n"), written.count(b"\n")
    assert 0 < first < distinct, "the kill must fall in mid-run"
    assert written.startswith(before)
    # One line for each call of the model: as many as were missing, and every answer once.
    assert all_lines - first == distinct - first
    assert len(load_answers([run / "answers-00000.jsonl"])) == distinct
    assert all(len({r.shown for r in commit}) == 1 for commit, _ in read_commits(run / "answers-00000.jsonl"))
    manifest = json.loads((run / "run.json").read_text())
    assert manifest["launches"][0]["answers_before"] == first
    assert manifest["packages"]["lmms-eval"]
    assert manifest["model"]["fingerprint"]
    assert (manifest["launches"][0]["missing"], manifest["launches"][0]["answers"]) == (0, distinct)
    assert len(list((run / "lmms-eval").rglob("*_samples_*.jsonl"))) == 6


def test_popes_scores_equal_those_of_our_own_command(again, local, monkeypatch):
    monkeypatch.chdir(local.folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = command_here(
        "pope", "--ckpt", MODEL, "--questions", "pope", "--device", "cpu", "--draws", "100", "--out", "ours",
        "--protocol", "default", "--protocol", "official", "--json", "-",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {(r["split"], r["protocol"]): r for r in json.loads(done.stdout) if r["condition"] == "image"}
    for split in SPLITS:
        said = values(again, f"local_pope_{split}")
        for score in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
            assert said[f"agevlm_pope_{score}"] == pytest.approx(rows[split, "default"][score], abs=1e-12), score
        for score in ("accuracy", "f1"):
            assert said[f"agevlm_pope_{score}_official"] == pytest.approx(rows[split, "official"][score], abs=1e-12)
        assert said["agevlm_pope_unparsed"] == rows[split, "default"]["unparsed"] / rows[split, "default"]["n"]
        assert 0.2 < said["agevlm_pope_yes_ratio"] < 0.8, "a constant answer would prove little"
    mean = sum(rows[s, "default"]["f1"] for s in SPLITS) / 3
    assert values(again, "local_pope")["agevlm_pope_f1"] == pytest.approx(mean, abs=1e-12)
    n = {(r["task"], r["n"]) for r in again if r["task"].startswith("local_pope")}
    assert n == {("local_pope", 144), *((f"local_pope_{s}", 48) for s in SPLITS)}


def test_standard_errors_are_there_for_means_alone_and_clustered_by_image(again, local):
    rows = {(r["task"], r["metric"]): r for r in again}
    run = local.folder / "run"
    sample = next((run / "lmms-eval").rglob("*_samples_local_pope_adversarial.jsonl"))
    entries = [json.loads(line)["agevlm_pope_accuracy"] for line in sample.read_text().splitlines()]
    scores = [e["score"] for e in entries]
    mean = sum(scores) / len(scores)
    assert 0 < mean < 1
    residual = {e["image"]: sum(x["score"] - mean for x in entries if x["image"] == e["image"]) for e in entries}
    clustered = math.sqrt(sum(v * v for v in residual.values())) / len(scores)
    row = rows["local_pope_adversarial", "agevlm_pope_accuracy"]
    assert row["stderr_clustered"] == pytest.approx(clustered, rel=0.2)  # it may correct for few clusters
    assert row["stderr_clt"] == pytest.approx(math.sqrt(mean * (1 - mean) / (len(scores) - 1)), rel=1e-6)
    for metric in ("precision", "recall", "f1"):
        row = rows["local_pope_adversarial", f"agevlm_pope_{metric}"]
        assert row["stderr"] is row["stderr_clt"] is row["stderr_clustered"] is None


def test_cvbenchs_group_is_the_official_formula_over_our_readings(again, local, ours):
    right = []
    for row in [r for part in local.cvbench.values() for r in part]:
        prompt = OFFICIAL_PROMPT.replace("{prompt}", row["prompt"])
        text = plain_answers(ours, local, [row], lambda _, p=prompt: p, TOKENS["cvbench"])[0].strip()
        option = read("rules", text, row["choices"]).option
        right.append((row["source"], option == "AB".index(row["answer"][1])))
    assert {True, False} == {r for _, r in right}, "some must be right and some wrong"
    assert values(again, "local_cvbench")["agevlm_cvbench_accuracy"] == pytest.approx(official_mean(right), abs=1e-12)
    omni = [r for source, r in right if source == "Omni3D"]
    said = values(again, "local_cvbench_3d")
    assert said["agevlm_cvbench_accuracy"] == pytest.approx(sum(omni) / len(omni), abs=1e-12)


def test_mmvp_as_lmms_eval_has_it_gets_the_answers_that_the_model_gives(again, local, ours):
    prompts = [f"{r['Question']}\nA. Yes\nB. No{MMVP_SUFFIX}" for r in local.mmvp]
    texts = [
        plain_answers(ours, local, [row], lambda _, p=prompt: p, TOKENS["mmvp"])[0].strip()
        for row, prompt in zip(local.mmvp, prompts, strict=True)
    ]
    sample = next((local.folder / "run" / "lmms-eval").rglob("*_samples_local_mmvp.jsonl"))
    rows = [json.loads(line) for line in sample.read_text().splitlines()]
    assert [r["mmvp_accuracy"]["pred"] for r in rows] == texts
    assert [r["input"] for r in rows] == prompts
    right = [r["mmvp_accuracy"]["is_correct"] for r in rows]
    assert values(again, "local_mmvp")["mmvp_accuracy"] == sum(right) / len(right)


@pytest.fixture(scope="module")
def by_hand(local, env, ours):
    """What `child.py` saw of the simple class in one process."""
    rows = local.pope["random"]
    said = plain_answers(ours, local, rows, lambda r: DEFAULT.of(r["question"]), 128)
    planted = [0 if "yes" in text.lower() else 1 for text in said]
    assert set(planted) == {0, 1}
    import datasets

    table = [{**row, "planted": gold} for row, gold in zip(rows, planted, strict=True)]
    datasets.Dataset.from_list(table).cast_column("image", datasets.Image()).to_parquet(local.folder / "mc.parquet")
    (local.tasks / "local_planted.yaml").write_text(
        "task: local_planted\ndataset_path: parquet\ndataset_kwargs: {data_files: {test: ../mc.parquet}}\n"
        "test_split: test\noutput_type: multiple_choice\n"
        "doc_to_visual: !function benchmarks.lmms.pope_task.doc_to_visual\n"
        "doc_to_text: !function benchmarks.lmms.pope_task.doc_to_text\n"
        'doc_to_target: planted\ndoc_to_choice: ["yes", "no"]\ntarget_delimiter: " "\n'
        "metric_list:\n  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
        "  - {metric: exact_match, aggregation: mean, higher_is_better: true}\n"
    )
    out = local.folder / "by-hand.json"
    command = [sys.executable, "-m", "tests.benchmarks.lmms.by_hand", str(local.tasks), MODEL, str(out)]
    done = subprocess.run(command, env=env, cwd=local.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text()), planted


def test_multiple_choice_by_likelihood_finds_the_planted_answer(by_hand):
    seen, planted = by_hand
    assert len(seen["losses"]) == 2 * len(planted)
    assert seen["planted"]["acc,none"] == 1.0
    assert seen["planted"]["exact_match,none"] == 1.0
    assert all(loss > 0 for loss, _ in seen["losses"])
    greedy = [flag for _, flag in seen["losses"]]
    assert [greedy[2 * n + gold] for n, gold in enumerate(planted)] == [True] * len(planted)
    assert sum(greedy) == len(planted)


def test_generation_settings_are_as_the_task_wrote_them_afterwards(by_hand):
    seen, _ = by_hand
    assert seen["settings_before"] == seen["settings_after"]
    assert {"until", "max_new_tokens"} <= seen["settings_before"][0].keys()


def test_a_cleaned_model_answers_again_and_an_answered_one_is_not_loaded(by_hand):
    seen, _ = by_hand
    assert (seen["loaded_before_clean"], seen["loaded_after_clean"]) == (True, False)
    assert seen["answers_after_clean"] == seen["answers_before_clean"]
    assert seen["loaded_for_known_answers"] is False


def test_the_plug_in_is_found_by_name_in_both_classes(by_hand):
    seen, _ = by_hand
    assert seen["classes"] == ["benchmarks.lmms.model.AgeVlmChat", "benchmarks.lmms.model.AgeVlm"]


def test_the_tasks_that_the_documents_name_are_lmms_evals_and_ours_stand_beside_them(by_hand):
    seen, _ = by_hand
    assert seen["names"] == ["mmvp", "blink", "realworldqa", "hallusion_bench_image", "amber_g"]
    assert len(seen["ours"]) == 7
    by_likelihood = {name for name, kinds in seen["outputs"].items() if kinds != ["generate_until"]}
    assert by_likelihood == {"local_planted", "seedbench_ppl"}


def test_arguments_are_checked_and_lmms_evals_default_batch_size_is_none_of_ours(by_hand):
    seen, _ = by_hand
    nameless, on_error, unknown, size = seen["refused_arguments"]
    assert nameless.startswith("DataError: agevlm: name a checkpoint with --model_args pretrained=")
    assert on_error == "DataError: agevlm: on_error=ignore: give raise or empty"
    assert unknown.startswith("DataError: agevlm: unknown model_args colour; known: pretrained, dtype,")
    assert size == "DataError: agevlm: batch_size=auto: give a number of at least 1"
    assert seen["refused_settings"] == [
        "DataError: --gen-kwargs max_new_tokens: each setting is KEY=VALUE, as in max_new_tokens=16,temperature=0",
        "DataError: --gen-kwargs: max_new_tokens=0: give a whole number of at least 1",
        None,
        None,
    ]
    assert seen["batch_sizes"] == [None, None, None, 8, 1, None]


def test_a_request_without_an_answer_stops_the_run_after_all_others(by_hand):
    seen, _ = by_hand
    assert seen["stopped"].startswith("AnswersMissing: 2 of 8 requests have no answer; the first: ")
    assert "planted fault" in seen["stopped"]
    assert seen["recorded_when_stopped"] == {"answers": 6, "errors": 2}
    assert seen["empty_when_asked_for"].count("") == 2
    assert all(seen["empty_when_asked_for"][2:])
    assert seen["missing"] == 2
    ignored, missing = seen["remarks"]
    assert ignored == "generation settings ignored: repetition_penalty"
    assert missing.startswith("2 of 8 requests have no answer; the first: made/test/0: ")


def test_sampling_and_several_images_are_refused_before_anything_is_asked(by_hand):
    seen, _ = by_hand
    assert "asks for sampling (temperature=0.7)" in seen["sampling"]
    assert "has 2 images" in seen["two_images"]


def test_ctrl_c_closes_the_model_and_says_what_is_kept(by_hand):
    seen, _ = by_hand
    found = seen["interrupted"]
    assert (found["ended"], found["closed"]) == ("yes", True)
    assert set(found["kept"]) <= {"first"}
    assert "interrupted; what is answered is kept in interrupted" in found["said"]
