"""`agevlm-eval score pope --judge`: the answers that our reader leaves unparsed, read by a judge on loopback."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reading import Label, read_yes_no
from tests.benchmarks.judge.conftest import asked_of, name_of, replying, verdict
from tests.benchmarks.runs.launch import OPTIONS, answers, command_here, pope_here
from tests.benchmarks.runs.stub import OBJECTS, make_data
from tests.vlm.served.server import Received, State

SAID = ("A", "B", "none", "?")
UNREAD = "I cannot tell"


def by_object(name: str) -> str:
    return SAID[OBJECTS.index(name) % 4]


def judge(request: Received) -> str:
    """By the object that is asked about, so that equal answers are read differently; some are never a verdict."""
    match = re.search(r"Question: Is there a (.+) in the image\?", request.body["messages"][1]["content"])
    assert match
    said = by_object(match[1])
    assert asked_of(request)[0] == ["A", "B"]
    return said if said == "?" else verdict(said)


@pytest.fixture
def run(server: State, tmp_path: Path) -> Path:
    server.edit = replying(judge)
    done = pope_here(make_data(tmp_path / "data", 20), tmp_path / "run", tmp_path / "log", "--control", "blind")
    assert done.returncode == 0, done.stderr
    return tmp_path / "run"


def longhand(run: Path, split: str) -> tuple[list[str], list[bool]]:
    """The reading of every answer of a split, and its label."""
    records, read, gold = answers(run), [], []
    for row in map(json.loads, (run / "questions.jsonl").read_text().splitlines()):
        question = row["question"]
        if question["split"] != split:
            continue
        text = records[row["keys"]["image"]].text
        if text == UNREAD:
            name = re.fullmatch(r"Is there a (.+) in the image\?", question["text"])
            assert name
            read.append({"A": "yes", "B": "no", "none": "none", "?": "undecided"}[by_object(name[1])])
        else:
            label = read_yes_no(text).label
            read.append(str(label.value) if label in (Label.YES, Label.NO) else "none")
        gold.append(question["label"])
    return read, gold


def test_unread_answers_are_read_and_undecided_ones_are_in_no_count(server: State, run: Path) -> None:
    command = ["score", "pope", "--answers", str(run), *OPTIONS, "--json", "-"]
    plain = command_here(*command)
    done = command_here(*command, "--judge", name_of(server))
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    assert [r for r in rows if r["protocol"] != "judged"] == json.loads(plain.stdout)
    for split in ("random", "popular", "adversarial"):
        read, gold = longhand(run, split)
        (row,) = [r for r in rows if (r["protocol"], r["split"], r["condition"]) == ("judged", split, "image")]
        right = sum(one == ("yes" if label else "no") for one, label in zip(read, gold, strict=True))
        undecided = read.count("undecided")
        assert undecided > 0
        assert (row["undecided"], row["counted"], row["n"]) == (undecided, len(read) - undecided, len(read))
        assert row["accuracy"] == pytest.approx(right / (len(read) - undecided))
        assert row["accuracy_if_undecided_wrong"] == pytest.approx(right / len(read))
        assert row["accuracy_if_undecided_right"] == pytest.approx((right + undecided) / len(read))
        (default,) = [r for r in rows if (r["protocol"], r["split"], r["condition"]) == ("default", split, "image")]
        assert row["unparsed"] < default["unparsed"]
        assert row["accuracy"] > default["accuracy"]
    # The bounds stand in the table of protocols too.
    shown = command_here(*command[:-2], "--judge", name_of(server)).stdout
    for bound in ("wrong", "right"):
        assert f"if the {undecided} undecided were {bound}" in shown


def test_replay_and_tables(server: State, run: Path) -> None:
    command = ["score", "pope", "--answers", str(run), *OPTIONS, "--judge", name_of(server), "--protocol", "official"]
    first = command_here(*command)
    assert first.returncode == 0, first.stderr
    assert "judged: openai:" in first.stdout
    assert re.search(
        r"The judge's share · judged: openai:\S+ reads what default cannot read .* data custom:", first.stdout
    )
    assert re.search(r"all +240 +240", first.stdout)
    asked = len(server.received)
    # Only what the reader cannot read is sent, each distinct question and answer once, and no label with it.
    assert {asked_of(request)[1] for request in server.received} == {UNREAD}
    assert asked < 2 * len(OBJECTS)
    server.trouble = lambda _, handler: handler.say(500, {"error": {"message": "gone"}})
    again = command_here(*command)
    assert again.stdout == first.stdout
    assert len(server.received) == asked


def test_all_and_a_judge_that_is_down(server: State, run: Path) -> None:
    command = ["score", "pope", "--answers", str(run), *OPTIONS, "--json", "-"]
    done = command_here(*command, "--judge", "openai:http://127.0.0.1:9/v1#tiny/vlm")
    assert done.returncode == 3
    assert "were not judged" in done.stderr
    every = command_here(*command, "--judge", name_of(server), "--judge-which", "all")
    assert every.returncode == 0, every.stderr
    assert {r["protocol"] for r in json.loads(every.stdout)} >= {"default", "judged-all"}
    assert len({asked_of(request)[1] for request in server.received}) > 3
