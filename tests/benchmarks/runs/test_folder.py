"""The run folder: one command at a time, resuming by default, and only what an edit touches is asked again."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from agevlm.errors import RunFolderError
from benchmarks.records import AnswerWriter
from benchmarks.run_folder import RunFolder
from tests.benchmarks.runs.launch import ROOT, answers, asked, pope, pope_here, small_disk, start
from tests.benchmarks.runs.stub import digest, make_data, picture

HOLD = "import sys, pathlib, time; {}; print('held', flush=True); time.sleep(60)"


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / "data", 6)


@pytest.fixture
def run(data, tmp_path):
    """A finished run."""
    done = pope_here(data, tmp_path / "run", tmp_path / "first.log")
    assert done.returncode == 0, done.stderr
    return tmp_path / "run"


def again(data, run, *options):
    """The same command once more: its result and the (picture, prompt) pairs it asked."""
    log = run.parent / f"again-{time.monotonic_ns()}.log"
    result = pope_here(data, run, log, *options)
    return result, {(image, prompt) for _, image, prompt in asked(log)}


def held(code):
    process = subprocess.Popen([sys.executable, "-c", HOLD.format(code)], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert process.stdout.readline() == "held\n"
    return process


# one owner


def test_a_second_command_on_a_running_folder_is_refused_by_name_and_changes_nothing(data, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    first = start(data, out, log, STUB_DELAY=0.3)
    while not asked(log):
        assert first.poll() is None
        time.sleep(0.01)
    second = pope(data, out, tmp_path / "second.log")
    assert second.returncode == 2
    assert f"run folder {out} is in use by process {first.pid} on " in second.stderr
    assert not asked(tmp_path / "second.log")
    fresh = pope(data, out, tmp_path / "second.log", "--fresh")
    assert fresh.returncode == 2
    assert not list(out.glob("earlier-*"))
    assert pope(data, out, tmp_path / "second.log", "--plan").returncode == 0, "looking is allowed"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert pope(data, out, log).returncode == 0


def test_the_folder_is_free_again_when_its_owner_dies_without_a_word(tmp_path):
    owner = held(f"import benchmarks.run_folder as r; f = r.RunFolder(pathlib.Path({str(tmp_path)!r})); f.own()")
    with pytest.raises(RunFolderError, match=f"in use by process {owner.pid} on "):
        RunFolder(tmp_path).own()
    owner.kill()
    owner.communicate()
    folder = RunFolder(tmp_path)
    folder.own()
    with pytest.raises(RunFolderError, match=f"in use by process {os.getpid()} on "):
        RunFolder(tmp_path).own()
    folder.release()
    folder.own()
    folder.release()


def test_a_process_of_an_earlier_launch_that_still_writes_keeps_the_folder_closed(tmp_path):
    path = tmp_path / "answers-00001.jsonl"
    rank = held(f"import benchmarks.records as r; w = r.AnswerWriter(pathlib.Path({str(path)!r}))")
    folder = RunFolder(tmp_path)
    with pytest.raises(RunFolderError, match=r"answers-00001\.jsonl: another process is writing it"):
        folder.own()
    rank.kill()
    rank.communicate()
    folder.own()
    folder.release()


def test_a_folder_that_cannot_be_used_is_said_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be used: "):
        RunFolder(tmp_path / "file").own()


# resuming


def test_the_same_command_asks_nothing_twice(data, run):
    scores = (run / "scores.json").read_bytes()
    result, asks = again(data, run)
    assert result.returncode == 0
    assert asks == set()
    assert (run / "scores.json").read_bytes() == scores
    assert len(json.loads((run / "run.json").read_text())["launches"]) == 2


def test_fresh_asks_everything_again_and_keeps_the_earlier_run(data, run):
    scores, before = (run / "scores.json").read_bytes(), answers(run)
    result, asks = again(data, run, "--fresh")
    assert result.returncode == 0
    assert len(asks) == len(before)
    assert (run / "scores.json").read_bytes() == (run / "earlier-1" / "scores.json").read_bytes() == scores
    assert answers(run / "earlier-1") == before
    again(data, run, "--fresh")
    assert (run / "earlier-2" / "scores.json").read_bytes() == scores


def test_plan_asks_and_writes_nothing_and_counts_what_is_left(data, run, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in run.iterdir()}
    picture(99).save(data.image(2))
    result, asks = again(data, run, "--plan")
    assert result.returncode == 0
    assert asks == set()
    assert {p: p.stat().st_mtime_ns for p in run.iterdir()} == before
    assert "each encoded once (1 left)" in " ".join(result.stdout.split())
    result = pope_here(data, tmp_path / "elsewhere", tmp_path / "log", "--plan")
    assert "each encoded once (6 left)" in " ".join(result.stdout.split())
    assert not (tmp_path / "elsewhere").exists()


# exactly what an edit touches


def pairs_of(run, name):
    return {(r.shown, r.prompt) for r in answers(run).values() if r.image == name}


def test_one_edited_image_is_asked_about_again_and_no_other(data, run):
    before = answers(run)
    prompts = {r.prompt for r in before.values() if r.image == data.image(3).name}
    picture(77).save(data.image(3))
    _, asks = again(data, run)
    assert asks == {(digest(picture(77)), p) for p in prompts}
    assert before.items() <= answers(run).items()


def test_an_image_saved_anew_with_the_same_bytes_touches_nothing(data, run):
    path = data.image(3)
    path.write_bytes(path.read_bytes())
    os.utime(path, (1, 1))
    assert again(data, run)[1] == set()


def test_one_edited_question_is_asked_and_no_other_and_one_taken_back_costs_nothing(data, run):
    path = data.questions / "coco_pope_popular.json"
    original = path.read_text()
    rows = [json.loads(line) for line in original.splitlines()]
    rows[1]["text"] = "Is there a zebra in the image?"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    _, asks = again(data, run)
    assert [(image, prompt.splitlines()[0]) for image, prompt in asks] == [
        (digest(picture(0)), "Is there a zebra in the image?")
    ]
    path.write_text(original)
    assert again(data, run)[1] == set()


def test_flipped_labels_ids_and_order_change_scores_but_no_ask(data, run):
    scores = (run / "scores.json").read_bytes()
    path = data.questions / "coco_pope_random.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for n, row in enumerate(reversed(rows)):
        row |= {"label": "no" if row["label"] == "yes" else "yes", "question_id": n + 100}
    path.write_text("".join(json.dumps(r) + "\n" for r in reversed(rows)))
    assert again(data, run)[1] == set()
    assert (run / "scores.json").read_bytes() != scores


def test_another_prompt_template_or_token_budget_asks_everything_and_the_old_answers_stay(data, run):
    before = answers(run)
    assert len(again(data, run, "--prompt", "official")[1]) == len(before)
    assert len(again(data, run, "--max-new-tokens", "7")[1]) == len(before)
    assert len(answers(run)) == 3 * len(before)
    assert again(data, run)[1] == set()


def test_a_control_added_later_asks_only_the_control(data, run):
    _, asks = again(data, run, "--control", "blind")
    assert {image for image, _ in asks} == {None}


def test_a_larger_limit_goes_on_from_a_smaller_one(data, tmp_path):
    out = tmp_path / "limited"
    _, first = again(data, out, "--limit", "2")
    _, second = again(data, out, "--limit", "4")
    assert len({image for image, _ in first}) == len({image for image, _ in second}) == 2
    assert first.isdisjoint(second)


# bad images and full disks


def test_broken_images_are_named_the_others_go_on_and_repaired_ones_are_asked_again(data, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    good = [data.image(n).read_bytes() for n in range(6)]
    data.image(0).write_bytes(good[0][: len(good[0]) // 2])
    data.image(1).write_text("<html>404</html>")
    data.image(2).write_bytes(b"")
    result = pope_here(data, out, log, "--control", "blank")
    assert result.returncode == 3, result.stderr
    failed = {r.image: r.error for r in answers(out).values() if r.error is not None}
    assert "damaged or truncated" in failed[data.image(0).name]
    assert "not an image file" in failed[data.image(1).name]
    assert "empty" in failed[data.image(2).name]
    assert len(failed) == 3
    assert all(r.text is not None for r in answers(out).values() if r.shown == "blank 20x16"), "a size is all it takes"
    assert data.image(0).name in result.stderr
    assert {image for _, image, _ in asked(log)} >= {digest(picture(n)) for n in (3, 4, 5)}
    for n in range(3):
        data.image(n).write_bytes(good[n])
    result, asks = again(data, out)
    assert result.returncode == 0
    assert {image for image, _ in asks} == {digest(picture(n)) for n in range(3)}


def test_missing_images_are_counted_and_named_before_anything_is_asked(data, tmp_path):
    data.image(4).unlink()
    result = pope_here(data, tmp_path / "run", tmp_path / "log")
    assert result.returncode == 2
    assert f"1 of 6 images are missing from {data.images}: {data.image(4).name}" in result.stderr
    assert not asked(tmp_path / "log")


def test_names_and_questions_in_any_script_survive_a_run_and_a_resume(tmp_path):
    data = make_data(tmp_path / "data", 2)
    name = "bild \u2028 \U0001f600.png"
    Image.new("RGB", (9, 9), (1, 2, 3)).save(data.images / name)
    path = data.questions / "coco_pope_random.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows.append({"question_id": 1000, "image": name, "text": "Is there a \u2028 \u00fc in the image?", "label": "no"})
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    result, asks = again(data, tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert sum("\u2028 \u00fc" in prompt for _, prompt in asks) == 1
    assert again(data, tmp_path / "run")[1] == set()


def test_a_run_on_a_disk_that_fills_up_says_so_and_ends_the_same_once_there_is_room(data, run, tmp_path):
    with small_disk(tmp_path / "disk", "200k") as disk:
        filler, out, log = disk / "filler", disk / "run", tmp_path / "log"
        seen = set()
        for room in range(0, 160_000, 4_000):
            filler.write_bytes(b"x" * (190_000 - room))
            result = pope_here(data, out, log)
            if result.returncode == 0:
                break
            assert result.returncode == 2, result.stderr
            assert "Traceback" not in result.stderr
            seen |= {
                what
                for what in ("the disk is full; all earlier answers are safe", "No space left")
                if what in result.stderr
            }
        filler.unlink()
        assert "the disk is full; all earlier answers are safe" in seen
        assert pope_here(data, out, log).returncode == 0
        assert (out / "scores.json").read_bytes() == (run / "scores.json").read_bytes()
        assert answers(out) == answers(run)


def test_a_half_written_file_of_a_killed_launch_does_not_stay(data, run):
    (run / ".scores.json.part").write_text("{half")
    again(data, run)
    assert sorted(p.name for p in run.iterdir()) == [
        "answers-00000.jsonl",
        "lock",
        "questions.jsonl",
        "run.json",
        "scores.json",
    ]


def test_damaged_answers_stop_the_command_before_it_asks(data, run):
    path = run / "answers-00000.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "garbage\n", *lines[2:]]))
    result, asks = again(data, run)
    assert result.returncode == 2
    assert "answers-00000.jsonl:2: not a whole answer record" in result.stderr
    assert asks == set()


def test_a_writer_that_cannot_be_opened_is_an_error_of_the_folder(tmp_path):
    (tmp_path / "answers-00000.jsonl").mkdir()
    with pytest.raises(RunFolderError, match=r"answers-00000\.jsonl: cannot be written: Is a directory"):
        AnswerWriter(tmp_path / "answers-00000.jsonl")
