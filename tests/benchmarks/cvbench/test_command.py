"""`agevlm-eval cvbench` from end to end with a model that is a hash: what a user types, and what goes wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from agevlm.vlm.choice import ModelChoice
from agevlm.vlm.contract import Reply
from benchmarks.cvbench.ranked import RANKINGS
from benchmarks.cvbench.readers import READERS
from benchmarks.cvbench.readings import PROTOCOLS
from tests.benchmarks.cvbench.stub import CvData, CvStub, make_cv_data
from tests.benchmarks.runs.launch import OPTIONS, answers, asked, command_here, environment, finish
from tests.benchmarks.runs.test_ranks import torchrun

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def data(tmp_path: Path) -> CvData:
    return make_cv_data(tmp_path / "data", 24)


@pytest.fixture
def stub() -> CvStub:
    return CvStub()


@pytest.fixture
def cvbench(data: CvData, stub: CvStub, tmp_path: Path) -> Run:
    """The command in this process, on the stub."""

    def run(*options: object, questions: bool = True) -> subprocess.CompletedProcess[str]:
        with (
            patch.object(ModelChoice, "fingerprint", lambda self: stub.fingerprint),
            patch.object(ModelChoice, "folder", lambda self: Path("nowhere")),
            patch.object(ModelChoice, "load", lambda self: stub),
        ):
            given = [*(data.options if questions else []), *map(str, options)]
            return command_here("cvbench", "--ckpt", "stub", "--out", str(tmp_path / "run"), *OPTIONS, *given)

    return run


def rows(done: subprocess.CompletedProcess[str], **want: object) -> list[dict[str, Any]]:
    return [r for r in json.loads(done.stdout) if all(r[key] == value for key, value in want.items())]


def test_json_on_stdout_is_one_array_of_rows_and_nothing_else(cvbench: Run) -> None:
    done = cvbench("--json", "-")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    keys = {"benchmark", "dataset", "data_version", "prompt", "condition", "reading", "score", "n", "missing", "chance"}
    for row in found:
        assert keys | {"images", "unparsed", "accuracy", "accuracy_low", "accuracy_high", "below_chance"} <= set(row)
        assert row["accuracy"] is None or 0 <= row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] <= 1
    assert {r["reading"] for r in found if r["condition"] == "image"} == set(PROTOCOLS) | set(RANKINGS)
    assert {r["condition"] for r in found} == {"image", "floor:majority-letter", "floor:option-text"}
    numbers = [r["score"] for r in rows(done, condition="image", reading="rules")]
    assert numbers[:4] == ["official", "2D", "3D", "row mean"]
    assert {"source ADE20K", "task Count", "task Distance"} <= set(numbers)
    (official,) = rows(done, condition="image", reading="rules", score="official")
    by_source = {r["score"]: r["accuracy"] for r in rows(done, condition="image", reading="rules")}
    halves = (by_source["source ADE20K"] + by_source["source COCO"]) / 2, by_source["source Omni3D"]
    assert official["accuracy"] == pytest.approx(sum(halves) / 2)
    assert "48 asks about 24 images" in done.stderr
    assert "a part of CV-Bench: 32 of type 2D and 16 of type 3D; the whole benchmark has 1,438" in done.stderr


def test_tables_name_every_reading_and_control(cvbench: Run) -> None:
    done = cvbench("--control", "blind", "--control", "other-image")
    assert done.returncode == 0, done.stderr
    for words in ("reading rules", "What the image adds", "every reading, blind", "floor:", "chance", "unparsed"):
        assert words in done.stdout
    assert "differs from rules" in done.stdout
    assert "official if these were right" in done.stdout
    assert "Where the readings part" in done.stdout


def test_each_image_is_encoded_once_and_each_question_asked_once(cvbench: Run, stub: CvStub) -> None:
    done = cvbench("--control", "blind", "--control", "other-image", "--control", "blank", "--json", "-")
    assert done.returncode == 0, done.stderr
    # Other images are images of the set, all blank ones are one picture, blind ones none.
    assert stub.shown == 24 + 1
    assert len(stub.asked) == len(set(stub.asked))
    for control in ("blind", "other-image", "blank"):
        (row,) = rows(done, condition=control, reading="rules", score="row mean")
        assert row["n"] == 48
        assert row["gain_accuracy_low"] <= row["gain_accuracy"] <= row["gain_accuracy_high"]


def test_records_keep_what_every_ranking_needs(cvbench: Run, tmp_path: Path, data: CvData) -> None:
    assert cvbench().returncode == 0
    for row in (json.loads(line) for line in (tmp_path / "run/questions.jsonl").read_text().splitlines()):
        record = answers(tmp_path / "run")[row["keys"]["image"]]
        letters = "ABCD"[: len(row["question"]["options"])]
        assert set(record.logprobs) == {*letters, *(f"({one})" for one in letters), *row["question"]["options"]}
        assert record.prompt == (
            f"{row['question']['prompt']}\nAnswer with the option's letter from the given choices directly."
        )
    manifest = json.loads((tmp_path / "run/run.json").read_text())
    assert manifest["benchmark"] == "cvbench"
    assert manifest["ranked"] is True
    assert manifest["data"][0]["tasks"] == {"Count": 16, "Relation": 16, "Depth": 8, "Distance": 8}
    assert manifest["prompt"]["name"] == "official"


def test_what_every_reading_made_of_every_answer_is_written_down(cvbench: Run, tmp_path: Path, data: CvData) -> None:
    done = cvbench("--control", "blind", "--json", "-")
    read = [json.loads(line) for line in (tmp_path / "run/readings.jsonl").read_text().splitlines()]
    assert [(r["condition"], r["idx"]) for r in read] == [
        (condition, str(row["idx"])) for condition in ("image", "blind") for row in data.rows()
    ]
    for condition in ("image", "blind"):
        mine = [r for r in read if r["condition"] == condition]
        for name in READERS:
            right = sum(r["readings"][name]["option"] == r["gold"] for r in mine)
            (row,) = rows(done, condition=condition, reading=name, score="row mean")
            assert row["accuracy"] == right / 48
            assert all(r["readings"][name]["rule"] for r in mine)
    for one in read:
        if one["answer"] == "( b )":
            assert one["readings"]["rules"] == {"option": 1, "rule": "letter-alone"}
            assert one["readings"]["strict"] == {"option": None, "rule": "not-a-letter"}


def test_a_second_run_asks_nothing_and_scores_are_a_function_of_the_folder(
    cvbench: Run, stub: CvStub, tmp_path: Path
) -> None:
    first = cvbench("--control", "blind", "--json", "-")
    content = (tmp_path / "run/scores.json").read_bytes()
    count = len(stub.asked)
    again = cvbench("--control", "blind", "--json", "-")
    assert f"{count} answered before, 0 to go" in again.stderr
    assert len(stub.asked) == count
    assert again.stdout == first.stdout
    assert (tmp_path / "run/scores.json").read_bytes() == content
    rescored = command_here("score", "cvbench", "--answers", str(tmp_path / "run"), "--json", "-")
    assert rescored.stdout == first.stdout
    fresh = cvbench("--control", "blind", "--json", "-", "--fresh")
    assert fresh.stdout == first.stdout
    assert len(stub.asked) == 2 * count


def test_readings_are_chosen_and_the_first_leads(cvbench: Run) -> None:
    done = cvbench("--reading", "strict", "--reading", "ranked-text", "--json", "-")
    assert {r["reading"] for r in rows(done, condition="image")} == {"strict", "ranked-text"}
    assert "answers name no option" in done.stderr
    shown = cvbench("--reading", "ranked-bracket")
    assert "reading ranked-bracket" in shown.stdout
    assert "every reading" not in shown.stdout
    refused = cvbench("--reading", "judged")
    assert refused.returncode == 2
    assert f"choose from {', '.join(READERS)}" in refused.stderr


def test_a_model_that_cannot_rank_has_no_ranked_rows(cvbench: Run, stub: CvStub, tmp_path: Path) -> None:
    stub.capabilities = frozenset({"blind"})  # type: ignore[misc]
    done = cvbench("--json", "-")
    assert done.returncode == 0, done.stderr
    assert {r["reading"] for r in rows(done, condition="image")} == set(PROTOCOLS)
    names = ", ".join(RANKINGS)
    assert f"no scores by {names} under image: 48 records hold no log-probabilities" in done.stderr
    assert all(record.logprobs == {} for record in answers(tmp_path / "run").values())


def test_missing_answers_are_told_though_the_only_reading_has_no_rows(cvbench: Run, stub: CvStub, data: CvData) -> None:
    stub.capabilities = frozenset({"blind"})  # type: ignore[misc]
    (data.images / "img/7.png").write_text("this is no image")
    done = cvbench("--reading", "ranked-text")
    assert done.returncode == 3
    assert "no answers about images that ranked-text can read: no leading scores" in done.stderr
    assert "2 answers are missing" in done.stderr
    assert "floor:" in done.stdout


def test_ranking_can_be_left_out_and_done_later(cvbench: Run, stub: CvStub) -> None:
    with patch.object(CvStub, "rank", side_effect=AssertionError("ranked")):
        done = cvbench("--no-rank", "--json", "-")
    assert done.returncode == 0, done.stderr
    assert {r["reading"] for r in rows(done, condition="image")} == set(PROTOCOLS)
    plain = {(r["reading"], r["score"]): r["accuracy"] for r in rows(done, condition="image")}
    ranked = cvbench("--json", "-")
    assert {r["reading"] for r in rows(ranked, condition="image")} == set(READERS)
    found = {(r["reading"], r["score"]): r["accuracy"] for r in rows(ranked, condition="image")}
    assert plain.items() <= found.items()


def test_a_ranking_that_fails_is_an_error_record_and_is_tried_again(cvbench: Run, stub: CvStub) -> None:
    plain = CvStub.rank
    calls = []

    def once(self: CvStub, encoded: Any, asks: Any, options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("no room")
        return plain(self, encoded, asks, options)

    with patch.object(CvStub, "rank", once):
        done = cvbench("--json", "-")
    assert done.returncode == 3
    assert "the options cannot be ranked (RuntimeError: no room); cvbench --no-rank asks without" in done.stderr
    (row,) = rows(done, condition="image", reading="rules", score="row mean")
    assert (row["n"], row["missing"]) == (46, 2)
    again = cvbench("--json", "-")
    assert again.returncode == 0
    assert "46 answered before, 2 to go" in again.stderr


def test_plan_says_what_would_be_asked_without_torch(data: CvData, tmp_path: Path) -> None:
    from agevlm.checkpoints.tiny import build_tiny_llava

    checkpoint = build_tiny_llava(tmp_path / "ckpt", seed=0)
    command = ["cvbench", "--ckpt", str(checkpoint), *data.options, "--plan", "--control", "blind"]
    code = f"""
import sys
from agevlm.cli import eval_group
eval_group.main({command!r}, standalone_mode=False)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "questions        48" in done.stdout
    assert "Count 16, Relation 16, Depth 8, Distance 8" in done.stdout
    assert "a part of CV-Bench: 32 of type 2D and 16 of type 3D" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_limits_and_tasks_are_part_of_the_data_version(cvbench: Run) -> None:
    (row,) = rows(cvbench("--limit", 6, "--json", "-"), condition="image", reading="rules", score="row mean")
    assert (row["n"], row["images"]) == (12, 6)
    assert row["data_version"].endswith(" limit 6 seed 0")
    done = cvbench("--task", "Depth", "--json", "-")
    assert {r["score"] for r in rows(done, condition="image")} == {"3D", "row mean", "source Omni3D", "task Depth"}
    assert rows(done)[0]["data_version"].endswith(" task Depth")
    assert (
        "no official number: it needs ADE20K, COCO, Omni3D and no other source; not there: ADE20K, COCO" in done.stderr
    )
    unknown = cvbench("--task", "Colour")
    assert unknown.returncode == 2
    assert "task Colour: no such questions" in unknown.stderr
    assert "it has Count, Relation, Depth, Distance" in unknown.stderr


def test_a_source_that_cv_bench_does_not_have_is_said(cvbench: Run, data: CvData, tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(data.questions.read_text().replace('"source": "COCO"', '"source": "coco"', 1))
    done = cvbench("--questions", path, "--images", data.images, "--json", "-", questions=False)
    assert not rows(done, score="official")
    assert "no official number: it needs ADE20K, COCO, Omni3D and no other source; none of these: coco" in done.stderr


def test_a_prompt_of_ones_own(cvbench: Run, tmp_path: Path) -> None:
    template = tmp_path / "short.txt"
    template.write_text("{prompt} One of {letters}.")
    done = cvbench("--prompt", template, "--json", "-")
    assert all(r["prompt"].startswith("short:") for r in rows(done, condition="image"))
    prompts = [record.prompt for record in answers(tmp_path / "run").values()]
    assert all(p.endswith((" One of A, B.", " One of A, B, C, D.")) for p in prompts)
    assert {p.split("\n")[0] for p in prompts} == {
        f"{task} of what? Select from the following choices." for task in ("Count", "Relation", "Depth", "Distance")
    }


def test_missing_images_are_named_before_anything_is_asked(cvbench: Run, data: CvData, tmp_path: Path) -> None:
    for number in (3, 5):
        (data.images / f"img/{number}.png").unlink()
    done = cvbench()
    assert done.returncode == 2
    assert "2 of 24 images are missing" in done.stderr
    assert "img/3.png, img/5.png" in done.stderr
    assert not (tmp_path / "run/answers-00000.jsonl").exists()
    unfound = cvbench("--questions", data.questions, questions=False)
    assert unfound.returncode == 2
    assert "give their folder with --images DIR" in unfound.stderr


def test_images_beside_the_question_file_are_found(cvbench: Run, data: CvData) -> None:
    """As the hub's own repository has them: img/ beside the files."""
    moved = data.images / data.questions.name
    data.questions.rename(moved)
    for source in (moved, data.images):
        done = cvbench("--questions", source, questions=False)
        assert done.returncode == 0, done.stderr


def test_the_two_halves_may_be_two_files(cvbench: Run, data: CvData, tmp_path: Path) -> None:
    lines = data.questions.read_text().splitlines(keepends=True)
    halves = []
    for kind in ("2D", "3D"):
        halves += ["--questions", tmp_path / f"test_{kind}.jsonl"]
        halves[-1].write_text("".join(line for line in lines if f'"type": "{kind}"' in line))
    whole = cvbench("--json", "-")
    done = cvbench(*halves, "--images", data.images, "--json", "-", questions=False)
    assert "48 answered before, 0 to go" in done.stderr
    assert rows(done, condition="image") == rows(whole, condition="image")
    twice = cvbench(*halves[:2], *halves[:2], "--images", data.images, questions=False)
    assert twice.returncode == 2
    assert "idx 0 is also that of" in twice.stderr


def test_a_bad_image_is_an_error_record_and_is_asked_again(cvbench: Run, data: CvData) -> None:
    file = data.images / "img/7.png"
    good = file.read_bytes()
    file.write_text("this is no image")
    done = cvbench("--json", "-")
    assert done.returncode == 3
    assert "error record: image img/7.png: not an image file" in done.stderr
    (row,) = rows(done, condition="image", reading="strict", score="row mean")
    assert (row["n"], row["missing"]) == (46, 2)
    assert cvbench("--allow-partial").returncode == 0
    file.write_bytes(good)
    assert cvbench().returncode == 0


def test_answers_from_elsewhere(cvbench: Run, data: CvData, tmp_path: Path) -> None:
    given = tmp_path / "answers.jsonl"
    right = [{"idx": row["idx"], "text": row["answer"], "prompt": row["prompt"]} for row in data.rows()]
    given.write_text("".join(json.dumps(row) + "\n" for row in right))
    command = ["score", "cvbench", "--questions", str(data.questions), *OPTIONS, "--json", "-", "--answers", str(given)]
    done = command_here(*command)
    assert done.returncode == 0, done.stderr
    for reading in PROTOCOLS:
        (row,) = rows(done, condition="image", reading=reading, score="official")
        assert row["accuracy"] == 1
        assert row["prompt"] == "plain"
    given.write_text("".join(json.dumps(row) + "\n" for row in right[:-5]))
    partly = command_here(*command)
    assert partly.returncode == 3
    assert "5 answers are missing" in partly.stderr
    given.write_text('{"idx": 99, "text": "A"}\n')
    wrong = command_here(*command)
    assert wrong.returncode == 2
    assert "idx 99 is none of the 48 questions" in wrong.stderr
    assert "give the questions they answer" in command_here("score", "cvbench", "--answers", str(given)).stderr
    assert "no such file or folder" in command_here("score", "cvbench", "--answers", str(tmp_path / "no")).stderr


def test_a_run_of_another_benchmark_and_damage_are_told(cvbench: Run, tmp_path: Path) -> None:
    assert cvbench().returncode == 0
    manifest = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps({**manifest, "benchmark": "pope"}))
    other = command_here("score", "cvbench", "--answers", str(tmp_path / "run"))
    assert other.returncode == 2
    assert "a run of pope" in other.stderr
    (tmp_path / "run/run.json").write_text(json.dumps(manifest))
    (tmp_path / "run/questions.jsonl").write_text('{"nothing": 1}\n')
    damaged = command_here("score", "cvbench", "--answers", str(tmp_path / "run"))
    assert damaged.returncode == 2
    assert "give the benchmark's command again to rewrite them" in damaged.stderr


def test_below_chance_is_said(cvbench: Run, data: CvData) -> None:
    with patch.object(CvStub, "_reply", lambda *_: Reply("nothing", "eos")):
        done = cvbench()
    assert "warning: 48 of 48 answers name no option" in done.stderr
    assert "warning: below chance: official, 2D, 3D, row mean" in done.stderr
    assert "↓" in done.stdout


# --- killed -----------------------------------------------------------------------------------------------------------


def start(data: CvData, out: Path, log: Path, **settings: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.benchmarks.cvbench.child", "cvbench", "--ckpt", "stub", *data.options]
    return subprocess.Popen(
        [*command, "--out", str(out), *OPTIONS, "--control", "blind"],
        env=environment(STUB_LOG=log, **settings),
        cwd=out.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_killed_at_any_point_and_resumed_the_scores_are_the_same_bytes(tmp_path: Path) -> None:
    data = make_cv_data(tmp_path / "data", 60)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    uninterrupted = finish(start(data, whole, tmp_path / "whole.log"))
    assert uninterrupted.returncode == 0, uninterrupted.stderr
    log, lost = tmp_path / "cut.log", 0
    for number in range(6):
        before = len(asked(log))
        kept = len(answers(cut)) if cut.exists() else 0
        # By its own hand in the middle of a commit, or by ours between two.
        torn = {"STUB_TORN": f"{number + 2} 0.{number + 2}"} if number % 2 else {}
        process = start(data, cut, log, STUB_DELAY=0.03, **torn)
        while not torn and process.poll() is None and len(asked(log)) < before + 8:
            time.sleep(0.002)
        if not torn:
            process.kill()
        assert finish(process).returncode == -signal.SIGKILL
        mine = asked(log)[before:]
        gone = len(mine) - (len(answers(cut)) - kept)
        assert gone in (0, 2), "more than one image's two questions were lost"
        lost += gone
    assert lost
    last = finish(start(data, cut, log))
    assert last.returncode == 0, last.stderr
    assert (cut / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()
    assert answers(cut) == answers(whole)


@pytest.mark.slow
def test_two_processes_share_the_images_and_one_process_scores_the_same(cvbench: Run, tmp_path: Path) -> None:
    data = make_cv_data(tmp_path / "same", 24)
    log, out = tmp_path / "two.log", tmp_path / "two"
    command = ["-m", "tests.benchmarks.cvbench.child", "cvbench", "--ckpt", "stub", *data.options, "--out", out]
    done = finish(torchrun(*command, *OPTIONS, STUB_LOG=log))
    assert done.returncode == 0, done.stderr
    assert len({process for process, *_ in asked(log)}) == len(list(out.glob("answers-*.jsonl"))) == 2
    assert done.stderr.count("a part of CV-Bench") == 1
    assert cvbench().returncode == 0
    assert answers(out) == answers(tmp_path / "run")
    assert (out / "scores.json").read_bytes() == (tmp_path / "run/scores.json").read_bytes()
