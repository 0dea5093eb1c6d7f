"""Run by test_lmms_eval as a process: the simple class under lmms-eval, watched. TASKS MODEL OUT.json."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import json
import os
import signal
import sys
import threading
from pathlib import Path

from lmms_eval.api.instance import Instance
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager

from agevlm.vlm.choice import ModelChoice
from agevlm.vlm.contract import Reply, Vlm
from benchmarks.lmms.child import known_tasks, output_types, require_settings
from benchmarks.lmms.command import TASK_FILES
from benchmarks.lmms.model import AgeVlm
from benchmarks.run_folder import RunFolder


class Watched(AgeVlm):
    """Keeps what it was given before and after."""

    def generate_until(self, requests):
        self.before = [copy.deepcopy(r.args[1]) for r in requests]
        answers = super().generate_until(requests)
        self.after = [r.args[1] for r in requests]
        self.last = requests
        self.texts = [a.text for a in answers]
        self.loaded = self._vlm is not None
        return answers

    def loglikelihood(self, requests):
        self.losses = super().loglikelihood(requests)
        return self.losses


def requests_of(documents, settings):
    task_dict = {"made": {"test": documents}}
    arguments = [("Is there a cup?" + d["suffix"], settings, lambda d: d["images"]) for d in documents]
    made = [
        Instance("generate_until", (*a, n, "made", "test"), 0, {"task": "made", "doc_id": n, "repeats": 1})
        for n, a in enumerate(arguments)
    ]
    return task_dict, made


def refused(model, documents, settings):
    model.task_dict, made = requests_of(documents, settings)
    try:
        return str(model.generate_until(made))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


class Slow(Vlm):
    """As a served model: many groups under way, each waited for until the model is closed."""

    capabilities = frozenset({"blind"})
    parallel_groups = 4

    def __init__(self):
        self.closed = threading.Event()

    def encode(self, images):
        return images

    def answer(self, encoded, asks):
        if "cup?0" in asks[0].prompt:
            return [Reply("first", "eos") for _ in asks]
        os.kill(os.getpid(), signal.SIGINT)
        self.closed.wait(60)
        return [Reply.failed("closed") for _ in asks]

    def rank(self, encoded, asks, options):
        raise NotImplementedError

    def describe(self):
        return {}

    def close(self):
        self.closed.set()


def interrupted(name, documents):
    """What Ctrl-C leaves: whether the model was closed, and what is kept."""
    model = AgeVlm(pretrained=name, device="cpu", records="interrupted")
    first = documents[0]["images"][0]
    documents = [{"suffix": f"{n}", "images": [first.rotate(n)]} for n in range(3)]
    model.task_dict, made = requests_of(documents, {"max_new_tokens": 4, "temperature": 0})
    model._vlm = slow = Slow()
    said = io.StringIO()
    # A test run in the background of a shell inherits that interrupts are ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with contextlib.redirect_stderr(said):
            model.generate_until(made)
        ended = "no"
    except KeyboardInterrupt:
        ended = "yes"
    closed = slow.closed.is_set()
    slow.closed.set()
    kept = [r.text for r in RunFolder(Path("interrupted")).answers().values()]
    return {"ended": ended, "closed": closed, "kept": kept, "said": said.getvalue()}


def main() -> None:
    tasks, name, out = sys.argv[1:]
    seen: dict = {"classes": []}
    for simple in (False, True):
        kind = get_model("agevlm", force_simple=simple)
        seen["classes"].append(f"{kind.__module__}.{kind.__qualname__}")

    everything = TaskManager("ERROR", include_path=[str(TASK_FILES), tasks], model_name="agevlm")
    seen["names"] = known_tasks(["mmvp", "blink", "realworldqa", "hallusion_bench", "amber_g"], everything.all_tasks)
    seen["outputs"] = {
        name: sorted(set(output_types(everything, [name])))
        for name in ("blink", "mmvp", "agevlm_pope", "local_cvbench", "local_planted", "seedbench_ppl", "mmmu_val")
    }
    seen["ours"] = [name for name in everything.all_tasks if name.startswith("agevlm_")]

    model = Watched(pretrained=name, device="cpu", records="by-hand")
    manager = TaskManager("ERROR", include_path=tasks, include_defaults=False, model_name="agevlm")
    done = simple_evaluate(
        model=model, tasks=["local_planted", "local_pope_random"], task_manager=manager, bootstrap_iters=0
    )
    seen["planted"] = done["results"]["local_planted"]
    seen["losses"] = model.losses
    seen["settings_before"], seen["settings_after"] = model.before, model.after
    seen["loaded_before_clean"], seen["loaded_after_clean"] = model.loaded, model._vlm is not None
    seen["answers_before_clean"] = model.texts

    # The evaluator has called clean(): the same object must answer again, here from its records ...
    model.generate_until(model.last)
    seen["loaded_for_known_answers"] = model.loaded
    # ... and here from the model.
    model.records = dataclasses.replace(model.records, path=Path("by-hand-2"))
    model.generate_until(model.last)
    seen["answers_after_clean"] = model.texts

    picture = model.last[0].args[2](model.task_dict["local_pope_random"]["random"][0])[0]
    greedy = {"max_new_tokens": 4, "temperature": 0}
    seen["sampling"] = refused(model, [{"suffix": "", "images": [picture]}], {**greedy, "temperature": 0.7})
    seen["two_images"] = refused(model, [{"suffix": "", "images": [picture, picture]}], greedy)

    # Two documents whose image cannot be opened when its turn comes: all others are recorded first.
    class Fails(list):
        opened = 0

        def __iter__(self):
            self.opened += 1
            if self.opened > 1:
                raise OSError("planted fault")
            return super().__iter__()

    def documents():
        bad = picture.transpose(0)
        broken = [{"suffix": str(n), "images": Fails([bad])} for n in range(2)]
        # One image: both fall with it, whichever of the two is opened again.
        return broken + [{"suffix": str(n), "images": [picture]} for n in range(6)]

    faulty = AgeVlm(pretrained=name, device="cpu", records="faulty")
    seen["stopped"] = refused(faulty, documents(), greedy)
    kept = RunFolder(Path("faulty")).answers().values()
    seen["recorded_when_stopped"] = {
        "answers": sum(r.error is None for r in kept),
        "errors": sum(r.error is not None for r in kept),
    }
    lenient = AgeVlm(pretrained=name, device="cpu", records="lenient", on_error="empty")
    lenient.task_dict, made = requests_of(documents(), {**greedy, "repetition_penalty": 1.3})
    seen["empty_when_asked_for"] = [a.text for a in lenient.generate_until(made)]
    seen["missing"], seen["remarks"] = lenient.missing, lenient.remarks
    seen["interrupted"] = interrupted(name, documents()[2:])
    seen["refused_arguments"], seen["batch_sizes"] = [], []
    for arguments in (
        "dtype=float32",
        f"pretrained={name},on_error=ignore",
        f"pretrained={name},colour=blue",
        f"pretrained={name},batch_size=auto",
    ):
        try:
            AgeVlm.create_from_arg_string(arguments)
        except Exception as error:
            seen["refused_arguments"].append(f"{type(error).__name__}: {error}")
    seen["refused_settings"] = []
    for text in ("max_new_tokens", "max_new_tokens=0", "max_new_tokens=4,temperature=0", ""):
        try:
            seen["refused_settings"].append(require_settings(text))
        except Exception as error:
            seen["refused_settings"].append(f"{type(error).__name__}: {error}")
    for arguments, given in (
        ("", "1"),
        ("", 1),
        ("", "auto"),
        ("", "8"),
        (",batch_size=1", "8"),
        (",device=cpu", None),
    ):
        made = AgeVlm.create_from_arg_string(
            f"pretrained={name}{arguments}", {"batch_size": given, "device": "cpu", "max_batch_size": None}
        )
        seen["batch_sizes"].append(made.options.batch_size)
        assert made.choice.batch_size == made.options.batch_size or made.options.batch_size is None
    assert ModelChoice(name).fingerprint() == faulty.fingerprint
    Path(out).write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
