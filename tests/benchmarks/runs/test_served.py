"""`agevlm-eval pope` on a served model, from question files to scores."""

import hashlib
import json
import logging
import math
import signal
import subprocess
import sys
import threading
import time
from unittest.mock import patch

import pytest

from agevlm.vlm.choice import ModelChoice
from agevlm.vlm.served.retry import Patience
from benchmarks.run_folder import RunFolder
from tests.benchmarks.runs.launch import OPTIONS, ROOT, answers, command_here, environment, finish
from tests.benchmarks.runs.stub import make_data
from tests.benchmarks.runs.test_ranks import torchrun
from tests.benchmarks.runs.test_real_model import EVAL
from tests.vlm.served.server import MODEL, RuleVlm, serving

KEY = "sk-test-4f1d2c9b7a6e5d3c"
CONTROLS = ("--control", "all", "--protocol", "default")


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("AGEVLM_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def impatient(monkeypatch):
    """Two tries, almost at once."""
    monkeypatch.setattr("agevlm.vlm.served.client.Patience", lambda: Patience(tries=2, base=0.001))


@pytest.fixture
def server():
    with serving() as state:
        yield state


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A data set, and a run on it that nothing happened to."""
    folder = tmp_path_factory.mktemp("unbroken")
    data = make_data(folder / "data", 20)
    with pytest.MonkeyPatch.context() as patches, serving() as server:
        patches.setenv("NO_PROXY", "127.0.0.1")
        assert pope(server, data, folder / "run").returncode == 0
    return data, folder / "run"


def arguments(server, data, out, *options):
    return ["pope", "--ckpt", f"openai:{server.url}#{MODEL}", *data.options, "--out", str(out), *OPTIONS, *options]


def pope(server, data, out, *options):
    return command_here(*arguments(server, data, out, *options))


def start(server, data, out, *options):
    main = "from agevlm.cli import eval_main; eval_main()"
    return subprocess.Popen(
        [sys.executable, "-c", main, *arguments(server, data, out, *options)],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(out):
    return json.loads((out / "scores.json").read_text())


def same(got, expected):
    """Equal, numbers to rounding."""
    if isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for key in expected:
            same(got[key], expected[key])
    elif isinstance(expected, list):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            same(one, other)
    elif isinstance(expected, float):
        assert math.isclose(got, expected, rel_tol=1e-9)
    else:
        assert got == expected


def test_scores_are_those_of_the_same_rule_on_this_machine_however_many_are_asked_at_a_time(tmp_path, server):
    data = make_data(tmp_path / "data", 6)
    many, one = tmp_path / "many", tmp_path / "one"
    assert pope(server, data, many, *CONTROLS).returncode == 0
    assert len(server.received) == len({r.identity for r in server.received})
    files = {hashlib.sha256(data.image(n).read_bytes()).hexdigest() for n in range(6)}
    sent = {identity for identity, _ in (r.identity for r in server.received)}
    assert files < sent, "images did not arrive in their original bytes"
    server.received.clear()
    server.most_in_flight = 0
    assert pope(server, data, one, *CONTROLS, "--concurrency", "1").returncode == 0
    assert server.most_in_flight == 1
    assert (one / "scores.json").read_bytes() == (many / "scores.json").read_bytes()

    here = tmp_path / "here"
    with (
        patch.object(ModelChoice, "fingerprint", lambda self: RuleVlm.fingerprint),
        patch.object(ModelChoice, "folder", lambda self: None),
        patch.object(ModelChoice, "load", lambda self: RuleVlm()),
    ):
        local = command_here("pope", "--ckpt", "x", *data.options, "--out", str(here), *OPTIONS, *CONTROLS)
    assert local.returncode == 0
    same(rows(many), rows(here))
    assert any(row.get("auroc") is not None for row in rows(many)["rows"])

    manifest = RunFolder(many).manifest()
    session = manifest["model"]["session"]
    assert manifest["model"]["parts"]["model"] == MODEL
    assert (session["endpoint"], session["retries"], session["answered_as"]) == (server.url, 0, MODEL)
    assert session["logprobs"] == {"used": len(answers(many))}


@pytest.mark.slow
def test_killed_and_resumed_nothing_is_lost_and_only_what_was_under_way_is_asked_twice(tmp_path, server):
    data, whole, cut = make_data(tmp_path / "data", 24), tmp_path / "whole", tmp_path / "cut"
    width = 4
    options = ("--concurrency", str(width), "--control", "blank")
    assert pope(server, data, whole, *options).returncode == 0
    asked = {r.identity for r in server.received}
    server.received.clear()
    server.delay = 0.02
    repeated = set()
    for point in (30, 90, 150):
        before = answers(cut) if cut.exists() else {}
        begun = len(server.received)
        process = start(server, data, cut, *options)
        while process.poll() is None and len(server.received) < point:
            time.sleep(0.005)
        process.kill()
        finish(process)
        assert process.returncode == -signal.SIGKILL
        time.sleep(0.1)
        kept = answers(cut)
        assert before.items() < kept.items()
        mine = {r.identity for r in server.received[begun:]}
        stored = {(r.shown, r.prompt) for r in kept.values()}
        lost = {i for i in mine if len(i[0]) == 64 and i not in stored and _blank(i) not in stored}
        # An image's questions are lost together: those of a few groups, no more than were under way.
        assert len({image for image, _ in lost}) <= width
        repeated |= lost
    assert repeated, "the kills hit no group under way"
    server.delay = 0
    assert pope(server, data, cut, *options).returncode == 0
    assert (cut / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()
    assert answers(cut) == answers(whole)
    times = {}
    for request in server.received:
        times[request.identity] = times.get(request.identity, 0) + 1
    assert set(times) == asked
    assert {identity for identity, count in times.items() if count > 1} <= repeated


def _blank(identity):
    """Uniform grey is stored by its size."""
    return ("blank 20x16", identity[1])


def test_an_interrupt_waits_for_no_reply(tmp_path, server):
    data, out, hang = make_data(tmp_path / "data", 12), tmp_path / "run", threading.Event()
    server.trouble = lambda r, _: r.number >= 60 and hang.wait(120) and None
    process = start(server, data, out, "--concurrency", "4")
    while process.poll() is None and len(server.received) < 64:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    got = finish(process)
    hang.set()
    assert got.returncode == 130
    kept = len(answers(out))
    assert kept
    assert f"interrupted: {kept} answers are safe in {out}" in got.stderr
    assert "Traceback" not in got.stderr


def test_an_endpoint_that_is_down_at_the_start_stops_the_run_before_anything_is_written(tmp_path, server):
    data = make_data(tmp_path / "data", 2)
    server.url = "http://127.0.0.1:1/v1"
    got = pope(server, data, tmp_path / "run")
    assert got.returncode == 2
    assert "http://127.0.0.1:1/v1 cannot be reached" in got.stderr
    assert "Traceback" not in got.stderr
    assert not (tmp_path / "run").exists()


def test_an_endpoint_that_does_not_list_its_models_will_do(tmp_path, server):
    server.models = None
    assert pope(server, make_data(tmp_path / "data", 2), tmp_path / "run").returncode == 0


TROUBLES = {
    "down": (lambda _, h: h.reset(), "cannot be reached"),
    "another model": (lambda _, h: h.say(200, {"model": "x", "choices": _choices()}), "but 'x' answered"),
    "web page": (lambda _, h: h.say(200, b"<html>"), "web page"),
    "refusal": (lambda r, h: h.say(401, {"error": f"bad key {r.headers['Authorization']}"}), "bad key Bearer [key]"),
    "numbered": (lambda r, h: h.say(500, {"error": f"request {r.number} failed"}), "HTTP 500: request"),
}


def _choices():
    return [{"message": {"content": "Yes"}, "finish_reason": "stop"}]


@pytest.mark.parametrize(("trouble", "said"), TROUBLES.values(), ids=TROUBLES)
def test_an_endpoint_that_breaks_in_mid_run_stops_it_and_the_same_command_goes_on(
    tmp_path, server, impatient, unbroken, trouble, said
):
    data, whole = unbroken
    cut = tmp_path / "cut"
    server.trouble = lambda r, h: trouble(r, h) if r.number >= 80 else None
    stopped = pope(server, data, cut, "--concurrency", "4")
    assert stopped.returncode == 4
    assert "the model failed on 3 images in a row" in stopped.stderr
    assert said in stopped.stderr
    assert KEY not in stopped.stderr
    records = answers(cut).values()
    good = {r.key for r in records if r.error is None}
    assert 40 <= len(good) <= 80
    assert all(said in r.error and r.text is None for r in records if r.error is not None)
    before = len(server.received)
    server.trouble = lambda *_: None
    assert pope(server, data, cut, "--concurrency", "4").returncode == 0
    assert len(server.received) - before == len(answers(whole)) - len(good)
    assert answers(cut) == answers(whole)
    assert (cut / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()


def test_a_few_bad_images_far_apart_stop_nothing_though_refusals_come_fastest(tmp_path, server, unbroken):
    data, whole = unbroken
    seen, lock = [], threading.Lock()

    def trouble(request, handler):
        image = request.identity[0]
        with lock:
            begins = image not in seen
            seen.extend([image] * begins)
        if seen.index(image) in (2, 9, 16):
            return handler.say(400, {"error": "cannot read this image"})
        # The answers come when all three are refused.
        time.sleep(begins)
        return None

    server.trouble = trouble
    out = tmp_path / "run"
    got = pope(server, data, out)
    assert got.returncode == 3, got.stderr
    failed = {r.key for r in answers(out).values() if r.error}
    assert {answers(out)[key].shown for key in failed} == {seen[n] for n in (2, 9, 16)}
    assert {k: r for k, r in answers(out).items() if k not in failed} == {
        k: r for k, r in answers(whole).items() if k not in failed
    }
    server.trouble = lambda *_: None
    assert pope(server, data, out).returncode == 0
    assert answers(out) == answers(whole)


def test_a_busy_server_costs_retries_and_no_answer(tmp_path, server, monkeypatch):
    monkeypatch.setattr("agevlm.vlm.served.client.Patience", lambda: Patience(tries=10, base=0.001))
    data, out = make_data(tmp_path / "data", 6), tmp_path / "run"
    server.trouble = lambda r, h: h.say(429, {}, {"Retry-After": "0"}) if r.times < 2 else None
    assert pope(server, data, out).returncode == 0
    session = RunFolder(out).manifest()["model"]["session"]
    assert session["retries"] == 2 * len(answers(out))


def test_the_key_is_on_no_disk_and_in_no_output(tmp_path, server, impatient, caplog):
    data, out = make_data(tmp_path / "data", 10), tmp_path / "run"
    server.models[0]["owned_by"] = f"holder of {KEY}"

    def trouble(request, handler):
        said = {"error": {"message": f"{request.headers['Authorization']} is not welcome"}}
        return handler.say(400, said, {"X-Key": KEY}) if request.number % 5 == 0 else None

    def edit(request, body):
        if request.number % 5 == 1:
            body["choices"][0]["message"]["content"] += f" {KEY}"
        return body

    server.trouble, server.edit = trouble, edit
    with caplog.at_level(logging.DEBUG):
        got = pope(server, data, out, "--json", str(tmp_path / "rows.json"))
    assert got.returncode == 3
    assert all(r.headers["Authorization"] == f"Bearer {KEY}" for r in server.received)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert {"run.json", "scores.json", "questions.jsonl", "answers-00000.jsonl"} <= {p.name for p in files}
    written = "".join(p.read_text("latin-1") for p in files)
    assert "[key] is not welcome" in written
    assert "holder of [key]" in written
    for text in (written, got.stdout, got.stderr, caplog.text):
        assert KEY not in text
        assert KEY[:-4] not in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--verify", "2"], "--verify compares with transformers' generate"),
        (["--dtype", "bfloat16"], "--dtype: a served model runs as its server was told to"),
        (["--batch-size", "8", "--device", "cpu"], "--device, --batch-size: a served model"),
        (["--concurrency", "0"], "--concurrency"),
        (["--timeout", "0"], "--timeout"),
    ],
)
def test_options_that_a_served_model_cannot_follow_are_refused_before_anything_is_asked(
    tmp_path, server, options, said
):
    got = pope(server, make_data(tmp_path / "data", 2), tmp_path / "run", *options)
    assert got.returncode == 2
    assert said in got.stderr
    assert server.received == []
    assert not (tmp_path / "run").exists()


def test_credentials_in_the_url_are_refused_and_shown_nowhere(tmp_path, server):
    server.url = server.url.replace("http://", "http://user:hunter2@")
    got = pope(server, make_data(tmp_path / "data", 2), tmp_path / "run")
    assert got.returncode == 2
    assert "holds a user name or password" in got.stderr
    assert "hunter2" not in got.stdout + got.stderr
    assert not (tmp_path / "run").exists()


def test_a_plan_asks_no_question(tmp_path, server):
    got = pope(server, make_data(tmp_path / "data", 2), tmp_path / "run", "--plan")
    assert got.returncode == 0
    assert "distinct asks" in got.stdout
    assert server.received == []


@pytest.mark.slow
def test_several_processes_share_the_questions(tmp_path, server):
    data, out = make_data(tmp_path / "data", 8), tmp_path / "run"
    process = torchrun("--no-python", EVAL, *arguments(server, data, out))
    got = finish(process)
    assert got.returncode == 0, got.stderr
    assert len(server.received) == len({r.identity for r in server.received}) == len(answers(out))
    assert len(RunFolder(out).answer_files) == 2
