"""`agevlm-eval pope` from end to end with a real (tiny, random) checkpoint: what a user types, and what goes wrong."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agevlm.checkpoints.standins import build_standin
from agevlm.checkpoints.tiny import build_tiny_llava


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return build_tiny_llava(tmp_path_factory.mktemp("ckpt") / "tiny", seed=0, answers=True)


def picture(seed: int, size=(64, 48)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def data(tmp_path) -> Path:
    """Five images and two splits of questions about them that share their positives."""
    images = tmp_path / "images"
    images.mkdir()
    for i in range(5):
        picture(i, (60 + 10 * i, 48)).save(images / f"{i}.png")
    questions = tmp_path / "questions"
    questions.mkdir()
    for split, negatives in (("random", ["boat", "tree"]), ("popular", ["chair", "cup"])):
        rows = []
        for i in range(5):
            for positive, negative in zip(["dog", "cat"], negatives, strict=True):
                for name, label in ((positive, "yes"), (negative, "no")):
                    text = f"Is there a {name} in the image?"
                    rows.append({"question_id": len(rows) + 1, "image": f"{i}.png", "text": text, "label": label})
        (questions / f"coco_pope_{split}.json").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in this process's interpreter, with real exit code, stdout and stderr."""
    code = "from agevlm.cli import eval_main; eval_main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=300
    )


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def rows(self, **want):
        return [r for r in json.loads(self.out) if all(r[k] == v for k, v in want.items())]


@pytest.fixture
def here(capsys):
    """The command inside this process: torch is loaded once for all tests."""
    from agevlm.cli import eval_group
    from agevlm.cli import run as run_group

    def invoke(*arguments: object) -> Result:
        old, sys.argv = sys.argv, ["agevlm-eval", *map(str, arguments)]
        capsys.readouterr()
        try:
            run_group(eval_group)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            sys.argv = old
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return invoke


def pope(data: Path, checkpoint: Path, *extra: object) -> tuple[object, ...]:
    return (
        "pope",
        "--ckpt",
        checkpoint,
        "--questions",
        data / "questions",
        "--images",
        data / "images",
        "--out",
        data / "run",
        "--draws",
        100,
        "--max-new-tokens",
        8,
        "--device",
        "cpu",
        *extra,
    )


FIELDS = [
    "benchmark",
    "split",
    "protocol",
    "data_version",
    "prompt",
    "n",
    "missing",
    "tp",
    "fp",
    "tn",
    "fn",
    "unparsed",
]
SCORES = ["accuracy", "precision", "recall", "f1", "yes_ratio"]


def test_json_on_stdout_is_one_array_of_rows_and_nothing_else(here, data, checkpoint):
    result = here(*pope(data, checkpoint, "--json", "-"))
    assert result.code == 0, result.err
    rows = json.loads(result.out)
    for row in rows:
        assert list(row)[:1] == ["benchmark"]
        assert set(FIELDS) <= set(row)
        for score in SCORES:
            assert {score, f"{score}_low", f"{score}_high"} <= set(row)
            assert row[score] is None or 0 <= row[score] <= 1
    image = [r for r in rows if r["condition"] == "image" and r["protocol"] == "default"]
    assert [r["split"] for r in image] == ["random", "popular", "pooled", "mean"]
    assert [r["n"] for r in image] == [20, 20, 40, 40]
    assert all(r["prompt"] == "default" for r in image)
    assert {r["protocol"] for r in rows if r["condition"] == "image"} >= {
        "default",
        "official",
        "llava",
        "lmms-eval",
        "vlmevalkit",
        "vcd",
        "repope",
        "strict",
    }
    assert {r["condition"] for r in rows} == {"image", "floor:always-yes", "floor:always-no", "floor:object-prior"}
    assert "30 asks about 5 images" in result.err


def test_the_manifest_names_everything_a_score_depends_on(here, data, checkpoint):
    assert here(*pope(data, checkpoint, "--control", "blank")).code == 0
    manifest = json.loads((data / "run/run.json").read_text())
    assert manifest["data"][0]["data_version"].startswith("custom:")
    assert manifest["data"][0]["splits"] == {"random": 20, "popular": 20}
    assert manifest["conditions"] == ["image", "blank"]
    assert manifest["prompt"]["template"].startswith("{question}")
    assert set(manifest["model"]["parts"]) >= {"weights", "config", "tokenizer", "processor", "dtype"}
    assert manifest["model"]["session"]["candidate_token_ids"]["yes"]
    assert manifest["decoding"] == {"greedy": True, "max_new_tokens": 8}
    assert manifest["packages"]["torch"]
    assert manifest["command"].startswith("agevlm-eval pope --ckpt")
    (launch,) = manifest["launches"]
    assert launch["answers"] == 60
    scores = json.loads((data / "run/scores.json").read_text())
    assert scores["rows"]


def test_a_second_run_asks_nothing_and_gives_the_same_scores(here, data, checkpoint):
    first = here(*pope(data, checkpoint, "--json", "-"))
    again = here(*pope(data, checkpoint, "--json", "-"))
    assert "30 answered before, 0 to go" in again.err
    assert again.out == first.out
    rescored = here("score", "pope", "--answers", data / "run", "--draws", 100, "--json", "-")
    assert rescored.out == first.out
    fresh = here(*pope(data, checkpoint, "--fresh", "--json", "-"))
    assert "0 answered before, 30 to go" in fresh.err
    assert fresh.out == first.out
    assert (data / "run/earlier-1/run.json").is_file()


def test_plan_says_what_would_be_asked_without_torch(data, checkpoint):
    code = f"""
import sys
from agevlm.cli import eval_group
eval_group.main({[str(a) for a in pope(data, checkpoint, "--plan", "--control", "all")]!r}, standalone_mode=False)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "30 (image, prompt) pairs" not in done.stdout
    assert "questions        40" in done.stdout
    assert "estimated time" in done.stdout
    assert not (data / "run").exists()


def test_controls_share_what_they_can_and_report_gains(here, data, checkpoint):
    result = here(*pope(data, checkpoint, "--control", "all", "--json", "-"))
    assert result.code == 0, result.err
    for control in ("blind", "blank", "shuffled", "other-image"):
        (row,) = list(result.rows(condition=control, split="pooled", protocol="default"))
        assert row["n"] == 40
        assert row["gain_accuracy_low"] <= row["gain_accuracy"] <= row["gain_accuracy_high"]
    records = [json.loads(line) for line in (data / "run/answers-00000.jsonl").read_text().splitlines()]
    blind = {r["prompt"]: r["text"] for r in records if r["shown"] is None}
    assert len(blind) == 6
    # The other images are images of the set, asked the same questions: those answers are there already.
    assert {r["shown"] for r in records if r["shown"] and len(r["shown"]) == 64} == {
        r["shown"] for r in records if r["image"] and r["shown"] and len(r["shown"]) == 64
    }
    assert len([r for r in records if r["shown"] and len(r["shown"]) == 64]) == 30


def test_limit_takes_whole_images(here, data, checkpoint):
    result = here(*pope(data, checkpoint, "--limit", 2, "--json", "-"))
    (row,) = result.rows(condition="image", split="pooled", protocol="default")
    assert row["n"] == 16
    assert row["missing"] == 0


def test_the_prompt_changes_the_asks_and_its_name_is_in_every_row(here, data, checkpoint, tmp_path):
    template = tmp_path / "short.txt"
    template.write_text("Look. {question} One word.\n")
    result = here(*pope(data, checkpoint, "--prompt", template, "--json", "-"))
    assert all(r["prompt"].startswith("short:") for r in result.rows(condition="image"))
    records = [json.loads(line) for line in (data / "run/answers-00000.jsonl").read_text().splitlines()]
    assert {r["prompt"] for r in records if "dog" in r["prompt"]} == {"Look. Is there a dog in the image? One word."}
    template.write_text("no place")
    assert "must hold {question} exactly once" in here(*pope(data, checkpoint, "--prompt", template)).err
    assert "neither default nor official" in here(*pope(data, checkpoint, "--prompt", "nowhere.txt")).err


def test_verify_compares_with_plain_generate(here, data, checkpoint):
    result = here(*pope(data, checkpoint, "--verify", 3))
    assert result.code == 0, result.err
    assert "by plain generate: 0 differ" in result.err
    report = json.loads((data / "run/verify.json").read_text())
    assert (report["images"], report["answers"], report["flips"]) == (3, 18, [])


def test_bad_images_become_error_records_and_a_later_run_asks_them_again(here, data, checkpoint):
    good = (data / "images/1.png").read_bytes()
    (data / "images/1.png").write_bytes(good[: len(good) // 2])
    (data / "images/2.png").write_text("this is no image")
    result = here(*pope(data, checkpoint, "--json", "-"))
    assert result.code == 3
    assert "error record: image 1.png: damaged or truncated" in result.err
    assert "error record: image 2.png: not an image file" in result.err
    (row,) = result.rows(condition="image", split="pooled", protocol="default")
    assert (row["n"], row["missing"], row["errors"]) == (24, 16, 16)
    assert here(*pope(data, checkpoint, "--allow-partial")).code == 0
    (data / "images/1.png").write_bytes(good)
    picture(2).save(data / "images/2.png")
    again = here(*pope(data, checkpoint, "--json", "-"))
    assert again.code == 0
    assert "18 answered before, 12 to go" in again.err
    assert again.rows(condition="image", split="pooled", protocol="default")[0]["errors"] == 0


def test_missing_images_are_counted_and_named_before_anything_is_loaded(here, data, checkpoint):
    for i in (0, 3):
        (data / f"images/{i}.png").unlink()
    result = here(*pope(data, checkpoint))
    assert result.code == 2
    assert "2 of 5 images are missing" in result.err
    assert "0.png, 3.png" in result.err
    assert not (data / "run/answers-00000.jsonl").exists()


def test_file_names_that_leave_the_image_folder_are_refused(here, data, checkpoint):
    path = data / "questions/coco_pope_random.json"
    path.write_text(path.read_text().replace('"0.png"', '"../secret.png"'))
    result = here(*pope(data, checkpoint))
    assert result.code == 2
    assert "../secret.png" in result.err


def test_data_errors_name_file_and_line(here, data, checkpoint):
    path = data / "questions/coco_pope_random.json"
    lines = path.read_text().splitlines()
    for broken, message in (
        ('{"question_id": 3, "image"', "coco_pope_random.json:3"),
        (lines[2].replace('"yes"', '"perhaps"'), "coco_pope_random.json:3"),
        (lines[1], "coco_pope_random.json:3"),
    ):
        path.write_text("\n".join([*lines[:2], broken, *lines[3:]]) + "\n")
        result = here(*pope(data, checkpoint))
        assert result.code == 2
        assert message in result.err


def test_an_unknown_split_protocol_or_checkpoint_says_what_there_is(here, data, checkpoint, tmp_path):
    assert "random, popular" in here(*pope(data, checkpoint, "--split", "adversarial")).err
    assert "vlmevalkit" in here(*pope(data, checkpoint, "--protocol", "nonsense")).err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no config.json" in here(*pope(data, empty)).err
    assert "no such folder" in here(*pope(data, tmp_path / "nowhere")).err
    assert (
        "give their folder with --images" in here("pope", "--ckpt", checkpoint, "--questions", data / "questions").err
    )


def test_a_parquet_file_brings_its_own_images(here, data, checkpoint):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for i in range(3):
        buffer = io.BytesIO()
        picture(i).save(buffer, "PNG")
        for name, label in (("dog", "yes"), ("cat", "no")):
            rows.append(
                {
                    "id": str(len(rows)),
                    "question_id": str(len(rows) + 1),
                    "question": f"Is there a {name} in the image?",
                    "answer": label,
                    "image_source": f"picture_{i}",
                    "image": {"bytes": buffer.getvalue(), "path": None},
                    "category": "popular",
                }
            )
    pq.write_table(pa.Table.from_pylist(rows), data / "test.parquet")
    result = here(
        "pope",
        "--ckpt",
        checkpoint,
        "--questions",
        data / "test.parquet",
        "--out",
        data / "run",
        "--json",
        "-",
        "--draws",
        100,
        "--max-new-tokens",
        4,
    )
    assert result.code == 0, result.err
    assert result.rows(condition="image", split="popular", protocol="default")[0]["n"] == 6


def test_popev2_is_scored_by_pairs(here, data, checkpoint):
    rows = []
    for folder, label in (("coco/train2017", "Yes"), ("images", "No")):
        (data / "v2" / folder).mkdir(parents=True)
        for i in range(3):
            picture(10 * i + len(folder)).save(data / "v2" / folder / f"{i}.jpg")
            rows.append(
                {
                    "image_id": i,
                    "image_name": f"/{folder}/{i}.jpg",
                    "target_object": "remote",
                    "query": "Is there a remote in the image?",
                    "label": label,
                }
            )
    (data / "annotations.json").write_text(json.dumps(rows))
    result = here(
        "pope",
        "--ckpt",
        checkpoint,
        "--questions",
        data / "annotations.json",
        "--images",
        data / "v2",
        "--out",
        data / "run",
        "--control",
        "other-image",
        "--json",
        "-",
        "--draws",
        100,
    )
    assert result.code == 0, result.err
    (row,) = result.rows(condition="image", split="popev2", protocol="default")
    assert row["n"] == 6
    assert 0 <= row["pair_accuracy"] <= 1


def test_build_pope_then_pope_on_real_photographs(here, shared, checkpoint, tmp_path):
    built = here("build-pope", "--annotations", shared / "photos/instances.json", "--out", tmp_path / "q")
    assert built.code == 0
    assert "24 images: 11 usable" in built.out
    assert "198 questions about 11 images" in built.out
    result = here(
        "pope",
        "--ckpt",
        checkpoint,
        "--questions",
        tmp_path / "q",
        "--images",
        shared / "photos/images",
        "--out",
        tmp_path / "run",
        "--json",
        "-",
        "--verify",
        2,
        "--max-new-tokens",
        4,
    )
    assert result.code == 0, result.err
    assert "0 differ" in result.err
    splits = result.rows(condition="image", protocol="default")
    assert [(r["split"], r["n"]) for r in splits] == [
        ("random", 66),
        ("popular", 66),
        ("adversarial", 66),
        ("pooled", 198),
        ("mean", 198),
    ]


def test_published_answers_through_the_command(here, shared):
    pope_data = shared / "pope"
    result = here(
        "score",
        "pope",
        "--answers",
        pope_data / "answers/llava-1.5-13b",
        "--questions",
        pope_data / "llava_variant",
        "--json",
        "-",
        "--draws",
        100,
    )
    assert result.code == 0
    expected = json.loads((pope_data / "answers/expected_official.json").read_text())
    for split in ("random", "popular", "adversarial"):
        (row,) = result.rows(condition="image", split=split, protocol="official")
        want = expected[f"haoming2000/llava-v1.5-13b {split}"]
        assert [row[k] for k in ("tp", "fp", "tn", "fn")] == [want[k] for k in ("TP", "FP", "TN", "FN")]
        assert row["f1"] == want["f1"]
        assert row["data_version"] == "pope-coco@e3e3926"


def test_a_partly_answered_split_exits_3_unless_allowed(here, tmp_path):
    demo = Path(__file__).resolve().parents[3] / "reports/demo_data"
    lines = (demo / "answers.jsonl").read_text().splitlines(keepends=True)
    part = tmp_path / "part.jsonl"
    part.write_text("".join(lines[:40]))
    arguments = (
        "score",
        "pope",
        "--answers",
        part,
        "--questions",
        demo / "demo_pope_random.json",
        "--draws",
        100,
        "--json",
        "-",
    )
    result = here(*arguments)
    assert result.code == 3
    assert "8 answers are missing" in result.err
    assert result.rows(condition="image", protocol="default")[0]["missing"] == 8
    assert here(*arguments, "--allow-partial").code == 0
    part.write_text("".join(lines) + '{"question_id": 999, "text": "Yes"}\n')
    assert here(*arguments).code == 2


def test_plan_and_build_speak_json_too(here, data, checkpoint, tmp_path, shared):
    (row,) = json.loads(here(*pope(data, checkpoint, "--plan", "--json", "-")).out)
    assert (row["questions"], row["pairs"], row["pairs_left"], row["images"]) == (40, 30, 30, 5)
    built = here(
        "build-pope", "--annotations", shared / "photos/instances.json", "--out", tmp_path / "q", "--json", "-"
    )
    assert [r["questions"] for r in json.loads(built.out)] == [66, 66, 66]


def test_a_limited_run_says_so_and_can_be_scored_on_repope(here, shared, checkpoint, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    questions = shared / "pope/official/coco_pope_random.json"
    for name in sorted({json.loads(line)["image"] for line in questions.read_text().splitlines()}):
        picture(3, (20, 20)).save(images / name)
    out = tmp_path / "run"
    ran = here("pope", "--ckpt", checkpoint, "--questions", questions, "--images", images, "--limit", 4, "--out", out,
               "--draws", 100, "--json", "-")  # fmt: skip
    assert {r["data_version"] for r in json.loads(ran.out)} == {"pope-coco@3df3ba1 limit 4 seed 0"}
    again = here("score", "pope", "--answers", out, "--repope", shared / "pope/repope", "--json", "-")
    assert again.code == 0, again.err
    rows = {r["data_version"]: r for r in json.loads(again.out) if r["condition"] == "image"}
    assert rows["pope-coco@3df3ba1 limit 4 seed 0"]["n"] == 24
    assert 0 < rows["repope-coco@bcf22e5 limit 4 seed 0"]["n"] <= 24


def test_a_run_folder_is_rescored_with_its_own_seed_and_draws(here, data, checkpoint):
    first = here(*pope(data, checkpoint, "--seed", 5, "--draws", 150, "--json", "-"))
    assert here("score", "pope", "--answers", data / "run", "--json", "-").out == first.out
    assert here("score", "pope", "--answers", data / "run", "--seed", 6, "--json", "-").out != first.out
    both = here("score", "pope", "--answers", data / "run", "--answers", data / "run")
    assert both.code == 2
    assert "a run folder is scored by itself" in both.err


def test_sets_of_equal_content_stay_apart(here, data, checkpoint):
    for name in ("first", "second"):
        source = (data / "questions/coco_pope_random.json").read_text()
        (data / "questions" / f"{name}_pope_random.json").write_text(source)
    result = here(*pope(data, checkpoint, "--json", "-", "--split", "random"))
    assert {(r["dataset"], r["n"]) for r in result.rows(condition="image", protocol="default")} == {
        ("coco", 20),
        ("first", 20),
        ("second", 20),
    }


def test_a_checkpoint_that_changes_under_the_run_is_refused(here, data, checkpoint, tmp_path, monkeypatch):
    from agevlm.vlm.choice import ModelChoice
    from agevlm.vlm.fingerprint import fingerprint_parts

    monkeypatch.setattr(ModelChoice, "fingerprint", lambda self: fingerprint_parts({"weights": "earlier"}))
    result = here(*pope(data, checkpoint))
    assert result.code == 2
    assert "weights changed while the run was planned" in result.err
    assert not (data / "run/answers-00000.jsonl").exists()


def test_a_verification_that_fails_leaves_the_scores(here, data, checkpoint, monkeypatch):
    import agevlm.vlm.hf.reference as reference

    def broken(*_):
        raise RuntimeError("no room for generate")

    monkeypatch.setattr(reference, "find_flips", broken)
    result = here(*pope(data, checkpoint, "--verify", 1))
    assert result.code == 2
    assert "--verify failed, the scores stand: RuntimeError: no room for generate" in result.err
    assert (data / "run/scores.json").is_file()


def test_damage_in_a_run_folder_is_told_and_not_a_traceback(here, data, checkpoint):
    assert here(*pope(data, checkpoint)).code == 0
    (data / "run/questions.jsonl").write_text('{"nothing": 1}\n')
    result = here("score", "pope", "--answers", data / "run")
    assert result.code == 2
    assert "give the benchmark's command again to rewrite them" in result.err
    assert "0 to go" in here(*pope(data, checkpoint)).err


def test_the_rules_that_fired_are_counted(here, data, checkpoint):
    assert here(*pope(data, checkpoint, "--protocol", "default")).code == 0
    rules = json.loads((data / "run/scores.json").read_text())["rules"]
    assert sum(r["count"] for r in rules) == 40
    assert {r["label"] for r in rules} <= {"yes", "no"}
    assert all(r["rule"] for r in rules)


def test_names_with_markup_and_answers_without_prompts_are_handled_plainly(here, tmp_path):
    folder = tmp_path / "set[red]"
    folder.mkdir()
    rows = [
        {"question_id": i, "image": f"{i}.jpg", "text": "Is there a dog in the image?", "label": "no"} for i in (1, 2)
    ]
    (folder / "my[bold]set.json").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "a.jsonl").write_text('{"question_id": 1, "text": "no [/x]"}\n{"question_id": 2, "text": "maybe [/x]"}\n')
    result = here("score", "pope", "--answers", folder / "a.jsonl", "--questions", folder / "my[bold]set.json")
    assert result.code == 0, result.err
    assert "my[bold]set" in result.out
    assert "record no prompts" in result.err


def test_fresh_moves_the_runs_own_files_alone_and_foreign_folders_are_refused(here, data, checkpoint):
    assert here(*pope(data, checkpoint)).code == 0
    (data / "run/notes.txt").write_text("mine")
    assert here(*pope(data, checkpoint, "--fresh")).code == 0
    assert (data / "run/notes.txt").read_text() == "mine"
    assert (data / "run/earlier-1/answers-00000.jsonl").is_file()
    result = here(*pope(data, checkpoint, "--fresh", "--out", data / "images"))
    assert result.code == 2
    assert "no run of ours" in result.err
    assert len(list((data / "images").iterdir())) == 5


def test_the_same_questions_given_twice_are_refused(here, data, checkpoint):
    twice = here(*pope(data, checkpoint, "--questions", data / "questions"))
    assert twice.code == 2
    assert "is also in" in twice.err


def test_json_targets_that_cannot_be_written_are_refused_before_anything_is_asked(here, data, checkpoint):
    for target in ("", data, data / "nowhere/rows.json"):
        result = here(*pope(data, checkpoint, "--json", target))
        assert result.code == 2
        assert "is no file in an existing folder" in result.err
    assert not (data / "run").exists()


def test_a_trial_never_lands_in_the_whole_runs_default_folder(checkpoint):
    from agevlm.vlm.choice import ModelChoice
    from benchmarks.pope.settings import Loaded, PopeSettings, run_folder
    from benchmarks.prompts import DEFAULT

    def folder(dtype="float32", splits=(), limit=None):
        settings = PopeSettings(
            model=ModelChoice(str(checkpoint), dtype),
            questions=(),
            images=None,
            splits=splits,
            repope=None,
            prompt=DEFAULT,
            protocols=(),
            controls=(),
            max_new_tokens=8,
            limit=limit,
            seed=0,
            draws=100,
            out=None,
            fresh=False,
            verify=0,
            json_out=None,
            allow_partial=False,
        )
        return run_folder(settings, Loaded((), ())).path

    assert len({folder(), folder("bfloat16"), folder(splits=("random",)), folder(limit=3)}) == 4
    assert folder() == folder()


def test_a_reader_that_leaves_and_a_terminal_without_unicode_are_no_failure():
    demo = Path(__file__).resolve().parents[3] / "reports/demo_data"
    arguments = (
        f"score pope --answers {demo / 'answers.jsonl'} --questions {demo / 'demo_pope_random.json'} --draws 100"
    )
    command = f"{sys.executable} -c 'from agevlm.cli import eval_main; eval_main()' {arguments}"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command} | head -2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    ascii_only = {"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, env=ascii_only)
    assert done.returncode == 0, done.stderr
    assert b"72.9" in done.stdout
    done = subprocess.run(["bash", "-c", f"{command} > /dev/full"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no room to write the output" in done.stderr


def test_intervals_over_few_images_come_with_a_warning(here, data, checkpoint):
    assert "warning: only 5 images" in here(*pope(data, checkpoint)).err


def test_floors_stand_beside_every_result_whichever_protocol_leads(here):
    demo = Path(__file__).resolve().parents[3] / "reports/demo_data"
    arguments = ("score", "pope", "--answers", demo / "answers.jsonl", "--questions", demo / "demo_pope_random.json")
    for protocol in ("default", "official"):
        result = here(*arguments, "--protocol", protocol, "--draws", 100)
        assert result.code == 0
        assert f"prompt default · protocol {protocol}" in result.out
        for floor in ("always-yes", "always-no", "object-prior"):
            assert result.out.count(f"floor:{floor}") == 1


def test_a_model_that_shares_less_says_so_once_and_in_the_manifest(data, here, tmp_path):
    checkpoint = build_standin("paligemma", tmp_path / "paligemma")
    common = ["pope", "--ckpt", checkpoint, "--questions", data / "questions", "--images", data / "images"]
    result = here(*common, "--out", tmp_path / "run", "--max-new-tokens", 4, "--verify", 2, "--json", "-")
    assert result.code == 0, result.err
    assert (
        " ".join(result.err.split()).count("each image is encoded once, but every question runs its whole prompt") == 1
    )
    session = json.loads((tmp_path / "run" / "run.json").read_text())["model"]["session"]
    assert session["reuse"]["image"] is True
    assert session["reuse"]["prefix"] is False
    assert "bidirectional" in session["reuse"]["why"]
    assert session["batch_size"] == {"given": None, "first": 32, "fitted": 32}
    assert json.loads((tmp_path / "run" / "verify.json").read_text())["flips"] == []
    blind = here(*common, "--out", tmp_path / "blind", "--control", "blind", "--max-new-tokens", 4)
    assert blind.code == 2
    assert "cannot be asked without an image; leave it out" in " ".join(blind.err.split())


def test_a_checkpoint_without_a_chat_template_runs_with_one_given(data, here, tmp_path):
    checkpoint = build_standin("qwen2_vl", tmp_path / "qwen")
    template = checkpoint / "chat_template.jinja"
    common = [
        "pope",
        "--ckpt",
        checkpoint,
        "--questions",
        data / "questions",
        "--images",
        data / "images",
        "--limit",
        1,
    ]
    text = template.read_text()
    template.unlink()
    refused = here(*common, "--out", tmp_path / "refused")
    assert refused.code == 2
    assert "has no chat template; give one with --chat-template FILE" in " ".join(refused.err.split())
    (tmp_path / "template.jinja").write_text(text)
    given = ["--chat-template", tmp_path / "template.jinja", "--batch-size", 2, "--device-map", "auto"]
    result = here(*common, "--out", tmp_path / "run", "--max-new-tokens", 4, "--verify", 1, *given)
    assert result.code == 0, result.err
    assert "every question" not in result.err
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["model"]["session"]["batch_size"] == {"given": 2, "first": 2, "fitted": 2}
    assert json.loads((tmp_path / "run" / "verify.json").read_text())["flips"] == []


def test_one_model_over_all_devices_is_one_process(data, here, checkpoint, monkeypatch):
    monkeypatch.setattr("benchmarks.ranks.Ranks.start", lambda self: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = here(
        "pope", "--ckpt", checkpoint, "--questions", data / "questions", "--images", data / "images",
        "--device-map", "auto", "--out", data / "run",
    )  # fmt: skip
    assert result.code == 2
    assert "start one process, not 2" in " ".join(result.err.split())
