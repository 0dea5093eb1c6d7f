"""`agevlm-eval judge RUN`: the judging of a run, begun by its benchmark or not, is finished as if nothing had been."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from agevlm.vlm.choice import ModelChoice
from benchmarks.judge.log import read_calls
from benchmarks.records import read_commits
from tests.benchmarks.cvbench import stub as stubs
from tests.benchmarks.cvbench.stub import CvStub, make_cv_data
from tests.benchmarks.judge.conftest import asked_of, judge_by_rule, name_of, replying, verdict
from tests.benchmarks.runs.launch import OPTIONS, command_here, pope, pope_here
from tests.benchmarks.runs.stub import make_data
from tests.vlm.served.server import MODEL, Received, State, serving

FORMS = ("(A)", "B", "the second one", "not option A but option B, or none", "I cannot tell.", "")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def address() -> str:
    """A judge's address at which nobody listens yet."""
    with serving() as state:
        return name_of(state)


def listening(address: str, **settings: Any) -> Any:
    """A server at that address."""
    found = re.search(r":(\d+)/v1#", address)
    assert found
    return serving(int(found[1]), **{"edit": replying(judge_by_rule), **settings})


@pytest.fixture
def cvbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(stubs, "FORMS", FORMS)
    data, stub = make_cv_data(tmp_path / "data", 24), CvStub()

    def run(out: str, *options: str) -> subprocess.CompletedProcess[str]:
        with (
            patch.object(ModelChoice, "fingerprint", lambda self: stub.fingerprint),
            patch.object(ModelChoice, "folder", lambda self: Path("nowhere")),
            patch.object(ModelChoice, "load", lambda self: stub),
        ):
            given = [*data.options, "--out", str(tmp_path / out), *OPTIONS, "--no-rank", *options]
            return command_here("cvbench", "--ckpt", "stub", *given)

    return run


@pytest.fixture
def popes(tmp_path: Path) -> Run:
    data = make_data(tmp_path / "pope-data", 12)
    return lambda out, *options: pope_here(data, tmp_path / out, tmp_path / "log", *options)


def judge_of_objects(request: Received) -> str:
    """A verdict on any POPE answer that follows the question, so that a mixed-up one is a wrong one."""
    letters, _ = asked_of(request)
    return verdict([*letters, "none"][len(request.prompt.partition("\n")[0]) % 3])


SAME = ("scores.json", "readings.jsonl", "judge.json")


@pytest.mark.parametrize("benchmark_name", ["cvbench", "popes"])
@pytest.mark.parametrize("which", ["unread", "all"])
def test_a_judge_that_was_down_is_asked_later_and_the_run_ends_the_same(
    benchmark_name: str, which: str, request: pytest.FixtureRequest, tmp_path: Path, address: str
) -> None:
    run: Run = request.getfixturevalue(benchmark_name)
    main = ("--reading", "strict") if benchmark_name == "cvbench" else ("--protocol", "official")
    options = ("--judge", address, "--judge-which", which, "--control", "blind", *main, "--draws", "120")
    reply = replying(judge_by_rule if benchmark_name == "cvbench" else judge_of_objects)
    plain = run("plain", *options[4:], "--json", "-")
    down = run("down", *options, "--json", "-")
    assert down.returncode == 3
    assert f"To finish the judging: agevlm-eval judge {tmp_path}/down" in down.stderr
    judged = "judged" if which == "unread" else "judged-all"
    key = "reading" if benchmark_name == "cvbench" else "protocol"
    assert [r for r in json.loads(down.stdout) if r[key] != judged] == json.loads(plain.stdout)
    assert any(r[key] == judged and r["undecided"] for r in json.loads(down.stdout))
    with listening(address, edit=reply) as server:
        whole = run("whole", *options)
        assert whole.returncode == 0, whole.stderr
        total = len(server.received)
        assert total > 5
        finished = command_here("judge", str(tmp_path / "down"))
        assert finished.returncode == 0, finished.stderr
        assert len(server.received) == 2 * total
        bodies = sorted(json.dumps(one.body) for one in server.received)
        assert bodies[::2] == bodies[1::2]
    for name in SAME:
        if benchmark_name == "cvbench" or name != "readings.jsonl":
            assert (tmp_path / "down" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    tables = finished.stdout
    assert "The judge's share" in tables
    assert tables == whole.stdout
    # Again, with nobody there: from the log.
    again = command_here("judge", str(tmp_path / "down"))
    assert (again.returncode, again.stdout) == (0, tables)


@pytest.mark.slow
def test_killed_in_the_middle_of_a_line_it_goes_on_and_asks_nothing_twice(
    tmp_path: Path, server: State, address: str
) -> None:
    data = make_data(tmp_path / "data", 12)
    server.edit = replying(judge_of_objects)
    options = ("--judge", name_of(server), "--judge-which", "all")
    assert pope_here(data, tmp_path / "whole", tmp_path / "log", *options).returncode == 0
    commits = len(list(read_commits(tmp_path / "whole/answers-00000.jsonl")))
    total = len(list(read_calls(tmp_path / "whole/judge.jsonl")))
    assert total > 10
    killed = pope(data, tmp_path / "run", tmp_path / "log2", *options, STUB_TORN=f"{commits + 5} 0.5")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    log = tmp_path / "run/judge.jsonl"
    kept = {call.key for call, _ in read_calls(log)}
    assert len(kept) == 4
    assert not log.read_bytes().endswith(b"\n"), "the kill must have torn a line for this to show anything"
    assert "judged-all" not in (tmp_path / "run/scores.json").read_text(), "scores without the judge are there"
    with serving(edit=replying(judge_of_objects)) as other:
        done = command_here("judge", str(tmp_path / "run"), "--judge", name_of(other))
        assert done.returncode == 0, done.stderr
        assert len(other.received) == total - 4
    calls = [call for call, _ in read_calls(log)]
    assert len({call.key for call in calls}) == len(calls) == total
    # To the byte, once the judge goes by the same address again.
    assert command_here("judge", str(tmp_path / "run"), "--judge", name_of(server)).returncode == 0
    assert (tmp_path / "run/scores.json").read_bytes() == (tmp_path / "whole/scores.json").read_bytes()


def test_a_run_that_had_no_judge_gets_one_and_keeps_its_readings(cvbench: Run, server: State, tmp_path: Path) -> None:
    assert cvbench("run", "--reading", "official", "--reading", "strict", "--judge", "rules").returncode == 0
    refused = command_here("judge", str(tmp_path / "run"))
    assert refused.returncode == 2
    assert "name the judge" in refused.stderr
    done = command_here("judge", str(tmp_path / "run"), "--judge", name_of(server), "--judge-max-calls", "2")
    assert done.returncode == 0, done.stderr
    assert len(server.received) == 2
    kept = json.loads((tmp_path / "run/scores.json").read_text())
    assert kept["settings"]["readings"] == ["official", "strict"]
    assert list(dict.fromkeys(r["reading"] for r in kept["rows"] if "floor" not in r["condition"])) == [
        "official",
        "strict",
        "judged",
    ]
    # What was given last holds until something else is.
    assert command_here("judge", str(tmp_path / "run")).returncode == 0
    assert len(server.received) == 2
    assert command_here("judge", str(tmp_path / "run"), "--judge-max-calls", "99").returncode == 0
    assert len(server.received) > 2


def test_so_many_calls_at_a_time_and_so_long_for_each(cvbench: Run, server: State, tmp_path: Path) -> None:
    server.delay = 0.05
    cvbench("many", "--judge", name_of(server), "--judge-which", "all")
    assert server.most_in_flight > 2, "more must be usual for this to show anything"
    server.most_in_flight = 0
    done = cvbench("two", "--judge", name_of(server), "--judge-which", "all", "--judge-concurrency", "2")
    assert (done.returncode, server.most_in_flight) == (0, 2)
    late = cvbench("late", "--judge", name_of(server), "--judge-timeout", "0.01")
    assert late.returncode == 3
    assert "0.01 s" in late.stderr


def test_no_label_of_pope_is_in_any_request(server: State, tmp_path: Path) -> None:
    """The same questions with opposite labels make the same requests."""
    server.edit = replying(judge_of_objects)
    data = make_data(tmp_path / "data", 12)
    bodies = []
    for number in range(2):
        options = ("--judge", name_of(server), "--judge-which", "all", "--control", "all")
        done = pope_here(data, tmp_path / f"run{number}", tmp_path / "log", *options)
        assert done.returncode == 0, done.stderr
        bodies.append(sorted(json.dumps(request.body) for request in server.received))
        server.received.clear()
        for path in data.questions.glob("*.json"):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            other = [row | {"label": {"yes": "no", "no": "yes"}[row["label"]]} for row in rows]
            path.write_text("".join(json.dumps(row) + "\n" for row in other))
    labels = [
        [json.loads(line)["question"]["label"] for line in (tmp_path / f"run{n}/questions.jsonl").open()]
        for n in range(2)
    ]
    assert labels[0] == [not one for one in labels[1]]
    assert bodies[0] == bodies[1]
    assert len(bodies[0]) > 10


WRONG = {
    "judge-which": (["--judge-which", "all"], "--judge-which is for a judge, and none is named"),
    "rules": (["--judge", "rules", "--judge-max-calls", "3"], "--judge-max-calls is for a judge"),
    "both": (["--judge", "all", "--judge-which", "unread"], "--judge all and --judge-which unread: give one of them"),
    "unnamed": (["--judge", "openai:http://127.0.0.1:9/v1"], "name the judge (openai:URL#NAME)"),
}


@pytest.mark.parametrize(("options", "said"), WRONG.values(), ids=list(WRONG))
def test_options_that_make_no_sense_are_refused_before_anything_is_asked(
    cvbench: Run, tmp_path: Path, options: list[str], said: str
) -> None:
    done = cvbench("run", *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "run").exists()


def test_all_alone_is_the_default_judge_on_every_answer(cvbench: Run, tmp_path: Path) -> None:
    """Without network it cannot be had; the scores without it are printed and written, and the judge is noted down."""
    done = cvbench("run", "--judge", "all")
    assert done.returncode == 2
    assert "judge Qwen/Qwen2.5-7B-Instruct" in done.stderr
    assert "row mean" in done.stdout
    kept = json.loads((tmp_path / "run/judge.json").read_text())
    assert (kept["judge"], kept["judge_which"]) == ("Qwen/Qwen2.5-7B-Instruct", "all")


def test_other_folders_and_damage_are_told(cvbench: Run, server: State, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = command_here("judge", str(tmp_path / "empty"), "--judge", name_of(server))
    assert (done.returncode, list((tmp_path / "empty").iterdir())) == (2, [])
    assert "no run of pope or cvbench" in done.stderr
    assert MODEL in name_of(server)
    assert cvbench("run", "--judge", name_of(server)).returncode == 0
    (tmp_path / "run/judge.json").write_text("{")
    done = command_here("judge", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "judge.json: damaged; remove it and name the judge again" in done.stderr
