"""`agevlm-eval show`: what it calls wrong is what the scores count, and nothing a model wrote can do anything."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agevlm.errors import DataError, NotSupported, RunFolderError
from benchmarks.cvbench.readers import READERS
from benchmarks.pope.protocols import PROTOCOLS
from benchmarks.run_folder import RunFolder
from reports.runs.files import printable
from reports.runs.showing import Choice, open_run
from tests.benchmarks.runs.launch import ROOT, command_here


def scores_of(path: Path) -> dict:
    return json.loads((path / "scores.json").read_text())


def answers_by_id(run: Path, condition: str = "image") -> dict[tuple[str, str], tuple[dict, str]]:
    """(split, id) -> question and answer, from the files alone."""
    answers = {}
    for line in (run / "answers-00000.jsonl").read_text().splitlines():
        row = json.loads(line)
        answers[row["key"]] = row["text"]
    rows = [json.loads(line) for line in (run / "questions.jsonl").read_text().splitlines()]
    return {
        (r["question"]["split"], r["question"]["question_id"]): (r["question"], answers[r["keys"][condition]])
        for r in rows
    }


@pytest.mark.parametrize("condition", ["image", "blind"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_right_and_wrong_is_what_pope_scores_count(made, protocol, condition):
    opened = open_run(made / "pope", protocol, None, condition)
    counts = opened.count()
    rows = [
        r
        for r in scores_of(made / "pope")["rows"]
        if (r["protocol"], r["condition"]) == (protocol, condition)
        and r["split"] in ("random", "popular", "adversarial")
    ]
    assert len(rows) == 3
    # accuracy = correct / counted, whatever a protocol counts
    assert counts["right"] == round(sum(r["accuracy"] * r["counted"] for r in rows))
    assert counts["right"] + counts["wrong"] == sum(r["counted"] for r in rows)
    assert counts["unparsed"] == sum(r["unparsed"] for r in rows)
    assert min(counts["right"], counts["wrong"]) > 0


@pytest.mark.parametrize("reading", READERS)
def test_what_is_right_is_what_cvbench_scores_count(made, reading):
    opened = open_run(made / "cvbench", None, reading, "image")
    rows = [
        r
        for r in scores_of(made / "cvbench")["rows"]
        if (r["reading"], r["condition"], r["score"]) == (reading, "image", "row mean")
    ]
    counts = opened.count()
    if not rows:  # the reading found nothing to read
        assert counts["not counted"] == len(opened.questions)
        return
    assert counts["right"] == round(rows[0]["accuracy"] * rows[0]["n"])
    assert counts["unparsed"] == rows[0]["unparsed"]


def test_wrong_answers_by_longhand(made):
    want = set()
    for (split, number), (question, text) in answers_by_id(made / "pope").items():
        said = {"yes": True, "no": False}.get(text.strip().removesuffix(".").lower())
        if said is None or said != question["label"]:
            want.add((split, number))
    opened = open_run(made / "pope", "strict", None, "image")
    found = {(q.split, q.number) for q in Choice(wrong=True).of(opened.questions)}
    assert found == want
    assert 0 < len(want) < len(opened.questions)


def test_filters(made):
    questions = open_run(made / "pope", None, None, "image").questions
    by = answers_by_id(made / "pope")
    assert [q.answer for q in questions] == [text for _, text in by.values()]
    assert {q.split for q in Choice(split="Popular").of(questions)} == {"popular"}
    name = questions[0].category
    of_category = Choice(category=name).of(questions)
    assert {q.category for q in of_category} == {name}
    assert len(of_category) == sum(question["object_name"] == name for question, _ in by.values())
    assert all("cannot tell" in (q.answer or "") for q in Choice(search="CANNOT tell").of(questions))
    assert Choice(search="CANNOT tell").of(questions)
    assert {q.number for q in Choice(search=name.upper()).of(questions)} >= {q.number for q in of_category}
    both = Choice(right=True, unparsed=True).of(questions)
    assert {q.read.verdict for q in both} == {"right", "wrong"}
    assert all(q.read.verdict == "right" or q.read.unparsed for q in both)
    with pytest.raises(DataError, match="adversarial, popular, random"):
        Choice(split="nope").of(questions)


def test_a_seeded_sample_keeps_its_order_and_grows(made):
    questions = open_run(made / "pope", None, None, "image").questions
    few, more = (Choice(limit=n, seed=3).limited(questions) for n in (5, 9))
    other = Choice(limit=5, seed=4).limited(questions)
    places = [questions.index(q) for q in more]
    assert len(few) == 5
    assert all(q in more for q in few)
    assert places == sorted(places)
    assert few != other
    assert Choice(limit=5).limited(questions) == list(questions[:5])


def test_the_printed_page(made):
    run = made / "pope"
    done = command_here("show", str(run), "--wrong", "--limit", "3")
    opened = open_run(run, None, None, "image")
    first = Choice(wrong=True).of(opened.questions)[0]
    question, text = answers_by_id(run)[first.split, first.number]
    assert done.returncode == 0
    assert done.stdout.count("\nwrong ") == 3
    assert question["text"] in done.stdout
    assert question["image"] in done.stdout
    assert f"  answer    {text!r}\n" in done.stdout
    assert f"  official  {'yes' if question['label'] else 'no'}\n" in done.stdout
    assert re.search(r"log p     (yes|no) -\d\.\d{3}  (yes|no) -\d\.\d{3}\n", done.stdout)
    counts = opened.count()
    assert f"3 of {counts['wrong']} that fit" in done.stdout
    assert f"{counts['right']} right, {counts['wrong']} wrong" in done.stdout


def test_errors_are_shown_as_such_and_are_neither_right_nor_wrong(made):
    run = made / "broken"
    opened = open_run(run, None, None, "image")
    failed = [q for q in opened.questions if q.error is not None]
    assert failed
    assert {q.read.verdict for q in failed} == {"error"}
    assert len(failed) == sum(
        r["errors"]
        for r in scores_of(run)["rows"]
        if (r["protocol"], r["condition"]) == ("default", "image") and r["split"] not in ("mean", "pooled")
    )
    printed = command_here("show", str(run), "--limit", "200").stdout
    assert "no luck \\x1b[31m[bold]here" in printed
    assert "\x1b" not in printed


def test_everything_a_model_wrote_is_inert(copy):
    run = copy("pope")
    folder = RunFolder(run)
    evil = "\x1b]0;owned\x07[red]yes[/red] :cat: \u202eno\r\n\x9b2J \ud800 <script>"
    records = [replace(r, text=evil) for r in folder.answers().values() if r.image is not None]
    writer = folder.writer(1)
    writer.commit(records)
    writer.close()
    rows = [json.loads(line) for line in (run / "questions.jsonl").read_text().splitlines()]
    rows[0]["question"]["image"] = "a\x1b[2Jb.png"
    folder.write_rows("questions.jsonl", rows)
    done = command_here("show", str(run), "--limit", "1")
    assert done.returncode == 0
    assert all(line.isprintable() for line in done.stdout.split("\n"))
    # escaped, not stripped: in a terminal nothing is stripped
    assert "\\x1b]0;owned\\x07[red]yes[/red] :cat: \\u202eno\\r\\n\\x9b2J \\ud800 <script>" in done.stdout
    assert "a\\x1b[2Jb.png" in done.stdout


@given(st.text(st.characters(codec=None)))
def test_printable_escapes_what_is_not_and_leaves_the_rest(text):
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text
    if "\\" not in text:
        assert printable(text).encode("ascii", "backslashreplace").decode("unicode_escape") == text


def test_a_damaged_line_is_named_and_the_rest_is_used(copy):
    run = copy("pope")
    before = open_run(run, None, None, "image")
    (file,) = RunFolder(run).answer_files
    lines = file.read_bytes().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if b'"image": null' not in line)
    lost = json.loads(lines[place])["key"]
    file.write_bytes(b"".join([*lines[:place], b'{"key": "x", \xff\n', *lines[place + 1 :]]))
    path = run / "questions.jsonl"
    rows = path.read_bytes().splitlines(keepends=True)
    unlucky = {i for i, row in enumerate(rows) if lost in json.loads(row)["keys"].values()}
    other = next(i for i in range(len(rows)) if i not in unlucky)
    path.write_bytes(b"".join([*rows[:other], b'{"question": {"split": "\\u001b"}, "keys": {}}\n', *rows[other + 1 :]]))
    done = command_here("show", str(run), "--limit", "1")
    assert done.returncode == 0
    assert f"{file}:{place + 1}: damaged" in done.stderr
    assert f"{path}:{other + 1}: not a question" in done.stderr
    after = open_run(run, None, None, "image")
    assert {q.read.verdict for q in after.questions if q.answer is None} == {"missing"}
    assert after.count()["missing"] == len(unlucky)
    kept = [q for i, q in enumerate(before.questions) if i != other and i not in unlucky]
    assert [q for q in after.questions if q.answer is not None] == kept


def test_an_interrupted_write_is_no_damage(copy):
    run = copy("pope")
    (file,) = RunFolder(run).answer_files
    file.write_bytes(file.read_bytes()[:-10])
    opened = open_run(run, None, None, "blind")
    image = open_run(run, None, None, "image")
    assert not opened.remarks
    # as scoring takes it: the torn commit whole is not there
    left = RunFolder(run).answers()
    wanted = [json.loads(line)["keys"] for line in (run / "questions.jsonl").read_text().splitlines()]
    for name, one in (("blind", opened), ("image", image)):
        assert one.count()["missing"] == sum(keys[name] not in left for keys in wanted)
    assert opened.count()["missing"] + image.count()["missing"] > 0


def test_a_judges_reading_comes_from_the_run(copy):
    run = copy("cvbench")
    path = run / "readings.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    verdicts = [(0, "judge"), (None, "judge-none"), (None, "judge-undecided"), (None, "empty")]
    for i, row in enumerate(rows):
        place, rule = verdicts[i % 4]
        row["readings"]["judged-all"] = {"option": row["gold"] if place == 0 else None, "rule": rule}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = open_run(run, None, "judged-all", "image").questions
    assert [(q.read.verdict, q.read.unparsed) for q in found[:4]] == [
        ("right", False),
        ("wrong", True),
        ("not counted", False),
        ("wrong", True),
    ]
    with pytest.raises(DataError, match="--judge"):
        open_run(run, None, "judged", "image")


def test_refusals(copy, tmp_path):
    run = copy("pope")
    manifest = json.loads((run / "run.json").read_text())
    for arguments, error in (
        (("nope", None, "image"), DataError),
        ((None, "rules", "image"), DataError),
        ((None, None, "blank"), DataError),
        (("judged", None, "image"), DataError),
    ):
        with pytest.raises(error):
            open_run(run, *arguments)
    with pytest.raises(RunFolderError, match="not a run folder"):
        open_run(tmp_path, None, None, "image")
    (run / "run.json").write_text(json.dumps({**manifest, "benchmark": "grounding"}))
    with pytest.raises(NotSupported, match="grounding"):
        open_run(run, None, None, "image")
    (run / "run.json").write_text(json.dumps({**manifest, "schema": 2}))
    newer = command_here("show", str(run))
    assert (newer.returncode, newer.stdout) == (2, "")
    assert "newer version of agevlm (schema 2" in newer.stderr


def test_both_commands_need_no_torch(made):
    code = """
import sys
from agevlm.cli import eval_group
for arguments in (["runs", sys.argv[1]], ["show", sys.argv[1] + "/pope"], ["show", sys.argv[1] + "/cvbench"]):
    eval_group.main(arguments, standalone_mode=False)
heavy = {"torch", "pandas", "transformers", "scipy", "sklearn", "matplotlib", "pyarrow"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code, str(made)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout
