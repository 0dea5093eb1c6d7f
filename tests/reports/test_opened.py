"""Run folders opened for a report: complete, unfinished, damaged, of other versions, and of the same name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agevlm.errors import RunFolderError
from benchmarks.reading import Label, read_yes_no
from benchmarks.run_folder import RunFolder
from reports.opened import Run, named, open_runs
from reports.runs.listing import look_at
from reports.runs.showing import open_run
from tests.benchmarks.runs.launch import command_here
from tests.reports.runs.test_listing import drop_last_commit, scores_of

NAMES = {"pope": "protocols", "cvbench": "readings"}


def opened(*folders: Path) -> list[Run]:
    runs, left_out = open_runs(folders)
    assert left_out == []
    return runs


def alone(folder: Path) -> Run:
    (run,) = opened(folder)
    return run


def rescored(folder: Path, benchmark: str) -> list[dict]:
    """The rows that the command for answers makes of the folder, with the run's own draws and seed."""
    scoring = scores_of(folder)["settings"]
    settings = ["--draws", str(scoring["draws"]), "--seed", str(scoring["seed"]), "--json", "-"]
    done = command_here("score", benchmark, "--answers", str(folder), *settings, "--allow-partial")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", ["pope", "cvbench"])
def test_a_complete_run_is_opened_as_it_is(copy, name):
    folder = copy(name)
    run = alone(folder)
    assert (run.label, run.benchmark, run.models, run.remarks) == ("stub", name, ("stub",), ())
    assert run.scores == scores_of(folder)
    assert run.held is not None
    assert run.held.asked.total() == 2 * sum(1 for _ in (folder / "questions.jsonl").open())


@pytest.mark.parametrize("name", ["pope", "cvbench"])
def test_a_run_without_scores_gets_those_that_the_command_writes_and_nothing_is_written(copy, name):
    folder = copy(name)
    own = scores_of(folder)
    (folder / "scores.json").unlink()
    before = files_of(folder)
    run = alone(folder)
    assert run.scores == own
    assert any("in memory" in remark for remark in run.remarks)
    assert files_of(folder) == before


@pytest.mark.parametrize("name", ["pope", "cvbench"])
def test_an_incomplete_run_says_so_and_its_numbers_are_of_what_is_there(copy, name):
    folder = copy(name)
    old = scores_of(folder)["rows"]
    gone = drop_last_commit(folder)
    answered = set(RunFolder(folder).answers())
    keys = [key for row in map(json.loads, (folder / "questions.jsonl").open()) for key in row["keys"].values()]
    lost = sum(key not in answered for key in keys)
    run = alone(folder)
    assert 0 < gone <= lost
    assert run.remarks[0].startswith(f"incomplete: {lost:,} of {len(keys):,} questions have no answer")
    assert "the same command goes on" in run.remarks[0]
    assert run.scores is not None
    assert run.scores["rows"] != old
    assert run.scores["rows"] == rescored(folder, name)


def test_errors_are_named_as_errors(copy):
    folder = copy("broken")
    failed = {key for key, record in RunFolder(folder).answers().items() if record.error is not None}
    keys = [key for row in map(json.loads, (folder / "questions.jsonl").open()) for key in row["keys"].values()]
    (remark,) = alone(folder).remarks
    lost = sum(key in failed for key in keys)
    assert remark.startswith(
        f"errors stand in the place of {lost} of {len(keys)} answers (image {lost} of {len(keys)})"
    )


def test_scores_that_were_only_touched_are_kept_without_a_word(copy):
    folder = copy("pope")
    (answers,) = RunFolder(folder).answer_files
    answers.touch()
    run = alone(folder)
    assert (run.remarks, run.scores) == ((), scores_of(folder))


def test_answers_lost_within_a_tick_of_the_clock_are_noticed(copy):
    folder = copy("pope")
    drop_last_commit(folder)
    (answers,) = RunFolder(folder).answer_files
    then = (folder / "scores.json").stat().st_mtime_ns
    os.utime(answers, ns=(then, then))
    run = alone(folder)
    assert run.remarks[0].startswith("incomplete")
    assert run.scores is not None
    assert run.scores["rows"] == rescored(folder, "pope")


def test_a_damaged_line_is_named_and_the_numbers_are_of_the_rest(copy):
    folder = copy("pope")
    (file,) = RunFolder(folder).answer_files
    lines = file.read_bytes().splitlines(keepends=True)
    images = [row["keys"]["image"] for row in map(json.loads, (folder / "questions.jsonl").open())]
    place = next(k for k, line in enumerate(lines) if json.loads(line)["key"] in images)
    lost = json.loads(lines[place])["key"]
    file.write_bytes(b"".join([*lines[:place], b'{"key": "half\n', *lines[place + 1 :]]))
    run = alone(folder)
    assert any(remark.startswith(f"{file}:{place + 1}: damaged") for remark in run.remarks)
    # Longhand, of one split: what our reader makes of each answer that is left.
    records = {json.loads(line)["key"]: json.loads(line) for k, line in enumerate(lines) if k != place}
    right = total = 0
    for row in map(json.loads, (folder / "questions.jsonl").open()):
        if row["question"]["split"] == "random" and row["keys"]["image"] in records:
            total += 1
            label = read_yes_no(records[row["keys"]["image"]]["text"]).label
            right += label is (Label.YES if row["question"]["label"] else Label.NO)
    assert run.scores is not None
    rows = {r["split"]: r for r in run.scores["rows"] if (r["condition"], r["protocol"]) == ("image", "default")}
    assert rows["random"]["n"] == total
    assert rows["random"]["accuracy"] == pytest.approx(right / total)
    assert rows["pooled"]["missing"] == images.count(lost)


def test_damaged_questions_are_named_by_line(copy):
    folder = copy("cvbench")
    path = folder / "questions.jsonl"
    lines = path.read_text().splitlines()
    lacking, impossible = json.loads(lines[2]), json.loads(lines[3])
    del lacking["question"]["task"]
    impossible["question"]["gold"] = 9
    path.write_text("\n".join([lines[0], "[]", json.dumps(lacking), json.dumps(impossible), *lines[4:]]) + "\n")
    run = alone(folder)
    assert [r for r in run.remarks if r.startswith(f"{path}:2: damaged")]
    for number in (3, 4):
        assert [r for r in run.remarks if r.startswith(f"{path}:{number}: not a question of cvbench")]
    assert run.held is not None
    assert len(run.held.cvbench[0].questions.questions) == len(lines) - 3


def test_a_report_the_list_and_the_terminal_leave_out_the_same_questions(copy):
    folder = copy("pope")
    path = folder / "questions.jsonl"
    lines = path.read_text().splitlines()
    wordy, other = json.loads(lines[0]), json.loads(lines[1])
    wordy["question"]["label"] = "no"  # true, as Python takes it
    other["set"] = 7
    path.write_text("\n".join([json.dumps(wordy), json.dumps(other), *lines[2:]]) + "\n")
    run = alone(folder)
    assert run.held is not None
    (held,) = run.held.pope
    shown = open_run(folder, None, None, "image")
    named = [remark for remark in run.remarks if remark.startswith(f"{path}:")]
    assert len(held.questions.questions) == len(shown.questions) == len(lines) - 2
    assert [q.question_id for q in held.questions.questions] == [q.number for q in shown.questions]
    assert len(named) == 2
    assert named == list(shown.remarks)
    listed = look_at(folder)
    assert listed is not None
    assert f"{listed.path}/{listed.detail}".startswith(f"{named[0]} (and 1 more)")


@pytest.mark.parametrize(
    "scores", ['{"rows": [', "[]", "{}", '{"rows": [{"condition": "image"}], "settings": {}}', "texts", None]
)
def test_damaged_scores_are_named_and_made_again(copy, scores):
    folder = copy("pope")
    own = scores_of(folder)
    if scores == "texts":
        scores = json.dumps({**own, "rows": [{**row, "accuracy": "0.5"} for row in own["rows"]]})
    if scores is None:  # of a version that did not count images
        scores = json.dumps({**own, "rows": [{k: v for k, v in row.items() if k != "images"} for row in own["rows"]]})
    (folder / "scores.json").write_text(scores)
    run = alone(folder)
    assert any("scores.json" in remark for remark in run.remarks)
    assert run.scores == own


def test_a_run_in_use_is_shown_and_says_so(copy):
    folder = copy("pope")
    owner = RunFolder(folder)
    owner.own()
    try:
        run = alone(folder)
    finally:
        owner.release()
    assert run.remarks[0].startswith("in use")
    assert run.scores == scores_of(folder)


def test_runs_that_cannot_be_opened_are_left_out_and_named(copy, tmp_path):
    good, newer, broken = copy("pope"), copy("cvbench"), copy("broken")
    (newer / "run.json").write_text(json.dumps({**json.loads((newer / "run.json").read_text()), "schema": 99}))
    (broken / "run.json").write_text("{")
    other = tmp_path / "model"
    other.mkdir()
    (other / "run.json").write_text('{"stage": 1}')
    runs, left_out = open_runs([good, newer, broken, other, tmp_path / "nowhere"])
    assert [run.folder for run in runs] == [good]
    for folder, why in zip((newer, broken, other, tmp_path / "nowhere"), left_out, strict=True):
        assert str(folder) in why
    assert "newer version" in left_out[0]
    with pytest.raises(RunFolderError, match="newer version"):
        open_runs([newer])


def test_a_folder_of_runs_stands_for_them(copy):
    folders = [copy("pope"), copy("cvbench")]
    parent = folders[0].parent
    (parent / "training").mkdir()
    (parent / "training" / "run.json").write_text('{"stage": 1}')
    (parent / "pictures").mkdir()
    assert [run.folder.name for run in opened(parent)] == ["cvbench", "pope"]
    assert [run.folder.name for run in opened(folders[0], parent, folders[0])] == ["pope", "cvbench"]
    with pytest.raises(RunFolderError, match="not a run folder"):
        open_runs([parent / "pictures"])


def test_runs_of_the_same_name_are_told_apart(copy, tmp_path):
    first = copy("pope")
    twins = [tmp_path / "b" / "pope", tmp_path / "c" / "pope"]
    for twin in twins:
        shutil.copytree(first, twin)
    labels = [run.label for run in opened(first, *twins, copy("cvbench"))]
    assert labels == ["stub (runs/pope)", "stub (b/pope)", "stub (c/pope)", "stub"]


def test_an_analysis_that_did_not_end_says_so(tmp_path):
    manifest = {"schema": 1, "benchmark": "grounding", "models": {"m": {}}, "launches": [{"started": "x"}]}
    (tmp_path / "run.json").write_text(json.dumps(manifest))
    run = alone(tmp_path)
    assert (run.scores, run.models) == (None, ("m",))
    assert run.remarks == ("incomplete; the same command goes on: interrupted",)


parts = st.sampled_from(["a", "b", "a (x)", "x", "a (x/a)", "pope"])


@given(
    st.lists(
        st.tuples(parts, st.lists(parts, min_size=1, max_size=3), st.sampled_from(["pope", "cvbench"])), max_size=8
    )
)
def test_labels_are_unique_within_a_kind(drawn):
    found = {Path("/", *(part.replace("/", "") for part in place)): (model, kind) for model, place, kind in drawn}
    runs = [Run(folder, model, kind, {}, None) for folder, (model, kind) in found.items()]
    labelled = named(runs)
    keys = [(run.benchmark, run.label) for run in labelled]
    assert len(set(keys)) == len(keys)
    assert [run.folder for run in labelled] == [run.folder for run in runs]
    for run, old in zip(labelled, runs, strict=True):
        assert run.label.startswith(old.label)
