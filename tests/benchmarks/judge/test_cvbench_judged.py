"""`agevlm-eval cvbench --judge` and `score cvbench --judge` from end to end, with the judge on loopback."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from sklearn.metrics import cohen_kappa_score

from agevlm.vlm.choice import ModelChoice
from benchmarks.cvbench.rules import read_rules
from benchmarks.judge.cases import PROMPT_VERSION
from benchmarks.judge.log import read_calls
from tests.benchmarks.cvbench import stub as stubs
from tests.benchmarks.cvbench.stub import CvData, CvStub, make_cv_data
from tests.benchmarks.judge.conftest import judge_by_rule, name_of, replying
from tests.benchmarks.runs.launch import OPTIONS, command_here, environment, finish
from tests.vlm.served.server import State, serving

Run = Callable[..., subprocess.CompletedProcess[str]]
FORMS = ("(A)", "B", "The answer is (A).", "the second one", "not option A but option B, or none", "I cannot tell.", "")
MARK = "the-right-answer-is-hidden-here"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CvData:
    monkeypatch.setattr(stubs, "FORMS", FORMS)
    made = make_cv_data(tmp_path / "data", 24)
    rows = [row | {"right_text": MARK, "split": MARK} for row in made.rows()]
    made.questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


@pytest.fixture
def cvbench(data: CvData, tmp_path: Path) -> Run:
    def run(*options: object, out: str = "run") -> subprocess.CompletedProcess[str]:
        stub = CvStub()
        with (
            patch.object(ModelChoice, "fingerprint", lambda self: stub.fingerprint),
            patch.object(ModelChoice, "folder", lambda self: Path("nowhere")),
            patch.object(ModelChoice, "load", lambda self: stub),
        ):
            given = [*data.options, "--out", str(tmp_path / out), *OPTIONS, "--no-rank", *map(str, options)]
            return command_here("cvbench", "--ckpt", "stub", *given)

    return run


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "readings.jsonl").read_text().splitlines()]


def scores(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "scores.json").read_text())["rows"])


def row_of(done: subprocess.CompletedProcess[str], reading: str, score: str = "row mean") -> dict[str, Any]:
    (row,) = [
        r for r in json.loads(done.stdout) if (r["condition"], r["reading"], r["score"]) == ("image", reading, score)
    ]
    return dict(row)


def expected(one: dict[str, Any], which: str) -> int | None:
    """The judge's rule on its own, longhand."""
    by_rules = read_rules(one["answer"], one["options"]).option
    if which == "unread" and by_rules is not None:
        return by_rules
    return {"the second one": 1, "not option A but option B, or none": 1, "The answer is (A).": None}.get(one["answer"])


def test_the_judge_reads_what_the_rules_cannot(cvbench: Run, server: State, tmp_path: Path) -> None:
    plain = cvbench("--json", "-", "--control", "blind")
    done = cvbench("--judge", name_of(server), "--json", "-", "--control", "blind")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    rows = read(run)
    unread = {(r["idx"], r["answer"]) for r in rows if r["readings"]["rules"]["option"] is None and r["answer"].strip()}
    assert 10 < len(unread) < len(rows)
    for one in rows:
        mine, rules = one["readings"]["judged"], one["readings"]["rules"]
        assert mine["option"] == expected(one, "unread")
        if rules["option"] is not None:
            assert mine == rules
        else:
            assert mine["rule"] in (("empty",) if not one["answer"] else ("judge", "judge-none"))
    # The other readings are what they were.
    others = [r for r in json.loads(done.stdout) if r["reading"] != "judged"]
    assert others == json.loads(plain.stdout)
    image = [r for r in rows if r["condition"] == "image"]
    right = sum(r["readings"]["judged"]["option"] == r["gold"] for r in image)
    by_rules = sum(r["readings"]["rules"]["option"] == r["gold"] for r in image)
    assert right > by_rules
    assert row_of(done, "judged")["accuracy"] == right / len(image)
    said = json.loads((run / "scores.json").read_text())["judge"]
    assert (said["which"], said["reading"], said["prompt_version"]) == ("unread", "judged", PROMPT_VERSION)
    share = said["shares"][0]
    assert share["right"] == right
    assert share["right_by_judge_alone"] == right - by_rules
    assert share["to_judge"] == sum(r["readings"]["judged"]["rule"].startswith("judge") for r in image)
    assert share["to_judge"] == share["named"] + share["none"]


def test_all_is_the_papers_reading_and_said_to_be(cvbench: Run, server: State, tmp_path: Path) -> None:
    done = cvbench("--judge", name_of(server), "--judge-which", "all")
    assert done.returncode == 0, done.stderr
    for one in read(tmp_path / "run"):
        mine = one["readings"]["judged-all"]
        assert mine["rule"] == ("empty" if not one["answer"] else "judge-none" if mine["option"] is None else "judge")
        assert mine["option"] == expected(one, "all")
    assert "judged-all: openai:" in done.stdout
    assert "reads every answer, as the paper's Qwen judge does" in done.stdout
    assert "wrong by the judge alone, right by rules" in done.stdout
    # The agreement with the rules where both decide.
    image = [one["readings"] for one in read(tmp_path / "run") if one["condition"] == "image"]
    pairs = [(one["rules"]["option"], one["judged-all"]["option"]) for one in image]
    both = [pair for pair in pairs if None not in pair]
    (share,) = json.loads((tmp_path / "run/scores.json").read_text())["judge"]["shares"]
    assert (share["both"], share["alike"]) == (len(both), sum(mine == theirs for mine, theirs in both))
    assert 0 < share["alike"] < share["both"] < len(pairs)
    assert share["kappa"] == pytest.approx(cohen_kappa_score(*zip(*both, strict=True)))
    assert re.search(rf"Cohen's kappa +{share['kappa']:.3f}", done.stdout)


def test_replay_with_the_judge_gone_is_the_same_to_the_byte(cvbench: Run, data: CvData, tmp_path: Path) -> None:
    def said(request: Any) -> str:
        # A quarter is never a verdict, another one only when asked again.
        sort = len(request.body["messages"][1]["content"]) % 4
        return "?" if sort == 0 or (sort == 1 and len(request.body["messages"]) == 2) else judge_by_rule(request)

    with serving(edit=replying(said)) as server:
        options = ("--judge", name_of(server), "--judge-which", "all", "--json", "-")
        first = cvbench(*options)
        assert first.returncode == 0, first.stderr
        assert 0 < row_of(first, "judged-all")["undecided"] < 40
    run = tmp_path / "run"
    kept = {name: (run / name).read_bytes() for name in ("scores.json", "readings.jsonl", "judge.jsonl")}
    asked = len(server.received)
    again = cvbench(*options)
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    assert {name: (run / name).read_bytes() for name in kept} == kept
    assert len(server.received) == asked
    scored = command_here("score", "cvbench", "--answers", str(run), *options, *OPTIONS)
    assert scored.stdout == first.stdout


def test_undecided_answers_are_neither_right_nor_wrong(
    cvbench: Run, data: CvData, server: State, tmp_path: Path
) -> None:
    server.edit = replying(lambda request: "?" if "second" in str(request.body) else judge_by_rule(request))
    done = cvbench("--judge", name_of(server), "--json", "-")
    assert done.returncode == 0
    rows = read(tmp_path / "run")
    undecided = [r for r in rows if r["readings"]["judged"]["rule"] == "judge-undecided"]
    assert {r["answer"] for r in undecided} == {"the second one"}
    right = sum(r["readings"]["judged"]["option"] == r["gold"] for r in rows)
    row = row_of(done, "judged")
    assert (row["undecided"], row["missing"], row["n"]) == (len(undecided), 0, len(rows) - len(undecided))
    assert row["accuracy"] == right / row["n"]
    assert row["accuracy_if_undecided_wrong"] == right / len(rows)
    assert row["accuracy_if_undecided_right"] == (right + len(undecided)) / len(rows)
    # The official number's bounds, by its own formula.
    official = row_of(done, "judged", "official")
    idx_source = {str(r["idx"]): r["source"] for r in data.rows()}

    def formula(hit: Callable[[dict[str, Any]], bool]) -> float:
        share = {}
        for source in ("ADE20K", "COCO", "Omni3D"):
            mine = [r for r in rows if idx_source[r["idx"]] == source]
            share[source] = sum(map(hit, mine)) / len(mine)
        return (0.5 * (share["ADE20K"] + share["COCO"]) + share["Omni3D"]) / 2

    def is_right(r: dict[str, Any]) -> bool:
        return bool(r["readings"]["judged"]["option"] == r["gold"])

    assert official["accuracy_if_undecided_wrong"] == pytest.approx(formula(is_right))
    assert official["accuracy_if_undecided_right"] == pytest.approx(formula(lambda r: is_right(r) or r in undecided))
    assert row_of(done, "rules")["undecided"] == 0
    shown = cvbench("--judge", name_of(server))
    assert "official if undecided wrong" in shown.stdout
    assert "official if undecided right" in shown.stdout
    assert "distinct answers are undecided: the judge's replies were no verdict" in shown.stderr


def test_the_right_answer_is_in_no_request(cvbench: Run, data: CvData, server: State) -> None:
    """The same questions with other right answers make the same requests, and nothing else of a row is in them."""
    bodies = []
    for number in range(2):
        rows = [row | {"answer": f"({'AB'[number]})"} for row in data.rows()]
        data.questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
        done = cvbench("--judge", name_of(server), "--judge-which", "all", out=f"run{number}")
        assert done.returncode == 0, done.stderr
        bodies.append(sorted(json.dumps(request.body) for request in server.received))
        for request in server.received:
            text = json.dumps(request.body)
            assert MARK not in text
            assert "img/" not in text
            assert "idx" not in text
        server.received.clear()
    assert bodies[0] == bodies[1]
    assert len(bodies[0]) > 10


def test_a_cap_leaves_the_rest_undecided_and_says_so(cvbench: Run, server: State, tmp_path: Path) -> None:
    done = cvbench("--judge", name_of(server), "--judge-max-calls", 3)
    assert done.returncode == 0
    assert len(server.received) == 3
    assert "over the cap on calls" in done.stdout
    assert "--judge-max-calls was reached" in done.stderr
    capped = [r for r in read(tmp_path / "run") if r["readings"]["judged"]["rule"] == "judge-over-cap"]
    (row,) = [r for r in scores(tmp_path / "run") if (r["reading"], r["score"]) == ("judged", "row mean")]
    assert row["undecided"] == len(capped) > 3


def test_an_unreachable_judge_leaves_the_other_readings(cvbench: Run, server: State, tmp_path: Path) -> None:
    plain = json.loads(cvbench("--json", "-").stdout)
    gone = "openai:http://127.0.0.1:9/v1#tiny/vlm"
    done = cvbench("--judge", gone, "--json", "-")
    assert done.returncode == 3
    assert "answers were not judged" in done.stderr
    assert f"To finish the judging: agevlm-eval judge {tmp_path}/run" in done.stderr
    assert [r for r in json.loads(done.stdout) if r["reading"] != "judged"] == plain
    assert cvbench("--judge", gone, "--allow-partial").returncode == 0
    finished = command_here(
        "score", "cvbench", "--answers", str(tmp_path / "run"), "--judge", name_of(server), *OPTIONS, "--json", "-"
    )
    assert finished.returncode == 0, finished.stderr
    assert row_of(finished, "judged")["undecided"] == 0


def test_rules_is_no_judge_and_a_bad_one_is_refused_after_the_scores(cvbench: Run, tmp_path: Path) -> None:
    plain = cvbench("--json", "-")
    assert cvbench("--judge", "rules", "--json", "-").stdout == plain.stdout
    assert not (tmp_path / "run/judge.jsonl").exists()
    done = cvbench("--judge", "no/such-judge-folder")
    assert done.returncode == 2
    assert "judge no/such-judge-folder" in done.stderr
    assert (tmp_path / "run/scores.json").exists()


def test_answers_from_elsewhere_need_a_place_for_the_calls(data: CvData, server: State, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps({"idx": r["idx"], "text": "the second"}) + "\n" for r in data.rows()))
    command = ["score", "cvbench", "--answers", str(answers), "--questions", str(data.questions), *OPTIONS]
    command += ["--judge", name_of(server), "--json", "-"]
    refused = command_here(*command)
    assert refused.returncode == 2
    assert "--judge-log" in refused.stderr
    done = command_here(*command, "--judge-log", str(tmp_path / "calls.jsonl"))
    assert done.returncode == 0, done.stderr
    second = [r["answer"] == "(B)" for r in data.rows()]
    assert row_of(done, "judged")["accuracy"] == sum(second) / len(second)
    # Equal questions with equal options and answers are one case.
    assert len(list(read_calls(tmp_path / "calls.jsonl"))) == len(server.received) < len(second)


def test_killed_in_mid_judging_the_same_command_goes_on(
    cvbench: Run, data: CvData, server: State, tmp_path: Path
) -> None:
    assert cvbench("--control", "blind", out="whole").returncode == 0
    options = ["--judge", name_of(server), "--judge-which", "all", "--json", "-", *OPTIONS]
    whole = command_here("score", "cvbench", "--answers", str(tmp_path / "whole"), *options)
    assert whole.returncode == 0, whole.stderr
    total = len(server.received)
    log = tmp_path / "whole/judge.jsonl"
    full = log.read_bytes()
    log.unlink()
    server.received.clear()
    # Replies trickle in, so that a kill finds some written and some not.
    server.trouble = lambda request, _: time.sleep(0.04 * (request.number + 1))
    main = "from agevlm.cli import eval_main; eval_main()"
    process = subprocess.Popen(
        [sys.executable, "-c", main, "score", "cvbench", "--answers", str(tmp_path / "whole"), *options],
        env=environment(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while (not log.exists() or log.stat().st_size == 0) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    assert finish(process).returncode == -signal.SIGKILL
    kept = len(list(read_calls(log)))
    assert 0 < kept < total
    # The calls in flight at most.
    assert len(server.received) - kept <= 32
    # Another server, so that what the killed command had sent is not counted here.
    with serving(edit=replying(judge_by_rule)) as other:
        options[1] = name_of(other)
        done = command_here("score", "cvbench", "--answers", str(tmp_path / "whole"), *options)
    assert done.stdout == whole.stdout
    assert f"verdicts that the log has from {name_of(server)} count as this judge's" in done.stderr
    assert len(other.received) == total - kept
    assert len(log.read_bytes().splitlines()) == len(full.splitlines())
