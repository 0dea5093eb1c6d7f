"""`agevlm-eval lmms` without lmms-eval: a child that ends badly, names, rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

import pytest

from agevlm.errors import DataError
from benchmarks.lmms import child, command
from benchmarks.lmms.child import known_tasks
from benchmarks.lmms.command import TASK_FILES, metric_rows
from benchmarks.records import AnswerRecord, AnswerWriter
from benchmarks.run_folder import RunFolder
from tests.benchmarks.lmms.harness import declared
from tests.benchmarks.runs.launch import command_here, environment

RESULTS = {
    "results": {
        "group": {"alias": "group", "b,none": 0.5, "a,none": 1.0, "b_stderr,none": "N/A", " ": " "},
        "one": {
            "alias": "one",
            "b,none": 0.25,
            "b_stderr,none": "N/A",
            "b_stderr_clt,none": 0.1,
            "b_stderr_clustered,none": 0.2,
            "a,strict": float("nan"),
            "a_stderr,strict": 0.3,
            "samples": 4,
        },
        "two": {"alias": "two", "b,none": 0.75},
    },
    "group_subtasks": {"group": ["one", "two"], "one": [], "two": []},
    "higher_is_better": {"one": {"b": True, "a": False}},
    "n_recorded": {"one": 4, "two": 6},
    "config": {"interface": "chat"},
    "versions": {"one": 1.0},
    "missing": 2,
    "remarks": ["2 of 10 requests have no answer; the first: [one]/test/3: gone", "generation settings ignored: dola"],
}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(command, "lmms_eval_version", lambda: "0.7.3")


def child_that(monkeypatch, code):
    """In lmms-eval's place, Python code that knows SETTINGS and OUTCOME."""

    def start(module, arguments, log):
        program = f"import json,os,signal,sys,time\nSETTINGS, OUTCOME = sys.argv[1:]\n{code}"
        return subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )

    monkeypatch.setattr(command, "start", start)


def lmms(*options):
    return command_here("lmms", "--tasks", "one", "--ckpt", "scenes/age-vlm", "--out", "run", *options)


def test_rows_have_lmms_evals_numbers_and_n(monkeypatch):
    child_that(
        monkeypatch, f"open(OUTCOME,'w').write(json.dumps({{'results': {RESULTS!r}}}))".replace("nan", "float('nan')")
    )
    records = [AnswerRecord(k, None, None, "q", None if e else "a", "error" if e else "eos", error=e)
               for k, e in (("1", None), ("2", "gone"), ("3", None))]  # fmt: skip
    Path("run").mkdir()
    writer = AnswerWriter(Path("run/answers-00000.jsonl"))
    writer.commit(records)
    writer.close()
    done = lmms("--json", "-", "--limit", "4")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert rows == json.loads(Path("run/scores.json").read_text())["rows"]
    assert [(r["task"], r["metric"], r["filter"], r["value"], r["n"]) for r in rows] == [
        ("group", "a", "none", 1.0, 10),
        ("group", "b", "none", 0.5, 10),
        ("one", "b", "none", 0.25, 4),
        ("one", "a", "strict", None, 4),
        ("two", "b", "none", 0.75, 6),
    ]
    one = rows[2]
    assert (one["stderr"], one["stderr_clt"], one["stderr_clustered"], one["higher_is_better"]) == (
        None,
        0.1,
        0.2,
        True,
    )
    assert rows[3]["stderr"] == 0.3
    assert "no published number" in done.stderr
    for remark in RESULTS["remarks"]:
        assert f"warning: {remark}" in done.stderr
    told = {"missing": 2, "remarks": RESULTS["remarks"]}
    assert told.items() <= json.loads(Path("run/scores.json").read_text()).items()
    manifest = RunFolder(Path("run")).manifest()
    assert manifest["benchmark"] == "lmms"
    assert manifest["packages"]["lmms-eval"] == "0.7.3"
    assert manifest["lmms_eval"] == {"versions": {"one": 1.0}, "interface": "chat"}
    assert manifest["model"]["fingerprint"]
    launch = manifest["launches"][0]
    assert "ended" in launch
    # Of the three records one is an error.
    assert (launch["answers_before"], launch["answers"]) == (2, 2)
    assert told.items() <= launch.items()


def test_the_table_shows_each_metric_with_its_errors(monkeypatch):
    rows = metric_rows({**RESULTS, "results": {"one": RESULTS["results"]["one"]}})
    child_that(
        monkeypatch, f"open(OUTCOME,'w').write(json.dumps({{'results': {RESULTS!r}}}))".replace("nan", "float('nan')")
    )
    done = lmms()
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["one", "b", "↑", "4", "0.2500", "0.1000", "0.2000"] in lines
    assert ["one", "a", "↓", "(strict)", "4", "–", "0.3000", "–"] in lines
    assert len(rows) == 2


def test_what_the_child_gets_is_what_was_asked_for(monkeypatch):
    Path("mine").mkdir()
    child_that(
        monkeypatch,
        "said=open(SETTINGS).read(); open('said.json','w').write(said)\n"
        "open(OUTCOME,'w').write(json.dumps({'error': 'enough', 'code': 3}))",
    )
    done = lmms(
        "--include-path",
        "mine",
        "--dtype",
        "bfloat16",
        "--device",
        "cpu",
        "--allow-partial",
        "--limit",
        "2",
        "--join-images",
        "--batch-size",
        "5",
    )
    assert done.returncode == 3
    assert done.stderr.endswith("error: enough (log: run/lmms-eval.log)")
    said = json.loads(Path("said.json").read_text())
    assert said["include"] == [str(TASK_FILES), str(Path("mine").resolve())]
    assert (said["tasks"], said["limit"]) == (["one"], 2)
    assert said["model"] | {"records": ""} == {
        "pretrained": "scenes/age-vlm", "dtype": "bfloat16", "device": "cpu", "batch_size": 5, "device_map": None,
        "concurrency": 32, "timeout": 120.0, "chat_template": None, "records": "", "on_error": "empty",
        "several_images": "join",
    }  # fmt: skip
    assert said["model"]["records"] == str(Path("run").resolve())


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (
            "print('the last words'); sys.exit(9)",
            "ended with exit code 9 without a result; run/lmms-eval.log: the last words",
        ),
        ("print('so far'); sys.stdout.flush(); os.kill(os.getpid(), signal.SIGKILL)", "was killed by signal 9"),
        ("open(OUTCOME,'w').write('{')", "ended with exit code 0 without a result"),
    ],
)
def test_a_child_that_ends_without_a_result_is_said_to(monkeypatch, code, problem):
    child_that(monkeypatch, code)
    done = lmms()
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    # The folder is free again.
    RunFolder(Path("run")).own()


def test_ctrl_c_ends_the_child_too_and_says_what_is_kept(monkeypatch):
    child_that(monkeypatch, "open('child','w').write(str(os.getpid())); time.sleep(60)")

    def press():
        while not (Path("child").exists() and Path("child").read_text()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(command, "GRACE", 5.0)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=press, daemon=True).start()
        done = lmms()
    finally:
        signal.signal(signal.SIGINT, previous)
    assert done.returncode == 130
    assert "interrupted: 0 answers are safe in run" in done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("child").read_text()), 0)


def test_the_child_ends_at_once_when_told_to_whatever_its_threads_and_its_callers_shell_do(tmp_path):
    Path("settings.json").write_text("{}")
    program = (
        "import os, signal, sys, threading, time\n"
        "from benchmarks.lmms import child\n"
        "def run(settings):\n"
        "    threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
        "child.run = run\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "sys.argv[1:] = [str(os.getppid()), 'settings.json', 'outcome.json']\n"
        "child.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=40, cwd=tmp_path, env=environment())
    assert done.returncode == 130
    assert not Path("outcome.json").exists()


def test_without_lmms_eval_it_says_how_to_install_it(monkeypatch):
    monkeypatch.undo()

    def missing(_):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr("agevlm.vlm.peer.children.metadata.version", missing)
    done = command_here("lmms", "--tasks", "mmvp", "--ckpt", "scenes/age-vlm")
    assert done.returncode == 2
    assert 'pip install "agevlm[lmms]"' in done.stderr


def test_a_missing_folder_of_task_files_and_no_task_are_refused():
    assert "--include-path gone: no such folder" in lmms("--include-path", "gone").stderr
    assert "names no task" in command_here("lmms", "--tasks", ",").stderr


def test_it_prints_where_our_task_files_are():
    assert Path(command_here("lmms", "--print-include-path").stdout.strip()) == TASK_FILES
    assert (TASK_FILES / "agevlm_pope.yaml").is_file()


NAMES = ["mmvp", "mmvet", "blink", "blink_counting", "hallusion_bench_image", "realworldqa", "amber_g"]


def test_names_are_those_of_lmms_eval_and_others_are_refused_with_near_ones():
    asked = ["mmvp", "blink", "realworldqa", "hallusion_bench", "amber_g", "mmvp"]
    assert known_tasks(asked, NAMES) == ["mmvp", "blink", "realworldqa", "hallusion_bench_image", "amber_g"]
    with pytest.raises(DataError, match=r"no task 'realworldq' \(near: realworldqa\); 'zzz'; "):
        known_tasks(["mmvp", "realworldq", "zzz"], NAMES)


def test_a_task_that_asks_a_judge_is_refused_without_a_key():
    child.require_judges(["hallusion_bench_image"], {"OPENAI_API_KEY": "x"})
    child.require_judges(["mmvp"], {})
    with pytest.raises(DataError, match=r"hallusion_bench_image asks a judge.*set OPENAI_API_KEY or AZURE_API_KEY"):
        child.require_judges(["mmvp", "hallusion_bench_image"], {"OPENAI_API_KEY": ""})


def test_other_settings_get_another_output_folder(monkeypatch):
    child_that(
        monkeypatch,
        "open('said.txt','a').write(json.load(open(SETTINGS))['output']+'\\n')\n"
        "open(OUTCOME,'w').write(json.dumps({'error': 'enough', 'code': 2}))",
    )
    for options in ([], ["--limit", "2"], ["--gen-kwargs", "max_new_tokens=4"], ["--dtype", "bfloat16"]):
        lmms(*options)
    first, limited, shorter, narrower = Path("said.txt").read_text().split()
    assert first == limited
    assert len({first, shorter, narrower}) == 3
    assert Path(first).parent == Path("run/lmms-eval").resolve()


def test_a_score_that_failed_inside_a_retry_is_named():
    class Retried(Exception):
        class last_attempt:  # noqa: N801 - as tenacity names it
            @staticmethod
            def exception():
                return ValueError("no such label\nmore")

    assert child._reason(Retried()) == "ValueError: no such label"
    assert child._reason(KeyError("answer")) == "KeyError: 'answer'"
    lacking = ModuleNotFoundError("No module named 'spacy'", name="spacy.tokens")
    assert child._reason(lacking).endswith("a task needs it: pip install spacy")
    assert "--include-path" in child._reason(ConnectionError("Couldn't reach it"))


def test_the_entry_point_leads_to_our_manifest():
    module, _, function = declared().partition(":")
    assert (module, function) == ("benchmarks.lmms.plugin", "manifest")
