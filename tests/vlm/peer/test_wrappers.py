"""Wrappers of lmms-eval in their own processes: what they say, and what becomes of what they swallow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from PIL import Image

from agevlm.errors import CheckpointError, NotSupported
from agevlm.vlm import Ask
from agevlm.vlm.choice import ModelChoice
from agevlm.vlm.hf.session import HfVlm
from agevlm.vlm.peer import children, session
from agevlm.vlm.peer.session import Selector
from benchmarks.plan import Group, PlannedAsk, Shown
from benchmarks.records import AnswerWriter, load_answers
from benchmarks.run import RunStopped, run_groups
from tests.benchmarks.lmms.harness import needs_lmms_eval, write_distribution
from tests.vlm.conftest import asks_about

LAUNCHED = {
    "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "ROLE_RANK": "1", "ROLE_NAME": "default", "ROLE_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1",
    "TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_USE_AGENT_STORE": "True", "CUDA_VISIBLE_DEVICES": "5,7",
}  # fmt: skip
"""What torchrun tells its second process."""


@pytest.fixture(scope="module")
def plugged(tmp_path_factory):
    """The faulty wrappers installed for child processes."""
    folder = write_distribution(
        tmp_path_factory.mktemp("plug-in"), "faulty", {"faulty": "tests.vlm.peer.plug_in:manifests"}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        yield


@pytest.fixture(scope="module")
def faulty(plugged):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LAUNCHED.items():
            patch.setenv(name, value)
        vlm = ModelChoice("lmms:faulty?word=a b,force_simple=True", dtype="bfloat16", device="cuda:1").load()
    yield vlm
    vlm.close()


@pytest.fixture
def square():
    return Image.new("RGB", (6, 6))


def said(vlm, image, *prompts, tokens=8):
    replies = vlm.answer(vlm.encode([image]), [Ask(p, 0, tokens) for p in prompts])
    assert all((r.text is None) == (r.error is not None) for r in replies)
    return [r.error if r.text is None else r.text for r in replies]


@pytest.mark.slow
@needs_lmms_eval
class TestFaults:
    def test_settings_reach_a_wrapper_that_has_a_name_for_them(self, faulty, square):
        assert said(faulty, square, "settings") == ["bfloat16 cuda 1 a b"]
        assert said(faulty, square, "tokens", tokens=5) == ["5"]
        assert faulty.describe()["interface"] == "simple"

    def test_a_wrapper_is_no_rank_of_its_parents_launch_and_sees_its_parents_gpu_alone(self, faulty, square):
        assert said(faulty, square, "environment") == ["CUDA_VISIBLE_DEVICES=7"]

    def test_answers_come_in_order_about_the_image_that_was_asked_about(self, faulty):
        images = faulty.encode([Image.new("RGB", (4, 5)), Image.new("RGB", (7, 8))])
        asks = [Ask("a", 1), Ask("b", None), Ask("c", 0), Ask("a", 0)]
        assert [r.text for r in faulty.answer(images, asks)] == ["a (7, 8)", "b blind", "c (4, 5)", "a (4, 5)"]

    def test_what_generate_raised_is_an_error_though_the_wrapper_says_nothing(self, faulty, square):
        good, bad, also = said(faulty, square, "one", "raise two", "raise with text")
        assert good == "one (6, 6)"
        assert bad == "the wrapper's model failed: ValueError: planted fault on 'raise two'"
        assert also.startswith("the wrapper's model failed: ValueError")

    def test_an_empty_answer_is_an_error_where_the_wrapper_logs_or_prints_one(self, faulty, square):
        logged, printed, one = said(faulty, square, "log", "print", "one")
        assert logged == 'the wrapper returned "" and said: Error planted in the log in generating'
        assert printed == 'the wrapper returned "" and said: Exception: planted on stdout'
        assert one == "one (6, 6)"

    def test_an_empty_answer_without_any_sign_is_an_empty_answer(self, faulty, square):
        assert said(faulty, square, "silent", "one") == ["", "one (6, 6)"]

    def test_fewer_answers_than_questions_cost_only_those_that_have_none(self, faulty, square):
        first, dropped, last = said(faulty, square, "first", "drop", "last")
        assert (first, last) == ("first (6, 6)", "last (6, 6)")
        assert dropped == "the wrapper returned 0 answers to one question: []"
        assert "1 answers" in said(faulty, square, "nothing")[0]

    def test_what_a_wrapper_raises_costs_that_question_alone(self, faulty, square):
        assert said(faulty, square, "escape", "one") == ["RuntimeError: planted outside of generate", "one (6, 6)"]

    def test_no_options_can_be_ranked(self, faulty, square):
        with pytest.raises(NotSupported, match="lmms:faulty"):
            faulty.rank(faulty.encode([square]), [Ask("a", 0)], [["b"]])

    def test_a_chat_wrapper_gets_messages_and_a_dead_one_is_said_to_be(self, plugged, square, tmp_path):
        vlm = ModelChoice("lmms:faulty", device="cpu").load()
        assert said(vlm, square, "one") == ["one (chat) (6, 6)"]
        assert vlm.answer(vlm.encode([]), [Ask("b", None)])[0].text == "b (chat) blind"
        writer = AnswerWriter(tmp_path / "answers-00000.jsonl")
        groups = [Group(Shown(f"{n}", f"{n}"), (PlannedAsk(f"key {n}", "fork and die", 4),)) for n in range(5)]
        with pytest.raises(RunStopped, match="killed by signal 9"):
            run_groups(vlm, groups, lambda _: square, writer)
        writer.close()
        kept = load_answers([tmp_path / "answers-00000.jsonl"])
        assert {r.error.split(";")[0] for r in kept.values()} == {
            "RuntimeError: the wrapper's process was killed by signal 9"
        }
        vlm.close()

    def test_a_wrapper_that_cannot_be_loaded_says_why(self, plugged):
        with pytest.raises(CheckpointError, match="cannot be loaded by lmms-eval: OSError: no weights to be found"):
            ModelChoice("lmms:unloadable", device="cpu").load()


@pytest.mark.slow
@needs_lmms_eval
def test_llava_hf_answers_as_we_do_and_its_swallowed_error_is_a_record(checkpoint, pictures, tmp_path):
    folder = checkpoint("llava", seed=3)
    ours = HfVlm.load(folder, device="cpu")
    vlm = ModelChoice(f"lmms:llava_hf?pretrained={folder},device_map=cpu", device="cpu").load()
    try:
        for picture in pictures[:2]:
            expected = [r.text for r in ours.answer(ours.encode([picture]), asks_about(0))]
            replies = vlm.answer(vlm.encode([picture]), asks_about(0))
            assert [r.text for r in replies] == expected
            assert len(set(expected)) > 1
        # No new token: its generate raises, and the wrapper returns "".
        writer = AnswerWriter(tmp_path / "answers-00000.jsonl")
        group = Group(Shown("one", "one.png"), (PlannedAsk("key", "Is there a dog?", 0),))
        tally = run_groups(vlm, [group], lambda _: pictures[0], writer)
        writer.close()
        record = load_answers([tmp_path / "answers-00000.jsonl"])["key"]
        assert tally.errors == 1
        assert record.text is None
        assert "max_new_tokens" in record.error
    finally:
        vlm.close()
        ours.close()


@pytest.mark.slow
@needs_lmms_eval
def test_the_process_ends_with_the_session(plugged):
    vlm = ModelChoice("lmms:faulty", device="cpu").load()
    process, log = vlm._process, vlm._log
    vlm.close()
    assert process.poll() is not None
    assert not log.exists()


def test_what_a_child_has_started_ends_with_it(tmp_path):
    code = (
        "import subprocess,sys; p=subprocess.Popen([sys.executable,'-c','import time; time.sleep(60)']); print(p.pid)"
    )
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=log, start_new_session=True)
    process.wait()
    grandchild = int((tmp_path / "log").read_text())
    os.kill(grandchild, 0)
    children.finish(process, 1.0)
    assert_gone(grandchild)


def assert_gone(number):
    """The process ends within some seconds; as a zombie without a parent to reap it, it has."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if psutil.Process(number).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.05)
    pytest.fail(f"process {number} lives on")


@pytest.mark.parametrize(
    ("device", "given", "expected"),
    [
        ("cuda:1", {"WORLD_SIZE": "2"}, ("1", "cuda")),
        ("cuda:1", {"WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b"}, ("GPU-b", "cuda")),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "4,5"}, ("4,5", "cuda:1")),
        ("cuda", {"WORLD_SIZE": "2"}, (None, "cuda")),
        ("cpu", {"WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": "4"}, ("4", "cpu")),
    ],
)
def test_a_rank_s_wrapper_gets_the_rank_s_gpu(device, given, expected):
    variables, named = children.alone(
        {**LAUNCHED, "WORLD_SIZE": "1", "CUDA_VISIBLE_DEVICES": "", **given, "HOME": "h"}, device
    )
    assert (variables.get("CUDA_VISIBLE_DEVICES") or None, named) == expected
    assert set(variables) == {"HOME", "CUDA_VISIBLE_DEVICES"}


@needs_lmms_eval
class TestFingerprint:
    def test_a_folder_counts_by_content_and_other_arguments_by_text(self, checkpoint, copy_of):
        def parts(arguments, **choice):
            return ModelChoice(f"lmms:llava_hf?{arguments}", **choice).fingerprint()

        folder, same = checkpoint("llava"), copy_of()
        first = parts(f"pretrained={folder},device_map=cpu")
        assert parts(f"device_map=cpu,pretrained={same}") == first
        changed = copy_of(generation_config={"top_k": 7})
        assert parts(f"pretrained={changed},device_map=cpu").changed(first.parts) == ["pretrained generation_config"]
        assert parts(f"pretrained={folder},device_map=auto").changed(first.parts) == ["arguments"]
        assert parts(f"pretrained={folder},device_map=cpu", dtype="bfloat16").changed(first.parts) == ["dtype"]
        assert first.parts["lmms_eval"] == children.lmms_eval_version()
        assert first.parts["wrapper"] == "llava_hf"

    def test_any_file_of_a_folder_and_a_named_file_count(self, tmp_path, monkeypatch):
        monkeypatch.setattr(session, "_require_known", lambda name: None)
        folder, template = tmp_path / "model", tmp_path / "chat.jinja"
        (folder / "below" / ".cache").mkdir(parents=True)
        (folder / ".git").mkdir()
        (folder / "loop").symlink_to(folder)
        template.write_text("{{ a }}")
        for name in ("pytorch_model.bin", "modeling_own.py", "below/weights.pt", "config.json"):
            (folder / name).write_text("1")

        def parts():
            return ModelChoice(f"lmms:mine?pretrained={folder},chat_template={template},x=1").fingerprint()

        first = parts()
        assert parts() == first
        for path, part in {
            folder / "pytorch_model.bin": "pretrained other files",
            folder / "modeling_own.py": "pretrained other files",
            folder / "below/weights.pt": "pretrained other files",
            folder / "config.json": "pretrained config",
            template: "chat_template",
        }.items():
            path.write_text("2")
            assert parts().changed(first.parts) == [part], path
            path.write_text("1" if path != template else "{{ a }}")
            assert parts() == first
        for aside in (".git/index", "below/.cache/x"):
            (folder / aside).write_text("1")
        assert parts() == first
        (folder / "below/weights.pt").rename(folder / "weights.pt")
        assert parts().changed(first.parts) == ["pretrained other files"]

    def test_an_unknown_wrapper_is_refused_with_near_names(self):
        with pytest.raises(CheckpointError, match="no wrapper 'lava_hf'; near: llava_hf"):
            ModelChoice("lmms:lava_hf?pretrained=x").fingerprint()


@pytest.mark.parametrize(
    ("name", "template", "problem"),
    [
        ("lmms:", None, "name a wrapper"),
        ("lmms:?pretrained=x", None, "name a wrapper"),
        ("lmms:llava_hf?pretrained", None, "no KEY=VALUE"),
        ("lmms:llava_hf", "{{ x }}", "takes no --chat-template"),
    ],
)
def test_a_name_that_cannot_be_read_says_so(name, template, problem):
    with pytest.raises(CheckpointError, match=problem):
        Selector.of(ModelChoice(name, chat_template=template)).items()


@pytest.mark.parametrize(
    ("option", "value"), [("batch_size", 4), ("device_map", "auto"), ("concurrency", 3), ("timeout", 5.0)]
)
def test_an_option_that_no_wrapper_gets_is_refused(option, value):
    with pytest.raises(CheckpointError, match=f"takes no --{option.replace('_', '-')}; .* after the \\?"):
        ModelChoice("lmms:llava_hf?pretrained=x", **{option: value}).fingerprint()
    Selector.of(ModelChoice("lmms:llava_hf", dtype="bfloat16", device="cuda:1"))


@pytest.mark.parametrize(
    "key", ["api_key", "apiKey", "APIKEY", "hf_token", "token", "client_secret", "db_password", "key"]
)
def test_a_secret_is_refused_and_not_repeated(key):
    with pytest.raises(CheckpointError, match=f"argument '{key}' looks like a secret.*environment variable") as raised:
        ModelChoice(f"lmms:mine?x,pretrained=x, {key} = sk-SECRET", batch_size=3).fingerprint()
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize("arguments", ["pretrained=x,api-key=sk-SECRET", 'extra={"a": 1, "api_key": "sk-SECRET"}'])
def test_a_secret_inside_another_argument_is_refused_too(arguments):
    with pytest.raises(CheckpointError, match=r"argument 'api.key' looks like a secret"):
        Selector.of(ModelChoice(f"lmms:mine?{arguments}"))


def test_arguments_that_are_no_secrets_pass():
    names = [
        "max_new_tokens",
        "tokenizer",
        "token_merge_ratio",
        "image_token",
        "pad_token_id",
        "video_key",
        "key_frames",
    ]
    arguments = (
        ",".join(f"{name}=1" for name in names) + ",use_auth_token=True,reasoner_api_key_env=MY_KEY,url=http://h:8/v1"
    )
    assert len(Selector.of(ModelChoice(f"lmms:mine?{arguments}")).items()) == len(names) + 3


def test_commas_belong_to_the_value_unless_a_key_follows():
    selector = Selector.of(ModelChoice("lmms:x?pretrained=/a,b/c,max=3,words=yes,no, last = 1"))
    assert selector.items() == {"pretrained": "/a,b/c", "max": "3", "words": "yes,no", "last": "1"}


def test_without_lmms_eval_it_says_how_to_install_it(monkeypatch):
    def missing(_):
        raise children.metadata.PackageNotFoundError

    monkeypatch.setattr(children.metadata, "version", missing)
    with pytest.raises(CheckpointError, match=r'pip install "agevlm\[lmms\]"'):
        ModelChoice("lmms:llava_hf?pretrained=x").fingerprint()


def test_a_child_ends_when_its_parent_does(tmp_path):
    child = (
        "import os,sys,time; from agevlm.vlm.peer.children import end_with; end_with(int(sys.argv[1])); time.sleep(60)"
    )
    parent = (
        "import os,subprocess,sys,time;"
        f"p=subprocess.Popen([sys.executable,'-c',{child!r},str(os.getpid())]); print(p.pid,flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, env=children.environment()
    )
    number = int(process.stdout.readline())
    os.kill(number, 0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert_gone(number)
